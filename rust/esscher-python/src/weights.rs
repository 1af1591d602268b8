//! Importance weights, their tail, and draws by them.

use esscher_core::{Offsets, pareto, weights};
use numpy::{IntoPyArray, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::{Out, gate};

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
) -> PyResult<(Out<'py, f64>, Out<'py, f64>, Out<'py, f64>)> {
    let (log_ratios, groups) = (log_ratios.as_slice()?, groups.as_slice()?);
    let got = gate::run(py, threads, log_ratios.len(), || {
        weights::normalise(log_ratios, &Offsets::new("groups", groups, log_ratios.len())?)
    })?;
    Ok((got.log_weights.into_pyarray(py), got.log_z.into_pyarray(py), got.ess.into_pyarray(py)))
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
    let (smoothed, k) = gate::run(py, threads, log_ratios.len(), || {
        pareto::smooth(log_ratios, &Offsets::new("groups", groups, log_ratios.len())?, tail_rule.parse()?)
    })?;
    Ok((smoothed.into_pyarray(py), k.into_pyarray(py)))
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
