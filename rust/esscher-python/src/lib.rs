//! `esscher._core`: the kernels of `esscher-core` on arrays of `NumPy`. Arrays come in without a copy and go out new.
#![allow(clippy::needless_pass_by_value, reason = "arguments from Python arrive by value")]

mod gate;

use esscher_core::kl::{Estimator, Level};
use esscher_core::{Offsets, Ragged, Real, logprobs, pareto, resample, weights};
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

type Out<'py, T> = Bound<'py, PyArray1<T>>;

/// A token column: float32 or float64.
#[derive(FromPyObject)]
enum Column<'py> {
    F32(PyReadonlyArray1<'py, f32>),
    F64(PyReadonlyArray1<'py, f64>),
}

#[pyfunction]
#[pyo3(signature = (logprobs, offsets, threads=None))]
fn sequence_logprobs<'py>(
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
    let sums = gate::run(py, threads, || {
        logprobs::sequence_logprobs("logprobs", &Ragged::new("logprobs offsets", logprobs, offsets)?)
    })?;
    Ok(sums.into_pyarray(py))
}

#[pyfunction]
#[pyo3(signature = (policy_logprobs, prior_logprobs, offsets, estimator, level, threads=None))]
fn kl<'py>(
    py: Python<'py>,
    policy_logprobs: Column<'py>,
    prior_logprobs: Column<'py>,
    offsets: PyReadonlyArray1<'py, i64>,
    estimator: &str,
    level: &str,
    threads: Option<usize>,
) -> PyResult<Out<'py, f64>> {
    let offsets = offsets.as_slice()?;
    let (estimator, level) = gate::run(py, None, || Ok((estimator.parse()?, level.parse()?)))?;
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
    let values = gate::run(py, threads, || {
        let policy = Ragged::new("policy_logprobs offsets", policy, offsets)?;
        esscher_core::kl::kl(&policy, &Ragged::new("prior_logprobs offsets", prior, offsets)?, estimator, level)
    })?;
    Ok(values.into_pyarray(py))
}

#[pyfunction]
fn log_ratios<'py>(
    py: Python<'py>,
    log_target: PyReadonlyArray1<'py, f64>,
    log_proposal: PyReadonlyArray1<'py, f64>,
) -> PyResult<Out<'py, f64>> {
    let (log_target, log_proposal) = (log_target.as_slice()?, log_proposal.as_slice()?);
    Ok(gate::run(py, None, || weights::log_ratios(log_target, log_proposal))?.into_pyarray(py))
}

#[pyfunction]
#[pyo3(signature = (log_ratios, groups, threads=None))]
fn normalise<'py>(
    py: Python<'py>,
    log_ratios: PyReadonlyArray1<'py, f64>,
    groups: PyReadonlyArray1<'py, i64>,
    threads: Option<usize>,
) -> PyResult<(Out<'py, f64>, Out<'py, f64>, Out<'py, f64>)> {
    let (log_ratios, groups) = (log_ratios.as_slice()?, groups.as_slice()?);
    let got =
        gate::run(py, threads, || weights::normalise(log_ratios, &Offsets::new("groups", groups, log_ratios.len())?))?;
    Ok((got.log_weights.into_pyarray(py), got.log_z.into_pyarray(py), got.ess.into_pyarray(py)))
}

#[pyfunction]
#[pyo3(signature = (log_ratios, groups, tail_rule, threads=None))]
fn pareto_smooth<'py>(
    py: Python<'py>,
    log_ratios: PyReadonlyArray1<'py, f64>,
    groups: PyReadonlyArray1<'py, i64>,
    tail_rule: &str,
    threads: Option<usize>,
) -> PyResult<(Out<'py, f64>, Out<'py, f64>)> {
    let (log_ratios, groups) = (log_ratios.as_slice()?, groups.as_slice()?);
    let (smoothed, k) = gate::run(py, threads, || {
        pareto::smooth(log_ratios, &Offsets::new("groups", groups, log_ratios.len())?, tail_rule.parse()?)
    })?;
    Ok((smoothed.into_pyarray(py), k.into_pyarray(py)))
}

#[pyfunction(name = "resample")]
#[pyo3(signature = (log_weights, groups, uniforms, threads=None))]
fn resample_indices<'py>(
    py: Python<'py>,
    log_weights: PyReadonlyArray1<'py, f64>,
    groups: PyReadonlyArray1<'py, i64>,
    uniforms: PyReadonlyArray1<'py, f64>,
    threads: Option<usize>,
) -> PyResult<Out<'py, i64>> {
    let (log_weights, groups, uniforms) = (log_weights.as_slice()?, groups.as_slice()?, uniforms.as_slice()?);
    let drawn = gate::run(py, threads, || {
        resample::resample(log_weights, &Offsets::new("groups", groups, log_weights.len())?, uniforms)
    })?;
    Ok(drawn.into_pyarray(py))
}

#[pyfunction]
#[pyo3(signature = (token_ids, offsets, groups, n, threads=None))]
fn distinct<'py>(
    py: Python<'py>,
    token_ids: PyReadonlyArray1<'py, u32>,
    offsets: PyReadonlyArray1<'py, i64>,
    groups: PyReadonlyArray1<'py, i64>,
    n: usize,
    threads: Option<usize>,
) -> PyResult<Out<'py, f64>> {
    let (token_ids, offsets, groups) = (token_ids.as_slice()?, offsets.as_slice()?, groups.as_slice()?);
    let shares = gate::run(py, threads, || {
        let rows = Ragged::new("token_ids offsets", token_ids, offsets)?;
        esscher_core::distinct(&rows, &Offsets::new("groups", groups, rows.len())?, n)
    })?;
    Ok(shares.into_pyarray(py))
}

#[pyfunction]
#[pyo3(signature = (token_ids, offsets, groups, n, smoothing, threads=None))]
fn self_bleu<'py>(
    py: Python<'py>,
    token_ids: PyReadonlyArray1<'py, u32>,
    offsets: PyReadonlyArray1<'py, i64>,
    groups: PyReadonlyArray1<'py, i64>,
    n: usize,
    smoothing: &str,
    threads: Option<usize>,
) -> PyResult<Out<'py, f64>> {
    let (token_ids, offsets, groups) = (token_ids.as_slice()?, offsets.as_slice()?, groups.as_slice()?);
    let scores = gate::run(py, threads, || {
        let rows = Ragged::new("token_ids offsets", token_ids, offsets)?;
        esscher_core::self_bleu(&rows, &Offsets::new("groups", groups, rows.len())?, n, smoothing.parse()?)
    })?;
    Ok(scores.into_pyarray(py))
}

#[pyfunction]
fn top_ngrams<'py>(
    py: Python<'py>,
    token_ids: PyReadonlyArray1<'py, u32>,
    offsets: PyReadonlyArray1<'py, i64>,
    n: usize,
    k: usize,
) -> PyResult<(Out<'py, i64>, Out<'py, i64>)> {
    let (token_ids, offsets) = (token_ids.as_slice()?, offsets.as_slice()?);
    let top =
        gate::run(py, None, || esscher_core::top_ngrams(&Ragged::new("token_ids offsets", token_ids, offsets)?, n, k))?;
    Ok((top.starts.into_pyarray(py), top.counts.into_pyarray(py)))
}

/// Panics on purpose: the tests show by it that a panic arrives as an exception.
#[pyfunction]
fn panic(py: Python<'_>) -> PyResult<()> {
    gate::run(py, None, || panic!("on purpose"))
}

/// The module `esscher._core`.
#[pymodule]
mod _core {
    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "the name that Python gives it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_export]
    use super::{
        distinct, kl, log_ratios, normalise, panic, pareto_smooth, resample_indices, self_bleu, sequence_logprobs,
        top_ngrams,
    };
}
