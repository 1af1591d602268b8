//! `esscher._core`: the kernels of `esscher-core` on arrays of `NumPy`. Arrays come in without a copy and go out new.
#![allow(clippy::needless_pass_by_value, reason = "arguments from Python arrive by value")]

mod arrays;
mod columns;
mod diversity;
mod gate;
mod json_lines;
mod logprobs;
mod tilts;
mod token_scores;
mod weights;

use pyo3::prelude::*;

/// Panic, so that a test can check that a panic arrives as an exception.
#[pyfunction]
fn panic(py: Python<'_>) -> PyResult<()> {
    gate::run(py, None, 0, || panic!("on purpose"))
}

/// The module `esscher._core`.
#[pymodule]
mod _core {
    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "the name that Python gives it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_export]
    const ROUNDING: f64 = esscher_core::logprobs::ROUNDING;

    #[pymodule_export]
    use super::{
        diversity::{distinct, distinct_without_each, ngram_statistics, self_bleu, top_ngrams, top_weighted_ngrams},
        json_lines::{JsonLines, read_json_lines},
        logprobs::{aggregate_logprobs, kl},
        panic,
        tilts::{tilt_excess, tilt_shapes, tilt_sums},
        token_scores::token_scores,
        weights::{exponential_weights, log_normaliser, log_ratios, normalise, pareto_smooth, resample_indices},
    };
}
