//! Log-probs of tokens: their sums, and the KL estimators.

use esscher_core::kl::{Estimates, Level, Precision};
use esscher_core::{Bf16, Real, logprobs};
use numpy::IntoPyArray;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::columns::{Column, Layout, Source, source};
use crate::{
    Out,
    gate::{self, Threads},
};

type Aggregates<'py> = (Out<'py, f64>, Out<'py, f64>, Out<'py, i64>);
type Kl<'py> = (Out<'py, f64>, Out<'py, f64>, Out<'py, f64>, Out<'py, f64>);

#[pyfunction]
#[pyo3(signature = (logprobs, layout, threads=None))]
pub fn aggregate_logprobs<'py>(
    py: Python<'py>,
    logprobs: Column<'py>,
    layout: Layout<'py>,
    threads: Option<Threads>,
) -> PyResult<Aggregates<'py>> {
    match &logprobs {
        Column::F32(values) => aggregates_of(py, source(values, &layout)?, threads),
        Column::F64(values) => aggregates_of(py, source(values, &layout)?, threads),
        Column::Bf16(values) => aggregates_of(py, source(values, &layout)?.map(Bf16::from_bits), threads),
    }
}

fn aggregates_of<'py, T: Real>(
    py: Python<'py>,
    logprobs: Source<'_, T>,
    threads: Option<Threads>,
) -> PyResult<Aggregates<'py>> {
    let got = gate::run(py, threads, logprobs.len(), || {
        logprobs::aggregate("logprobs", &*logprobs.rows("logprobs offsets")?)
    })?;
    Ok((got.log_prob.into_pyarray(py), got.mean.into_pyarray(py), got.length.into_pyarray(py)))
}

#[pyfunction]
#[pyo3(signature = (policy_logprobs, policy_layout, prior_logprobs, prior_layout, level, precision, threads=None))]
#[allow(clippy::too_many_arguments, reason = "two columns, each with its layout")]
pub fn kl<'py>(
    py: Python<'py>,
    policy_logprobs: Column<'py>,
    policy_layout: Layout<'py>,
    prior_logprobs: Column<'py>,
    prior_layout: Layout<'py>,
    level: &str,
    precision: &str,
    threads: Option<Threads>,
) -> PyResult<Kl<'py>> {
    let how = gate::run(py, None, 0, || Ok((level.parse()?, precision.parse()?)))?;
    match (&policy_logprobs, &prior_logprobs) {
        (Column::F32(policy), Column::F32(prior)) => {
            kl_of(py, source(policy, &policy_layout)?, source(prior, &prior_layout)?, how, threads)
        }
        (Column::F64(policy), Column::F64(prior)) => {
            kl_of(py, source(policy, &policy_layout)?, source(prior, &prior_layout)?, how, threads)
        }
        (Column::Bf16(policy), Column::Bf16(prior)) => {
            let (policy, prior) = (source(policy, &policy_layout)?, source(prior, &prior_layout)?);
            kl_of(py, policy.map(Bf16::from_bits), prior.map(Bf16::from_bits), how, threads)
        }
        _ => Err(PyTypeError::new_err("policy_logprobs and prior_logprobs must have the same dtype")),
    }
}

fn kl_of<'py, T: Real>(
    py: Python<'py>,
    policy: Source<'_, T>,
    prior: Source<'_, T>,
    (level, precision): (Level, Precision),
    threads: Option<Threads>,
) -> PyResult<Kl<'py>> {
    let Estimates { k1, k2, k3, abs } = gate::run(py, threads, policy.len(), || {
        let (policy, prior) = (policy.rows("policy_logprobs offsets")?, prior.rows("prior_logprobs offsets")?);
        esscher_core::kl::estimates(&*policy, &*prior, level, precision)
    })?;
    Ok((k1.into_pyarray(py), k2.into_pyarray(py), k3.into_pyarray(py), abs.into_pyarray(py)))
}
