//! The prior's tilts, for many beta at once.

use esscher_core::{pareto, tilts};
use pyo3::prelude::*;

use crate::{
    arrays::{Array, New, with_grouped_values},
    gate::Threads,
};

#[pyfunction]
#[pyo3(signature = (rewards, betas, groups, threads=None))]
pub fn tilt_sums(
    py: Python<'_>,
    rewards: Array<'_, f64>,
    betas: Array<'_, f64>,
    groups: Array<'_, i64>,
    threads: Option<Threads>,
) -> PyResult<(New<f64>, New<f64>)> {
    let betas = betas.as_slice()?;
    with_grouped_values(py, threads, (&rewards, &groups), betas.len(), |rewards, groups| {
        let maxima = tilts::maxima(rewards, groups)?;
        let sums = tilts::sums(rewards, betas, groups, &maxima)?;
        Ok((New(maxima), New(sums)))
    })
}

#[pyfunction]
#[pyo3(signature = (rewards, betas, groups, maxima, sums, threads=None))]
pub fn tilt_excess(
    py: Python<'_>,
    rewards: Array<'_, f64>,
    betas: Array<'_, f64>,
    groups: Array<'_, i64>,
    maxima: Array<'_, f64>,
    sums: Array<'_, f64>,
    threads: Option<Threads>,
) -> PyResult<New<f64>> {
    let (betas, maxima, sums) = (betas.as_slice()?, maxima.as_slice()?, sums.as_slice()?);
    with_grouped_values(py, threads, (&rewards, &groups), betas.len(), |rewards, groups| {
        tilts::excess(rewards, betas, groups, maxima, sums).map(New)
    })
}

#[pyfunction]
#[pyo3(signature = (rewards, betas, groups, tail_rule, threads=None))]
pub fn tilt_shapes(
    py: Python<'_>,
    rewards: Array<'_, f64>,
    betas: Array<'_, f64>,
    groups: Array<'_, i64>,
    tail_rule: &str,
    threads: Option<Threads>,
) -> PyResult<New<f64>> {
    let betas = betas.as_slice()?;
    with_grouped_values(py, threads, (&rewards, &groups), 1, |rewards, groups| {
        pareto::shapes(rewards, betas, groups, tail_rule.parse()?).map(New)
    })
}
