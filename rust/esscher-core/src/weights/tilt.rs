//! Log-weights as values over beta, and what is written for each of them.

use std::ops::Range;

use bytemuck::cast_slice;

use super::log_sum::LogSum;
use crate::{
    Error, Result,
    simd::{self, Machine, exp_nonpositive},
    vectors::{load, map},
};

/// Log-weights `values / beta`.
#[derive(Clone, Copy)]
pub(super) struct Tilt<'a> {
    pub(super) values: &'a [f64],
    pub(super) beta: f64,
}

impl<'a> Tilt<'a> {
    pub(super) fn new(rewards: &'a [f64], beta: f64) -> Result<Self> {
        if beta > 0.0 && beta.is_finite() {
            return Ok(Self { values: rewards, beta });
        }
        Err(Error::Range { name: "beta", value: beta, rule: "positive and finite" })
    }

    #[inline(always)]
    pub(super) fn part(&self, range: Range<usize>) -> Self {
        Self { values: &self.values[range], beta: self.beta }
    }

    /// `(x - max) / beta`, without the division in the common case of `beta = 1`.
    #[inline(always)]
    fn exponents<M: Machine>(self, m: M, max: f64, x: [M::f64s; 2]) -> [M::f64s; 2] {
        let max = m.splat_f64s(max);
        let d = [m.sub_f64s(x[0], max), m.sub_f64s(x[1], max)];
        if self.beta == 1.0 {
            return d;
        }
        let beta = m.splat_f64s(self.beta);
        [m.div_f64s(d[0], beta), m.div_f64s(d[1], beta)]
    }

    /// Their exponentials.
    #[inline(always)]
    pub(super) fn exps<M: Machine>(self, m: M, max: f64, x: [M::f64s; 2]) -> [M::f64s; 2] {
        let d = self.exponents(m, max, x);
        [exp_nonpositive(m, d[0]), exp_nonpositive(m, d[1])]
    }

    /// Write `(value - max) / beta - less`.
    #[inline(always)]
    pub(super) fn write_exponents<M: Machine>(self, m: M, max: f64, less: f64, out: &mut [f64]) {
        let less = m.splat_f64s(less);
        self.write(
            m,
            0,
            out,
            #[inline(always)]
            |x| {
                let d = self.exponents(m, max, x);
                [m.sub_f64s(d[0], less), m.sub_f64s(d[1], less)]
            },
        );
    }

    /// Write the logarithms of the self-normalised weights; `log_sum` is the logarithm of 1 more than `sum.others`.
    #[inline(always)]
    pub(super) fn write_log_weights<M: Machine>(self, m: M, sum: &LogSum, log_sum: f64, out: &mut [f64]) {
        if sum.has_weight() {
            self.write_exponents(m, sum.max, log_sum, out);
        } else {
            out.fill(f64::NEG_INFINITY);
        }
    }

    /// Write `f` of the values, and ask for memory `ahead` values before it is needed. `f` must be `#[inline(always)]`,
    /// and is called with `-inf` in the lanes that are left over.
    #[inline(always)]
    pub(super) fn write<M: Machine>(
        self,
        m: M,
        ahead: usize,
        out: &mut [f64],
        mut f: impl FnMut([M::f64s; 2]) -> [M::f64s; 2],
    ) {
        let values = self.values.chunks_exact(M::F32_LANES);
        let left = values.remainder();
        let mut chunks = out.chunks_exact_mut(M::F32_LANES);
        for (chunk, out) in values.zip(&mut chunks) {
            if ahead > 0 {
                simd::prefetch(chunk, ahead);
                simd::prefetch(out, ahead);
            }
            out.copy_from_slice(cast_slice(&f(load(m, chunk, f64::NEG_INFINITY))));
        }
        if !left.is_empty() {
            let values = f(load(m, left, f64::NEG_INFINITY));
            let (low, high) = chunks.into_remainder().split_at_mut(left.len().min(M::F64_LANES));
            m.partial_store_f64s(low, values[0]);
            m.partial_store_f64s(high, values[1]);
        }
    }
}

/// The output for each value: nothing, its weight or its log-weight.
pub(super) enum Out<'a> {
    Nothing,
    Weights(&'a mut [f64]),
    LogWeights(&'a mut [f64]),
}

impl<'a> Out<'a> {
    /// Split off the output of the first `len` values.
    #[inline(always)]
    pub(super) fn split_off(&mut self, len: usize) -> Out<'a> {
        match self {
            Self::Nothing => Out::Nothing,
            Self::Weights(values) => Out::Weights(values.split_off_mut(..len).unwrap_or_default()),
            Self::LogWeights(values) => Out::LogWeights(values.split_off_mut(..len).unwrap_or_default()),
        }
    }
}

/// Multiply weights with `share`.
#[inline(always)]
pub(super) fn scale<M: Machine>(m: M, share: f64, weights: &mut [f64]) {
    let share = m.splat_f64s(share);
    map!(m, weights, |x| m.mul_f64s(share, x));
}
