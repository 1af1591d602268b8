//! Importance weights, their tail, and draws by them.

use esscher_core::weights::Normaliser;
use esscher_core::{Offsets, pareto, weights};
use numpy::{IntoPyArray, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::{
    Out,
    gate::{self, Threads},
};

/// What is given to each sample, then log Z and effective sample size of each group.
type Weighted<'py> = (Out<'py, f64>, Out<'py, f64>, Out<'py, f64>);

#[pyfunction]
pub fn log_ratios<'py>(
    py: Python<'py>,
    log_target: PyReadonlyArray1<'py, f64>,
    log_proposal: PyReadonlyArray1<'py, f64>,
) -> PyResult<Out<'py, f64>> {
    let (log_target, log_proposal) = (log_target.as_slice()?, log_proposal.as_slice()?);
    Ok(gate::run(py, None, 0, || weights::log_ratios(log_target, log_proposal))?.into_pyarray(py))
}

#[pyfunction]
#[pyo3(signature = (log_ratios, groups, threads=None))]
pub fn normalise<'py>(
    py: Python<'py>,
    log_ratios: PyReadonlyArray1<'py, f64>,
    groups: PyReadonlyArray1<'py, i64>,
    threads: Option<Threads>,
) -> PyResult<Weighted<'py>> {
    let (log_ratios, groups) = (log_ratios.as_slice()?, groups.as_slice()?);
    let n = log_ratios.len();
    let (log_weights, (log_z, ess)) = written(py, n, |log_weights| {
        normalised(py, groups.len(), |normaliser| {
            gate::run(py, threads, n, || {
                weights::normalise(log_ratios, &Offsets::new("groups", groups, n)?, log_weights, normaliser)
            })
        })
    })?;
    Ok((log_weights, log_z, ess))
}

#[pyfunction]
#[pyo3(signature = (rewards, beta, groups, threads=None))]
pub fn exponential_weights<'py>(
    py: Python<'py>,
    rewards: PyReadonlyArray1<'py, f64>,
    beta: f64,
    groups: PyReadonlyArray1<'py, i64>,
    threads: Option<Threads>,
) -> PyResult<Weighted<'py>> {
    let (rewards, groups) = (rewards.as_slice()?, groups.as_slice()?);
    let n = rewards.len();
    let (weights, (log_z, ess)) = written(py, n, |weights| {
        normalised(py, groups.len(), |normaliser| {
            gate::run(py, threads, n, || {
                weights::exponential(rewards, beta, &Offsets::new("groups", groups, n)?, weights, normaliser)
            })
        })
    })?;
    Ok((weights, log_z, ess))
}

#[pyfunction]
#[pyo3(signature = (rewards, beta, groups, threads=None))]
pub fn log_normaliser<'py>(
    py: Python<'py>,
    rewards: PyReadonlyArray1<'py, f64>,
    beta: f64,
    groups: PyReadonlyArray1<'py, i64>,
    threads: Option<Threads>,
) -> PyResult<(Out<'py, f64>, Out<'py, f64>)> {
    let (rewards, groups) = (rewards.as_slice()?, groups.as_slice()?);
    let n = rewards.len();
    normalised(py, groups.len(), |normaliser| {
        gate::run(py, threads, n, || {
            weights::normalise_only(rewards, beta, &Offsets::new("groups", groups, n)?, normaliser)
        })
    })
}

/// A new array that `work` fills, and what it returns. `NumPy` allocates it: it asks for huge pages, and does not write
/// to them first.
fn written<T>(py: Python<'_>, len: usize, work: impl FnOnce(&mut [f64]) -> PyResult<T>) -> PyResult<(Out<'_, f64>, T)> {
    let out: Out<'_, f64> = py.import("numpy")?.call_method1("empty", (len,))?.cast_into()?;
    let returned = work(out.readwrite().as_slice_mut()?)?;
    Ok((out, returned))
}

/// log Z and effective sample size of each group, as `work` fills them in.
fn normalised(
    py: Python<'_>,
    offsets: usize,
    work: impl FnOnce(Normaliser<'_>) -> PyResult<()>,
) -> PyResult<(Out<'_, f64>, Out<'_, f64>)> {
    let groups = offsets.saturating_sub(1);
    let (log_z, (ess, ())) = written(py, groups, |log_z| written(py, groups, |ess| work(Normaliser { log_z, ess })))?;
    Ok((log_z, ess))
}

#[pyfunction]
#[pyo3(signature = (log_ratios, groups, tail_rule, threads=None))]
pub fn pareto_smooth<'py>(
    py: Python<'py>,
    log_ratios: PyReadonlyArray1<'py, f64>,
    groups: PyReadonlyArray1<'py, i64>,
    tail_rule: &str,
    threads: Option<Threads>,
) -> PyResult<(Out<'py, f64>, Out<'py, f64>)> {
    let (log_ratios, groups) = (log_ratios.as_slice()?, groups.as_slice()?);
    let n = log_ratios.len();
    let (smoothed, k) = written(py, n, |smoothed| {
        gate::run(py, threads, n, || {
            pareto::smooth(log_ratios, &Offsets::new("groups", groups, n)?, tail_rule.parse()?, smoothed)
        })
    })?;
    Ok((smoothed, k.into_pyarray(py)))
}

#[pyfunction(name = "resample")]
#[pyo3(signature = (log_weights, groups, uniforms, threads=None))]
pub fn resample_indices<'py>(
    py: Python<'py>,
    log_weights: PyReadonlyArray1<'py, f64>,
    groups: PyReadonlyArray1<'py, i64>,
    uniforms: PyReadonlyArray1<'py, f64>,
    threads: Option<Threads>,
) -> PyResult<Out<'py, i64>> {
    let (log_weights, groups, uniforms) = (log_weights.as_slice()?, groups.as_slice()?, uniforms.as_slice()?);
    let drawn = gate::run(py, threads, log_weights.len(), || {
        esscher_core::resample::resample(log_weights, &Offsets::new("groups", groups, log_weights.len())?, uniforms)
    })?;
    Ok(drawn.into_pyarray(py))
}
