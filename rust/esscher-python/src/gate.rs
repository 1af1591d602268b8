//! The one way from Python into the kernels.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::available_parallelism;

use esscher_core::Result;
use pyo3::exceptions::{PyOverflowError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// The most threads of a pool: more are a mistake, and would stay alive.
const MOST_THREADS: i64 = 1024;

/// How many threads a caller asks for.
#[derive(Clone, Copy)]
pub struct Threads(usize);

impl<'py> FromPyObject<'_, 'py> for Threads {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match object.extract::<i64>() {
            Ok(threads) if (1..=MOST_THREADS).contains(&threads) => Ok(Self(threads as usize)),
            Err(error) if !error.is_instance_of::<PyOverflowError>(object.py()) => Err(error),
            _ => Err(PyValueError::new_err(format!("threads is {}: it must be 1 to {MOST_THREADS}", object.str()?))),
        }
    }
}

/// Work on fewer values than this is done on the caller's thread: it is faster than waking another.
const WORTH_A_THREAD: usize = 1 << 16;

/// Run `work`, which reads about `values` values, without the GIL, on `threads` threads (if `None`: on all cores if
/// that is worth it).
///
/// A broken rule becomes `ValueError`; a panic, which would be a bug of ours, becomes `RuntimeError` and never crosses.
pub fn run<T: Send>(
    py: Python<'_>,
    threads: Option<Threads>,
    values: usize,
    work: impl FnOnce() -> Result<T> + Send,
) -> PyResult<T> {
    match py.detach(|| catch_unwind(AssertUnwindSafe(|| on_threads(threads, values, work)))) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(PyValueError::new_err(error.to_string())),
        Err(panic) => Err(PyRuntimeError::new_err(format!("a kernel panicked, which is a bug: {}", text(&*panic)))),
    }
}

fn on_threads<T: Send>(threads: Option<Threads>, values: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let threads = match threads {
        Some(Threads(n)) => n,
        None if values < WORTH_A_THREAD => 1,
        None => available_parallelism().map_or(1, usize::from),
    };
    if threads == 1 { work() } else { pool(threads).install(work) }
}

/// Thread pools by process and number of threads.
type Pools = HashMap<(u32, usize), Arc<ThreadPool>>;

/// The pool of so many threads. A forked process has none of its parent's threads, so each process has its own pools.
fn pool(threads: usize) -> Arc<ThreadPool> {
    static POOLS: LazyLock<Mutex<Pools>> = LazyLock::new(Mutex::default);
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    let build = || Arc::new(ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started"));
    Arc::clone(pools.entry((std::process::id(), threads)).or_insert_with(build))
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
