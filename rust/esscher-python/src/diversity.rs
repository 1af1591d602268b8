//! n-gram diversity of token sequences.

use esscher_core::{Masked, Offsets, Ragged, Result};
use pyo3::prelude::*;

use crate::{
    arrays::{Array, New},
    gate::{self, Threads},
};

/// Distinct-n, entropy, and, where that was asked for, rarefied distinct-n.
type Statistics = (New<f64>, New<f64>, Option<New<f64>>);

/// Offsets of rows, and the mask of what counts where rows have gaps.
#[derive(FromPyObject)]
pub enum RowLayout<'py> {
    Whole(Array<'py, i64>),
    Gaps(Array<'py, i64>, Array<'py, u8>),
}

/// Call `work` with the rows of tokens.
fn with_rows<T: Send>(
    py: Python<'_>,
    threads: Option<Threads>,
    (token_ids, layout): (&Array<'_, u32>, &RowLayout<'_>),
    work: impl FnOnce(Masked<'_, u32>) -> Result<T> + Send,
) -> PyResult<T> {
    let token_ids = token_ids.as_slice()?;
    let (offsets, mask) = match layout {
        RowLayout::Whole(offsets) => (offsets.as_slice()?, None),
        RowLayout::Gaps(offsets, mask) => (offsets.as_slice()?, Some(mask.as_slice()?)),
    };
    gate::run(py, threads, token_ids.len(), || {
        let rows = Ragged::new("token_ids offsets", token_ids, offsets)?;
        work(mask.map_or(Ok(rows.into()), |mask| Masked::new("token_ids", rows, mask))?)
    })
}

/// Call `work` with the rows of tokens and the groups of rows.
fn with_grouped_rows<T: Send>(
    py: Python<'_>,
    threads: Option<Threads>,
    rows: (&Array<'_, u32>, &RowLayout<'_>),
    groups: &Array<'_, i64>,
    work: impl FnOnce(Masked<'_, u32>, &Offsets<'_>) -> Result<T> + Send,
) -> PyResult<T> {
    let groups = groups.as_slice()?;
    with_rows(py, threads, rows, |rows| work(rows, &Offsets::new("groups", groups, rows.len())?))
}

/// All groups at the first order, then all at the second.
#[pyfunction]
#[pyo3(signature = (token_ids, layout, groups, orders, threads=None))]
pub fn distinct(
    py: Python<'_>,
    token_ids: Array<'_, u32>,
    layout: RowLayout<'_>,
    groups: Array<'_, i64>,
    orders: Vec<usize>,
    threads: Option<Threads>,
) -> PyResult<New<f64>> {
    with_grouped_rows(py, threads, (&token_ids, &layout), &groups, |rows, groups| {
        esscher_core::distinct(rows, groups, &orders).map(New)
    })
}

#[pyfunction]
#[pyo3(signature = (token_ids, layout, groups, n, smoothing, threads=None))]
pub fn self_bleu(
    py: Python<'_>,
    token_ids: Array<'_, u32>,
    layout: RowLayout<'_>,
    groups: Array<'_, i64>,
    n: usize,
    smoothing: &str,
    threads: Option<Threads>,
) -> PyResult<New<f64>> {
    with_grouped_rows(py, threads, (&token_ids, &layout), &groups, |rows, groups| {
        esscher_core::self_bleu(rows, groups, n, smoothing.parse()?).map(New)
    })
}

/// All groups at the first order, then all at the second.
#[pyfunction]
#[pyo3(signature = (token_ids, layout, groups, orders, threads=None))]
pub fn distinct_without_each(
    py: Python<'_>,
    token_ids: Array<'_, u32>,
    layout: RowLayout<'_>,
    groups: Array<'_, i64>,
    orders: Vec<usize>,
    threads: Option<Threads>,
) -> PyResult<New<f64>> {
    with_grouped_rows(py, threads, (&token_ids, &layout), &groups, |rows, groups| {
        esscher_core::distinct_without_each(rows, groups, &orders).map(New)
    })
}

/// All groups at the first order, then all at the second.
#[pyfunction]
#[pyo3(signature = (token_ids, layout, groups, orders, weights=None, subsample=None, threads=None))]
#[expect(clippy::too_many_arguments, reason = "the caller checks and names them")]
pub fn ngram_statistics(
    py: Python<'_>,
    token_ids: Array<'_, u32>,
    layout: RowLayout<'_>,
    groups: Array<'_, i64>,
    orders: Vec<usize>,
    weights: Option<Array<'_, f64>>,
    subsample: Option<usize>,
    threads: Option<Threads>,
) -> PyResult<Statistics> {
    let weights = weights.as_ref().map(Array::as_slice).transpose()?;
    with_grouped_rows(py, threads, (&token_ids, &layout), &groups, |rows, groups| {
        let said = esscher_core::ngram_statistics(rows, groups, &orders, weights, subsample)?;
        Ok((New(said.distinct), New(said.entropy), said.rarefied.map(New)))
    })
}

/// The n-grams that weigh most: where they start, how often they occur, and what they weigh.
#[pyfunction]
#[pyo3(signature = (token_ids, layout, weights, n, k, threads=None))]
pub fn top_weighted_ngrams(
    py: Python<'_>,
    token_ids: Array<'_, u32>,
    layout: RowLayout<'_>,
    weights: Array<'_, f64>,
    n: usize,
    k: usize,
    threads: Option<Threads>,
) -> PyResult<(New<i64>, New<i64>, New<f64>)> {
    let weights = weights.as_slice()?;
    with_rows(py, threads, (&token_ids, &layout), |rows| {
        let top = esscher_core::top_weighted_ngrams(rows, weights, n, k)?;
        Ok((New(top.starts), New(top.counts), New(top.weights)))
    })
}

#[pyfunction]
#[pyo3(signature = (token_ids, layout, n, k, threads=None))]
pub fn top_ngrams(
    py: Python<'_>,
    token_ids: Array<'_, u32>,
    layout: RowLayout<'_>,
    n: usize,
    k: usize,
    threads: Option<Threads>,
) -> PyResult<(New<i64>, New<i64>)> {
    let top = with_rows(py, threads, (&token_ids, &layout), |rows| esscher_core::top_ngrams(rows, n, k))?;
    Ok((New(top.starts), New(top.counts)))
}
