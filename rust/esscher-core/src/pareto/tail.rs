//! The tail of a group: its largest log-weights.

use std::cmp::Ordering;

use crate::{
    real::MAX_LANES,
    simd::{self, Kernel, Machine},
    vectors::{each, load},
};

/// A log-weight and its index in the group.
#[derive(Clone, Copy)]
pub(super) struct Weight {
    pub(super) value: f64,
    pub(super) index: usize,
}

impl Weight {
    fn order(a: &Self, b: &Self) -> Ordering {
        a.value.total_cmp(&b.value).then(a.index.cmp(&b.index))
    }
}

/// The largest value below the tail, and the tail in rising order.
pub(super) fn split_tail(values: &[f64], tail_len: usize) -> (f64, Vec<Weight>) {
    let mut largest = above(values, threshold(values, tail_len));
    if largest.len() <= tail_len {
        largest = above(values, f64::NEG_INFINITY);
    }
    let below = largest.len() - tail_len - 1;
    let (_, &mut cutoff, tail) = largest.select_nth_unstable_by(below, Weight::order);
    tail.sort_unstable_by(Weight::order);
    (cutoff.value, tail.to_vec())
}

/// A lower bound for the tail, estimated from a sample of the values: slightly more values than the tail has are nearly
/// always above it.
fn threshold(values: &[f64], tail_len: usize) -> f64 {
    const SOME: usize = 1024;
    if values.len() < 4 * SOME {
        return f64::NEG_INFINITY;
    }
    let mut some: Vec<f64> = values.iter().copied().step_by(values.len() / SOME).collect();
    let expected = tail_len as f64 * some.len() as f64 / values.len() as f64;
    let above = expected + 4.0 * expected.sqrt() + 4.0;
    let rank = some.len().saturating_sub(above as usize + 1);
    *some.select_nth_unstable_by(rank, f64::total_cmp).1
}

/// The values from `lowest` up.
fn above(values: &[f64], lowest: f64) -> Vec<Weight> {
    simd::dispatch(Above { values, lowest })
}

/// As [`above`].
struct Above<'a> {
    values: &'a [f64],
    lowest: f64,
}

impl Kernel for Above<'_> {
    type Output = Vec<Weight>;

    #[inline(always)]
    fn run<M: Machine>(self, m: M) -> Vec<Weight> {
        let (mut found, mut start, lowest) = (Vec::new(), 0, m.splat_f64s(self.lowest));
        each!(m, self.values, |chunk| {
            let x = load(m, chunk, f64::NEG_INFINITY);
            let highest = m.max_f64s(x[0], x[1]);
            // Mostly there is none.
            if m.first_true_m64s(m.less_than_or_equal_f64s(lowest, highest)) < M::F64_LANES {
                extend(&mut found, chunk, start, self.lowest);
            }
            start += chunk.len();
        });
        found
    }
}

/// Append the values of at least `lowest` of a chunk that begins at `start`; branch-free, as the comparisons cannot be
/// predicted.
#[inline(always)]
fn extend(found: &mut Vec<Weight>, chunk: &[f64], start: usize, lowest: f64) {
    let (mut weights, mut count) = ([Weight { value: 0.0, index: 0 }; MAX_LANES], 0);
    for (j, &value) in chunk.iter().enumerate() {
        weights[count] = Weight { value, index: start + j };
        count += usize::from(value >= lowest);
    }
    found.extend_from_slice(&weights[..count]);
}
