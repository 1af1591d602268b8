//! The prior's tilts, for many beta at once.

use esscher_core::{Offsets, pareto, tilts};
use numpy::{IntoPyArray, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::{
    Out,
    gate::{self, Threads},
};

#[pyfunction]
#[pyo3(signature = (rewards, betas, groups, threads=None))]
pub fn tilt_sums<'py>(
    py: Python<'py>,
    rewards: PyReadonlyArray1<'py, f64>,
    betas: PyReadonlyArray1<'py, f64>,
    groups: PyReadonlyArray1<'py, i64>,
    threads: Option<Threads>,
) -> PyResult<(Out<'py, f64>, Out<'py, f64>)> {
    let (rewards, betas, groups) = (rewards.as_slice()?, betas.as_slice()?, groups.as_slice()?);
    let (maxima, sums) = gate::run(py, threads, rewards.len() * betas.len(), || {
        let groups = Offsets::new("groups", groups, rewards.len())?;
        let maxima = tilts::maxima(rewards, &groups)?;
        let sums = tilts::sums(rewards, betas, &groups, &maxima)?;
        Ok((maxima, sums))
    })?;
    Ok((maxima.into_pyarray(py), sums.into_pyarray(py)))
}

#[pyfunction]
#[pyo3(signature = (rewards, betas, groups, maxima, sums, threads=None))]
pub fn tilt_excess<'py>(
    py: Python<'py>,
    rewards: PyReadonlyArray1<'py, f64>,
    betas: PyReadonlyArray1<'py, f64>,
    groups: PyReadonlyArray1<'py, i64>,
    maxima: PyReadonlyArray1<'py, f64>,
    sums: PyReadonlyArray1<'py, f64>,
    threads: Option<Threads>,
) -> PyResult<Out<'py, f64>> {
    let (rewards, betas, groups) = (rewards.as_slice()?, betas.as_slice()?, groups.as_slice()?);
    let (maxima, sums) = (maxima.as_slice()?, sums.as_slice()?);
    let excess = gate::run(py, threads, rewards.len() * betas.len(), || {
        tilts::excess(rewards, betas, &Offsets::new("groups", groups, rewards.len())?, maxima, sums)
    })?;
    Ok(excess.into_pyarray(py))
}

#[pyfunction]
#[pyo3(signature = (rewards, betas, groups, tail_rule, threads=None))]
pub fn tilt_shapes<'py>(
    py: Python<'py>,
    rewards: PyReadonlyArray1<'py, f64>,
    betas: PyReadonlyArray1<'py, f64>,
    groups: PyReadonlyArray1<'py, i64>,
    tail_rule: &str,
    threads: Option<Threads>,
) -> PyResult<Out<'py, f64>> {
    let (rewards, betas, groups) = (rewards.as_slice()?, betas.as_slice()?, groups.as_slice()?);
    let shapes = gate::run(py, threads, rewards.len(), || {
        pareto::shapes(rewards, betas, &Offsets::new("groups", groups, rewards.len())?, tail_rule.parse()?)
    })?;
    Ok(shapes.into_pyarray(py))
}
