//! Log-probs of tokens: their sums, and the KL estimators.

use esscher_core::kl::{Estimates, Level, Precision};
use esscher_core::{Bf16, Real, logprobs};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::{
    arrays::New,
    columns::{Column, Layout, Source, source},
    gate::{self, Threads},
};

type Aggregates = (New<f64>, New<f64>, New<i64>);
type Kl = (New<f64>, New<f64>, New<f64>, New<f64>);

#[pyfunction]
#[pyo3(signature = (logprobs, layout, threads=None))]
pub fn aggregate_logprobs(
    py: Python<'_>,
    logprobs: Column<'_>,
    layout: Layout<'_>,
    threads: Option<Threads>,
) -> PyResult<Aggregates> {
    match &logprobs {
        Column::F32(values) => aggregates_of(py, source(values, &layout)?, threads),
        Column::F64(values) => aggregates_of(py, source(values, &layout)?, threads),
        Column::Bf16(values) => aggregates_of(py, source(values, &layout)?.map(Bf16::from_bits), threads),
    }
}

fn aggregates_of<T: Real>(py: Python<'_>, logprobs: Source<'_, T>, threads: Option<Threads>) -> PyResult<Aggregates> {
    gate::run(py, threads, logprobs.len(), || {
        let got = logprobs::aggregate("logprobs", &*logprobs.rows("logprobs offsets")?)?;
        Ok((New(got.log_prob), New(got.mean), New(got.length)))
    })
}

#[pyfunction]
#[pyo3(signature = (policy_logprobs, policy_layout, prior_logprobs, prior_layout, level, precision, threads=None))]
#[allow(clippy::too_many_arguments, reason = "two columns, each with its layout")]
pub fn kl(
    py: Python<'_>,
    policy_logprobs: Column<'_>,
    policy_layout: Layout<'_>,
    prior_logprobs: Column<'_>,
    prior_layout: Layout<'_>,
    level: &str,
    precision: &str,
    threads: Option<Threads>,
) -> PyResult<Kl> {
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

fn kl_of<T: Real>(
    py: Python<'_>,
    policy: Source<'_, T>,
    prior: Source<'_, T>,
    (level, precision): (Level, Precision),
    threads: Option<Threads>,
) -> PyResult<Kl> {
    gate::run(py, threads, policy.len(), || {
        let (policy, prior) = (policy.rows("policy_logprobs offsets")?, prior.rows("prior_logprobs offsets")?);
        let Estimates { k1, k2, k3, abs } = esscher_core::kl::estimates(&*policy, &*prior, level, precision)?;
        Ok((New(k1), New(k2), New(k3), New(abs)))
    })
}
