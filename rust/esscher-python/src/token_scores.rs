//! Log-probs, entropies and exact KL from logits.

use esscher_core::Bf16;
use esscher_core::token_scores::{Logit, Logits, PriorScores, TokenScores, token_scores as score};
use numpy::{Element, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::{
    arrays::{Array, New},
    gate::{self, Threads},
};

/// float32, or bfloat16 as the uint16 of its bits; a row per token.
#[derive(FromPyObject)]
pub enum Matrix<'py> {
    F32(PyReadonlyArray2<'py, f32>),
    Bf16(PyReadonlyArray2<'py, u16>),
}

type Columns = (New<f32>, New<f32>, Option<New<f32>>, Option<New<f32>>);

#[pyfunction]
#[pyo3(signature = (logits, token_ids, prior_logits=None, threads=None))]
pub fn token_scores(
    py: Python<'_>,
    logits: Matrix<'_>,
    token_ids: Array<'_, i64>,
    prior_logits: Option<Matrix<'_>>,
    threads: Option<Threads>,
) -> PyResult<Columns> {
    let ids = token_ids.as_slice()?;
    match (&logits, &prior_logits) {
        (Matrix::F32(logits), None) => columns(py, borrowed(logits)?, None, ids, threads),
        (Matrix::F32(logits), Some(Matrix::F32(prior))) => {
            columns(py, borrowed(logits)?, Some(borrowed(prior)?), ids, threads)
        }
        (Matrix::Bf16(logits), None) => columns(py, bf16(borrowed(logits)?), None, ids, threads),
        (Matrix::Bf16(logits), Some(Matrix::Bf16(prior))) => {
            columns(py, bf16(borrowed(logits)?), Some(bf16(borrowed(prior)?)), ids, threads)
        }
        _ => Err(PyTypeError::new_err("logits and prior_logits must have the same dtype")),
    }
}

fn borrowed<'a, T: Element>(logits: &'a PyReadonlyArray2<'_, T>) -> PyResult<Logits<'a, T>> {
    if !logits.is_c_contiguous() {
        return Err(PyValueError::new_err("logits must lie row after row, without gaps"));
    }
    Ok(Logits { values: logits.as_slice()?, vocabulary: logits.shape()[1] })
}

fn bf16(logits: Logits<'_, u16>) -> Logits<'_, Bf16> {
    Logits { values: Bf16::from_bits(logits.values), vocabulary: logits.vocabulary }
}

fn columns<T: Logit>(
    py: Python<'_>,
    logits: Logits<'_, T>,
    prior: Option<Logits<'_, T>>,
    token_ids: &[i64],
    threads: Option<Threads>,
) -> PyResult<Columns> {
    let TokenScores { logprobs, entropy, prior } =
        gate::run(py, threads, logits.values.len(), || score(logits, prior, token_ids))?;
    let (prior_logprobs, kl) = prior.map(|PriorScores { logprobs, kl }| (New(logprobs), New(kl))).unzip();
    Ok((New(logprobs), New(entropy), prior_logprobs, kl))
}
