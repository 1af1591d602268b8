//! Importance weights, their tail, and draws by them.

use esscher_core::weights::{self, Normaliser};
use esscher_core::{Offsets, Result, pareto, resample};
use numpy::{PyArray1, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::{
    arrays::{Array, New, with_grouped_values},
    gate::{self, Threads},
};

/// An array that `NumPy` allocated and a kernel filled.
type Filled<'py> = Bound<'py, PyArray1<f64>>;

#[pyfunction]
pub fn log_ratios(py: Python<'_>, log_target: Array<'_, f64>, log_proposal: Array<'_, f64>) -> PyResult<New<f64>> {
    let (log_target, log_proposal) = (log_target.as_slice()?, log_proposal.as_slice()?);
    gate::run(py, None, 0, || weights::log_ratios(log_target, log_proposal).map(New))
}

/// The logarithm of each weight, then log Z and effective sample size of each group.
#[pyfunction]
#[pyo3(signature = (log_ratios, groups, threads=None))]
pub fn normalise<'py>(
    py: Python<'py>,
    log_ratios: Array<'py, f64>,
    groups: Array<'py, i64>,
    threads: Option<Threads>,
) -> PyResult<(Filled<'py>, Filled<'py>, Filled<'py>)> {
    let (log_weights, (log_z, ess)) = filled(py, log_ratios.len(), |log_weights| {
        normalised(py, threads, &log_ratios, &groups, |log_ratios, groups, normaliser| {
            weights::normalise(log_ratios, groups, log_weights, normaliser)
        })
    })?;
    Ok((log_weights, log_z, ess))
}

/// Each weight, then log Z and effective sample size of each group.
#[pyfunction]
#[pyo3(signature = (rewards, beta, groups, threads=None))]
pub fn exponential_weights<'py>(
    py: Python<'py>,
    rewards: Array<'py, f64>,
    beta: f64,
    groups: Array<'py, i64>,
    threads: Option<Threads>,
) -> PyResult<(Filled<'py>, Filled<'py>, Filled<'py>)> {
    let (weights, (log_z, ess)) = filled(py, rewards.len(), |weights| {
        normalised(py, threads, &rewards, &groups, |rewards, groups, normaliser| {
            weights::exponential(rewards, beta, groups, weights, normaliser)
        })
    })?;
    Ok((weights, log_z, ess))
}

#[pyfunction]
#[pyo3(signature = (rewards, beta, groups, threads=None))]
pub fn log_normaliser<'py>(
    py: Python<'py>,
    rewards: Array<'py, f64>,
    beta: f64,
    groups: Array<'py, i64>,
    threads: Option<Threads>,
) -> PyResult<(Filled<'py>, Filled<'py>)> {
    normalised(py, threads, &rewards, &groups, |rewards, groups, normaliser| {
        weights::normalise_only(rewards, beta, groups, normaliser)
    })
}

/// A new array that `work` fills, and the result of `work`. `NumPy` allocates it, in huge pages and without writing to
/// them first.
fn filled<T>(py: Python<'_>, len: usize, work: impl FnOnce(&mut [f64]) -> PyResult<T>) -> PyResult<(Filled<'_>, T)> {
    let out: Filled<'_> = py.import("numpy")?.call_method1("empty", (len,))?.cast_into()?;
    let returned = work(out.readwrite().as_slice_mut()?)?;
    Ok((out, returned))
}

/// log Z and effective sample size of each group, as `work` fills them in.
fn normalised<'py>(
    py: Python<'py>,
    threads: Option<Threads>,
    values: &Array<'_, f64>,
    groups: &Array<'_, i64>,
    work: impl FnOnce(&[f64], &Offsets<'_>, Normaliser<'_>) -> Result<()> + Send,
) -> PyResult<(Filled<'py>, Filled<'py>)> {
    let n = groups.len().saturating_sub(1);
    let (log_z, (ess, ())) = filled(py, n, |log_z| {
        filled(py, n, |ess| {
            with_grouped_values(py, threads, (values, groups), 1, |values, groups| {
                work(values, groups, Normaliser { log_z, ess })
            })
        })
    })?;
    Ok((log_z, ess))
}

#[pyfunction]
#[pyo3(signature = (log_ratios, groups, tail_rule, threads=None))]
pub fn pareto_smooth<'py>(
    py: Python<'py>,
    log_ratios: Array<'py, f64>,
    groups: Array<'py, i64>,
    tail_rule: &str,
    threads: Option<Threads>,
) -> PyResult<(Filled<'py>, New<f64>)> {
    filled(py, log_ratios.len(), |smoothed| {
        with_grouped_values(py, threads, (&log_ratios, &groups), 1, |log_ratios, groups| {
            pareto::smooth(log_ratios, groups, tail_rule.parse()?, smoothed).map(New)
        })
    })
}

#[pyfunction(name = "resample")]
#[pyo3(signature = (log_weights, groups, uniforms, threads=None))]
pub fn resample_indices(
    py: Python<'_>,
    log_weights: Array<'_, f64>,
    groups: Array<'_, i64>,
    uniforms: Array<'_, f64>,
    threads: Option<Threads>,
) -> PyResult<New<i64>> {
    let uniforms = uniforms.as_slice()?;
    with_grouped_values(py, threads, (&log_weights, &groups), 1, |log_weights, groups| {
        resample::resample(log_weights, groups, uniforms).map(New)
    })
}
