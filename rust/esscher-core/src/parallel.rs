//! How work is spread over threads: in a rayon pool over its threads, elsewhere on the thread that called.
//!
//! The kernels never start threads of their own, and never touch rayon's global pool, which does not survive a fork.
//! Run them inside `ThreadPool::install` to use a pool. Results do not depend on it. One core saturates the memory: a
//! second one gained nothing where memory is the limit, and a factor of 2 where arithmetic is (exponentials, hashing).

use rayon::prelude::*;

/// `f(0), f(1), ...`, in order.
pub(crate) fn map<T: Send>(len: usize, f: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
    if rayon::current_thread_index().is_some() {
        (0..len).into_par_iter().map(f).collect()
    } else {
        (0..len).map(f).collect()
    }
}

/// As [`map`], over items that `f` takes by value.
pub(crate) fn map_each<I: Send, T: Send>(items: Vec<I>, f: impl Fn(I) -> T + Sync + Send) -> Vec<T> {
    if rayon::current_thread_index().is_some() {
        items.into_par_iter().map(f).collect()
    } else {
        items.into_iter().map(f).collect()
    }
}
