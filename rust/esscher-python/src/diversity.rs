//! n-gram diversity of token sequences.

use esscher_core::{Offsets, Ragged};
use numpy::{IntoPyArray, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::{
    Out,
    gate::{self, Threads},
};

/// Distinct-n, entropy, and, where that was asked for, rarefied distinct-n.
type Statistics<'py> = (Out<'py, f64>, Out<'py, f64>, Option<Out<'py, f64>>);

/// All groups at the first order, then all at the second.
#[pyfunction]
#[pyo3(signature = (token_ids, offsets, groups, orders, threads=None))]
pub fn distinct<'py>(
    py: Python<'py>,
    token_ids: PyReadonlyArray1<'py, u32>,
    offsets: PyReadonlyArray1<'py, i64>,
    groups: PyReadonlyArray1<'py, i64>,
    orders: Vec<usize>,
    threads: Option<Threads>,
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
    threads: Option<Threads>,
) -> PyResult<Out<'py, f64>> {
    let (token_ids, offsets, groups) = (token_ids.as_slice()?, offsets.as_slice()?, groups.as_slice()?);
    let scores = gate::run(py, threads, token_ids.len(), || {
        let rows = Ragged::new("token_ids offsets", token_ids, offsets)?;
        esscher_core::self_bleu(&rows, &Offsets::new("groups", groups, rows.len())?, n, smoothing.parse()?)
    })?;
    Ok(scores.into_pyarray(py))
}

/// All groups at the first order, then all at the second.
#[pyfunction]
#[pyo3(signature = (token_ids, offsets, groups, orders, threads=None))]
pub fn distinct_without_each<'py>(
    py: Python<'py>,
    token_ids: PyReadonlyArray1<'py, u32>,
    offsets: PyReadonlyArray1<'py, i64>,
    groups: PyReadonlyArray1<'py, i64>,
    orders: Vec<usize>,
    threads: Option<Threads>,
) -> PyResult<Out<'py, f64>> {
    let (token_ids, offsets, groups) = (token_ids.as_slice()?, offsets.as_slice()?, groups.as_slice()?);
    let shares = gate::run(py, threads, token_ids.len(), || {
        let rows = Ragged::new("token_ids offsets", token_ids, offsets)?;
        esscher_core::distinct_without_each(&rows, &Offsets::new("groups", groups, rows.len())?, &orders)
    })?;
    Ok(shares.into_pyarray(py))
}

/// All groups at the first order, then all at the second.
#[pyfunction]
#[pyo3(signature = (token_ids, offsets, groups, orders, weights=None, subsample=None, threads=None))]
#[expect(clippy::too_many_arguments, reason = "the caller checks and names them")]
pub fn ngram_statistics<'py>(
    py: Python<'py>,
    token_ids: PyReadonlyArray1<'py, u32>,
    offsets: PyReadonlyArray1<'py, i64>,
    groups: PyReadonlyArray1<'py, i64>,
    orders: Vec<usize>,
    weights: Option<PyReadonlyArray1<'py, f64>>,
    subsample: Option<usize>,
    threads: Option<Threads>,
) -> PyResult<Statistics<'py>> {
    let (token_ids, offsets, groups) = (token_ids.as_slice()?, offsets.as_slice()?, groups.as_slice()?);
    let weights = weights.as_ref().map(PyReadonlyArray1::as_slice).transpose()?;
    let said = gate::run(py, threads, token_ids.len(), || {
        let rows = Ragged::new("token_ids offsets", token_ids, offsets)?;
        let groups = Offsets::new("groups", groups, rows.len())?;
        esscher_core::ngram_statistics(&rows, &groups, &orders, weights, subsample)
    })?;
    let rarefied = said.rarefied.map(|shares| shares.into_pyarray(py));
    Ok((said.distinct.into_pyarray(py), said.entropy.into_pyarray(py), rarefied))
}

/// The n-grams that weigh most: where they start, how often they occur, and what they weigh.
#[pyfunction]
#[pyo3(signature = (token_ids, offsets, weights, n, k, threads=None))]
pub fn top_weighted_ngrams<'py>(
    py: Python<'py>,
    token_ids: PyReadonlyArray1<'py, u32>,
    offsets: PyReadonlyArray1<'py, i64>,
    weights: PyReadonlyArray1<'py, f64>,
    n: usize,
    k: usize,
    threads: Option<Threads>,
) -> PyResult<(Out<'py, i64>, Out<'py, i64>, Out<'py, f64>)> {
    let (token_ids, offsets, weights) = (token_ids.as_slice()?, offsets.as_slice()?, weights.as_slice()?);
    let top = gate::run(py, threads, token_ids.len(), || {
        let rows = Ragged::new("token_ids offsets", token_ids, offsets)?;
        esscher_core::top_weighted_ngrams(&rows, weights, n, k)
    })?;
    Ok((top.starts.into_pyarray(py), top.counts.into_pyarray(py), top.weights.into_pyarray(py)))
}

#[pyfunction]
#[pyo3(signature = (token_ids, offsets, n, k, threads=None))]
pub fn top_ngrams<'py>(
    py: Python<'py>,
    token_ids: PyReadonlyArray1<'py, u32>,
    offsets: PyReadonlyArray1<'py, i64>,
    n: usize,
    k: usize,
    threads: Option<Threads>,
) -> PyResult<(Out<'py, i64>, Out<'py, i64>)> {
    let (token_ids, offsets) = (token_ids.as_slice()?, offsets.as_slice()?);
    let top = gate::run(py, threads, token_ids.len(), || {
        esscher_core::top_ngrams(&Ragged::new("token_ids offsets", token_ids, offsets)?, n, k)
    })?;
    Ok((top.starts.into_pyarray(py), top.counts.into_pyarray(py)))
}
