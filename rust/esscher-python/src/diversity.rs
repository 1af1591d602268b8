//! n-gram diversity of token sequences.

use esscher_core::{Offsets, Ragged, Result};
use pyo3::prelude::*;

use crate::{
    arrays::{Array, New},
    gate::{self, Threads},
};

/// Distinct-n, entropy, and, where that was asked for, rarefied distinct-n.
type Statistics = (New<f64>, New<f64>, Option<New<f64>>);

/// Call `work` with the rows of tokens.
fn with_rows<T: Send>(
    py: Python<'_>,
    threads: Option<Threads>,
    (token_ids, offsets): (&Array<'_, u32>, &Array<'_, i64>),
    work: impl FnOnce(&Ragged<'_, u32>) -> Result<T> + Send,
) -> PyResult<T> {
    let (token_ids, offsets) = (token_ids.as_slice()?, offsets.as_slice()?);
    gate::run(py, threads, token_ids.len(), || work(&Ragged::new("token_ids offsets", token_ids, offsets)?))
}

/// Call `work` with the rows of tokens and the groups of rows.
fn with_grouped_rows<T: Send>(
    py: Python<'_>,
    threads: Option<Threads>,
    rows: (&Array<'_, u32>, &Array<'_, i64>),
    groups: &Array<'_, i64>,
    work: impl FnOnce(&Ragged<'_, u32>, &Offsets<'_>) -> Result<T> + Send,
) -> PyResult<T> {
    let groups = groups.as_slice()?;
    with_rows(py, threads, rows, |rows| work(rows, &Offsets::new("groups", groups, rows.len())?))
}

/// All groups at the first order, then all at the second.
#[pyfunction]
#[pyo3(signature = (token_ids, offsets, groups, orders, threads=None))]
pub fn distinct(
    py: Python<'_>,
    token_ids: Array<'_, u32>,
    offsets: Array<'_, i64>,
    groups: Array<'_, i64>,
    orders: Vec<usize>,
    threads: Option<Threads>,
) -> PyResult<New<f64>> {
    with_grouped_rows(py, threads, (&token_ids, &offsets), &groups, |rows, groups| {
        esscher_core::distinct(rows, groups, &orders).map(New)
    })
}

#[pyfunction]
#[pyo3(signature = (token_ids, offsets, groups, n, smoothing, threads=None))]
pub fn self_bleu(
    py: Python<'_>,
    token_ids: Array<'_, u32>,
    offsets: Array<'_, i64>,
    groups: Array<'_, i64>,
    n: usize,
    smoothing: &str,
    threads: Option<Threads>,
) -> PyResult<New<f64>> {
    with_grouped_rows(py, threads, (&token_ids, &offsets), &groups, |rows, groups| {
        esscher_core::self_bleu(rows, groups, n, smoothing.parse()?).map(New)
    })
}

/// All groups at the first order, then all at the second.
#[pyfunction]
#[pyo3(signature = (token_ids, offsets, groups, orders, threads=None))]
pub fn distinct_without_each(
    py: Python<'_>,
    token_ids: Array<'_, u32>,
    offsets: Array<'_, i64>,
    groups: Array<'_, i64>,
    orders: Vec<usize>,
    threads: Option<Threads>,
) -> PyResult<New<f64>> {
    with_grouped_rows(py, threads, (&token_ids, &offsets), &groups, |rows, groups| {
        esscher_core::distinct_without_each(rows, groups, &orders).map(New)
    })
}

/// All groups at the first order, then all at the second.
#[pyfunction]
#[pyo3(signature = (token_ids, offsets, groups, orders, weights=None, subsample=None, threads=None))]
#[expect(clippy::too_many_arguments, reason = "the caller checks and names them")]
pub fn ngram_statistics(
    py: Python<'_>,
    token_ids: Array<'_, u32>,
    offsets: Array<'_, i64>,
    groups: Array<'_, i64>,
    orders: Vec<usize>,
    weights: Option<Array<'_, f64>>,
    subsample: Option<usize>,
    threads: Option<Threads>,
) -> PyResult<Statistics> {
    let weights = weights.as_ref().map(Array::as_slice).transpose()?;
    with_grouped_rows(py, threads, (&token_ids, &offsets), &groups, |rows, groups| {
        let said = esscher_core::ngram_statistics(rows, groups, &orders, weights, subsample)?;
        Ok((New(said.distinct), New(said.entropy), said.rarefied.map(New)))
    })
}

/// The n-grams that weigh most: where they start, how often they occur, and what they weigh.
#[pyfunction]
#[pyo3(signature = (token_ids, offsets, weights, n, k, threads=None))]
pub fn top_weighted_ngrams(
    py: Python<'_>,
    token_ids: Array<'_, u32>,
    offsets: Array<'_, i64>,
    weights: Array<'_, f64>,
    n: usize,
    k: usize,
    threads: Option<Threads>,
) -> PyResult<(New<i64>, New<i64>, New<f64>)> {
    let weights = weights.as_slice()?;
    with_rows(py, threads, (&token_ids, &offsets), |rows| {
        let top = esscher_core::top_weighted_ngrams(rows, weights, n, k)?;
        Ok((New(top.starts), New(top.counts), New(top.weights)))
    })
}

#[pyfunction]
#[pyo3(signature = (token_ids, offsets, n, k, threads=None))]
pub fn top_ngrams(
    py: Python<'_>,
    token_ids: Array<'_, u32>,
    offsets: Array<'_, i64>,
    n: usize,
    k: usize,
    threads: Option<Threads>,
) -> PyResult<(New<i64>, New<i64>)> {
    let top = with_rows(py, threads, (&token_ids, &offsets), |rows| esscher_core::top_ngrams(rows, n, k))?;
    Ok((New(top.starts), New(top.counts)))
}
