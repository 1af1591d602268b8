//! n-gram diversity of token sequences.

use esscher_core::{Offsets, Ragged};
use numpy::{IntoPyArray, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::{Out, gate};

/// All groups at the first order, then all at the second.
#[pyfunction]
#[pyo3(signature = (token_ids, offsets, groups, orders, threads=None))]
pub fn distinct<'py>(
    py: Python<'py>,
    token_ids: PyReadonlyArray1<'py, u32>,
    offsets: PyReadonlyArray1<'py, i64>,
    groups: PyReadonlyArray1<'py, i64>,
    orders: Vec<usize>,
    threads: Option<usize>,
) -> PyResult<Out<'py, f64>> {
    let (token_ids, offsets, groups) = (token_ids.as_slice()?, offsets.as_slice()?, groups.as_slice()?);
    let shares = gate::run(py, threads, token_ids.len(), || {
        let rows = Ragged::new("token_ids offsets", token_ids, offsets)?;
        esscher_core::distinct(&rows, &Offsets::new("groups", groups, rows.len())?, &orders)
    })?;
    Ok(shares.into_pyarray(py))
}

#[pyfunction]
#[pyo3(signature = (token_ids, offsets, groups, n, smoothing, threads=None))]
pub fn self_bleu<'py>(
    py: Python<'py>,
    token_ids: PyReadonlyArray1<'py, u32>,
    offsets: PyReadonlyArray1<'py, i64>,
    groups: PyReadonlyArray1<'py, i64>,
    n: usize,
    smoothing: &str,
    threads: Option<usize>,
) -> PyResult<Out<'py, f64>> {
    let (token_ids, offsets, groups) = (token_ids.as_slice()?, offsets.as_slice()?, groups.as_slice()?);
    let scores = gate::run(py, threads, token_ids.len(), || {
        let rows = Ragged::new("token_ids offsets", token_ids, offsets)?;
        esscher_core::self_bleu(&rows, &Offsets::new("groups", groups, rows.len())?, n, smoothing.parse()?)
    })?;
    Ok(scores.into_pyarray(py))
}

#[pyfunction]
pub fn top_ngrams<'py>(
    py: Python<'py>,
    token_ids: PyReadonlyArray1<'py, u32>,
    offsets: PyReadonlyArray1<'py, i64>,
    n: usize,
    k: usize,
) -> PyResult<(Out<'py, i64>, Out<'py, i64>)> {
    let (token_ids, offsets) = (token_ids.as_slice()?, offsets.as_slice()?);
    let top = gate::run(py, None, token_ids.len(), || {
        esscher_core::top_ngrams(&Ragged::new("token_ids offsets", token_ids, offsets)?, n, k)
    })?;
    Ok((top.starts.into_pyarray(py), top.counts.into_pyarray(py)))
}
