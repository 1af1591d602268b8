//! Log-probs of tokens: their sums, and the KL estimators.

use esscher_core::kl::{Estimator, Level};
use esscher_core::{Ragged, Real, logprobs};
use numpy::{IntoPyArray, PyReadonlyArray1};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::{Out, gate};

/// A token column: float32 or float64.
#[derive(FromPyObject)]
pub enum Column<'py> {
    F32(PyReadonlyArray1<'py, f32>),
    F64(PyReadonlyArray1<'py, f64>),
}

#[pyfunction]
#[pyo3(signature = (logprobs, offsets, threads=None))]
pub fn sequence_logprobs<'py>(
    py: Python<'py>,
    logprobs: Column<'py>,
    offsets: PyReadonlyArray1<'py, i64>,
    threads: Option<usize>,
) -> PyResult<Out<'py, f64>> {
    let offsets = offsets.as_slice()?;
    match &logprobs {
        Column::F32(values) => sums_of(py, values.as_slice()?, offsets, threads),
        Column::F64(values) => sums_of(py, values.as_slice()?, offsets, threads),
    }
}

fn sums_of<'py, T: Real>(
    py: Python<'py>,
    logprobs: &[T],
    offsets: &[i64],
    threads: Option<usize>,
) -> PyResult<Out<'py, f64>> {
    let sums = gate::run(py, threads, logprobs.len(), || {
        logprobs::sequence_logprobs("logprobs", &Ragged::new("logprobs offsets", logprobs, offsets)?)
    })?;
    Ok(sums.into_pyarray(py))
}

#[pyfunction]
#[pyo3(signature = (policy_logprobs, prior_logprobs, offsets, estimator, level, threads=None))]
pub fn kl<'py>(
    py: Python<'py>,
    policy_logprobs: Column<'py>,
    prior_logprobs: Column<'py>,
    offsets: PyReadonlyArray1<'py, i64>,
    estimator: &str,
    level: &str,
    threads: Option<usize>,
) -> PyResult<Out<'py, f64>> {
    let offsets = offsets.as_slice()?;
    let (estimator, level) = gate::run(py, None, 0, || Ok((estimator.parse()?, level.parse()?)))?;
    match (&policy_logprobs, &prior_logprobs) {
        (Column::F32(policy), Column::F32(prior)) => {
            kl_of(py, (policy.as_slice()?, prior.as_slice()?), offsets, (estimator, level), threads)
        }
        (Column::F64(policy), Column::F64(prior)) => {
            kl_of(py, (policy.as_slice()?, prior.as_slice()?), offsets, (estimator, level), threads)
        }
        _ => Err(PyTypeError::new_err("policy_logprobs and prior_logprobs must have the same dtype")),
    }
}

fn kl_of<'py, T: Real>(
    py: Python<'py>,
    (policy, prior): (&[T], &[T]),
    offsets: &[i64],
    (estimator, level): (Estimator, Level),
    threads: Option<usize>,
) -> PyResult<Out<'py, f64>> {
    let values = gate::run(py, threads, policy.len(), || {
        let policy = Ragged::new("policy_logprobs offsets", policy, offsets)?;
        esscher_core::kl::kl(&policy, &Ragged::new("prior_logprobs offsets", prior, offsets)?, estimator, level)
    })?;
    Ok(values.into_pyarray(py))
}
