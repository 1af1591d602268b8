//! The one way from Python into the kernels.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use esscher_core::{Error, Result};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use rayon::ThreadPoolBuilder;

/// Run `work` without the GIL, on `threads` threads (all cores if `None`).
///
/// A broken rule becomes `ValueError`; a panic, which would be a bug of ours, becomes `RuntimeError` and never crosses.
pub fn run<T: Send>(py: Python<'_>, threads: Option<usize>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    match py.detach(|| catch_unwind(AssertUnwindSafe(|| on_threads(threads, work)))) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(PyValueError::new_err(error.to_string())),
        Err(panic) => Err(PyRuntimeError::new_err(format!("a kernel panicked, which is a bug: {}", text(&*panic)))),
    }
}

fn on_threads<T: Send>(threads: Option<usize>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    match threads {
        None => work(),
        Some(0) => Err(Error::Range { name: "threads", value: 0.0, rule: "at least 1" }),
        Some(n) => ThreadPoolBuilder::new().num_threads(n).build().expect("threads can be started").install(work),
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
