//! Importance weights, their tail, and draws by them.

use esscher_core::weights::Normaliser;
use esscher_core::{Offsets, Result, pareto, weights};
use numpy::{IntoPyArray, PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::{Out, gate};

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
    threads: Option<usize>,
) -> PyResult<Weighted<'py>> {
    let (log_ratios, groups) = (log_ratios.as_slice()?, groups.as_slice()?);
    let (log_weights, Normaliser { log_z, ess }) = written(py, log_ratios.len(), threads, |log_weights| {
        weights::normalise(log_ratios, &Offsets::new("groups", groups, log_ratios.len())?, log_weights)
    })?;
    Ok((log_weights, log_z.into_pyarray(py), ess.into_pyarray(py)))
}

#[pyfunction]
#[pyo3(signature = (rewards, beta, groups, threads=None))]
pub fn exponential_weights<'py>(
    py: Python<'py>,
    rewards: PyReadonlyArray1<'py, f64>,
    beta: f64,
    groups: PyReadonlyArray1<'py, i64>,
    threads: Option<usize>,
) -> PyResult<Weighted<'py>> {
    let (rewards, groups) = (rewards.as_slice()?, groups.as_slice()?);
    let (weights, Normaliser { log_z, ess }) = written(py, rewards.len(), threads, |weights| {
        weights::exponential(rewards, beta, &Offsets::new("groups", groups, rewards.len())?, weights)
    })?;
    Ok((weights, log_z.into_pyarray(py), ess.into_pyarray(py)))
}

/// What `work` writes for each sample, and what it returns. `NumPy` allocates the first: it asks for huge pages.
fn written<T: Send>(
    py: Python<'_>,
    samples: usize,
    threads: Option<usize>,
    work: impl FnOnce(&mut [f64]) -> Result<T> + Send,
) -> PyResult<(Out<'_, f64>, T)> {
    let out = PyArray1::zeros(py, samples, false);
    let returned = {
        let mut out = out.readwrite();
        let out = out.as_slice_mut()?;
        gate::run(py, threads, samples, || work(out))?
    };
    Ok((out, returned))
}

#[pyfunction]
#[pyo3(signature = (rewards, beta, groups, threads=None))]
pub fn log_normaliser<'py>(
    py: Python<'py>,
    rewards: PyReadonlyArray1<'py, f64>,
    beta: f64,
    groups: PyReadonlyArray1<'py, i64>,
    threads: Option<usize>,
) -> PyResult<(Out<'py, f64>, Out<'py, f64>)> {
    let (rewards, groups) = (rewards.as_slice()?, groups.as_slice()?);
    let Normaliser { log_z, ess } = gate::run(py, threads, rewards.len(), || {
        weights::normaliser(rewards, beta, &Offsets::new("groups", groups, rewards.len())?)
    })?;
    Ok((log_z.into_pyarray(py), ess.into_pyarray(py)))
}

#[pyfunction]
#[pyo3(signature = (log_ratios, groups, tail_rule, threads=None))]
pub fn pareto_smooth<'py>(
    py: Python<'py>,
    log_ratios: PyReadonlyArray1<'py, f64>,
    groups: PyReadonlyArray1<'py, i64>,
    tail_rule: &str,
    threads: Option<usize>,
) -> PyResult<(Out<'py, f64>, Out<'py, f64>)> {
    let (log_ratios, groups) = (log_ratios.as_slice()?, groups.as_slice()?);
    let (smoothed, k) = written(py, log_ratios.len(), threads, |smoothed| {
        let groups = Offsets::new("groups", groups, log_ratios.len())?;
        pareto::smooth(log_ratios, &groups, tail_rule.parse()?, smoothed)
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
    threads: Option<usize>,
) -> PyResult<Out<'py, i64>> {
    let (log_weights, groups, uniforms) = (log_weights.as_slice()?, groups.as_slice()?, uniforms.as_slice()?);
    let drawn = gate::run(py, threads, log_weights.len(), || {
        esscher_core::resample::resample(log_weights, &Offsets::new("groups", groups, log_weights.len())?, uniforms)
    })?;
    Ok(drawn.into_pyarray(py))
}
