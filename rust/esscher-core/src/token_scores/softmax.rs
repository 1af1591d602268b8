//! The sums of a softmax over blocks of a vocabulary, which merge.

use crate::{
    Bf16, Error, Real, Result,
    simd::{self, Kernel, Machine, exp_f32},
    vectors::{each, load_f32},
};

/// A number that logits are made of, which f32 holds exactly.
pub trait Logit: Real {}

impl Logit for f32 {}
impl Logit for Bf16 {}

/// The number of logits in a block: blocks of policy and prior fit in the first-level cache together, as each is read
/// twice, first for its maximum. The next block is prefetched meanwhile.
pub(super) const BLOCK: usize = 2048;
/// Differences from the maximum are raised to this: the exponential in f32 is as good as 0.
const LOWEST: f32 = -87.0;
/// Replaces a difference of `-inf`, whose product with 0 would be NaN.
const IMPOSSIBLE: f32 = f32::MIN;

/// Sums over a part of the vocabulary.
#[derive(Debug, Clone, Copy)]
pub(super) struct Softmax {
    /// The largest logit.
    max: f32,
    /// Of `exp(logit - max)`.
    sum: f64,
    /// Of `exp(logit - max) (logit - max)`.
    weighted: f64,
}

impl Softmax {
    pub(super) const EMPTY: Self = Self { max: f32::NEG_INFINITY, sum: 0.0, weighted: 0.0 };

    /// The same sums, relative to a maximum at least as large.
    fn relative_to(&self, max: f32) -> Self {
        if self.max == f32::NEG_INFINITY {
            // Nothing but traces of what is impossible, and of NaN, which stays.
            return Self { max, sum: 0.0 * self.sum, weighted: 0.0 * self.weighted };
        }
        let down = f64::from(self.max) - f64::from(max);
        let scale = down.exp();
        Self { max, sum: scale * self.sum, weighted: scale * (self.weighted + down * self.sum) }
    }

    pub(super) fn merge(&self, other: &Self) -> Self {
        let max = self.max.max(other.max);
        let (left, right) = (self.relative_to(max), other.relative_to(max));
        Self { max, sum: left.sum + right.sum, weighted: left.weighted + right.weighted }
    }

    pub(super) fn logprob<T: Logit>(&self, logit: T) -> f32 {
        ((logit.to_f64() - f64::from(self.max)) - self.sum.ln()) as f32
    }

    /// At least 0: where one token has all the mass, rounding may give slightly less.
    pub(super) fn entropy(&self) -> f32 {
        (self.sum.ln() - self.weighted / self.sum).max(0.0) as f32
    }

    pub(super) fn check<T: Logit>(&self, name: &'static str, row: usize, logits: &[T]) -> Result<()> {
        if self.sum.is_finite() && self.max.abs() < f32::INFINITY {
            return Ok(());
        }
        let broken =
            logits.iter().map(|logit| logit.to_f64()).position(|logit| logit.is_nan() || logit == f64::INFINITY);
        Err(match broken {
            Some(column) => Error::Logit { name, row, column, value: logits[column].to_f64() },
            None => Error::NoToken { name, row },
        })
    }
}

/// Sums over a part of the vocabulary, for two models.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub(super) policy: Softmax,
    pub(super) prior: Softmax,
    /// Of `exp(policy logit - its max)` times the difference of the logits, each relative to its maximum.
    difference: f64,
    /// Whether a logit of the prior is `-inf`.
    prior_gone: bool,
}

impl Pair {
    pub(super) const EMPTY: Self =
        Self { policy: Softmax::EMPTY, prior: Softmax::EMPTY, difference: 0.0, prior_gone: false };

    fn relative_to(&self, max: f32, prior_max: f32) -> Self {
        let (policy, prior) = (self.policy.relative_to(max), self.prior.relative_to(prior_max));
        if self.policy.max == f32::NEG_INFINITY {
            return Self { policy, prior, difference: 0.0 * self.difference, ..*self };
        }
        let down = f64::from(self.policy.max) - f64::from(max);
        let prior_possible = self.prior.max > f32::NEG_INFINITY;
        let prior_down = if prior_possible { f64::from(self.prior.max) - f64::from(prior_max) } else { 0.0 };
        let difference = down.exp() * (self.difference + (down - prior_down) * self.policy.sum);
        Self { policy, prior, difference, ..*self }
    }

    pub(super) fn merge(&self, other: &Self) -> Self {
        let (max, prior_max) = (self.policy.max.max(other.policy.max), self.prior.max.max(other.prior.max));
        let (left, right) = (self.relative_to(max, prior_max), other.relative_to(max, prior_max));
        Self {
            policy: left.policy.merge(&right.policy),
            prior: left.prior.merge(&right.prior),
            difference: left.difference + right.difference,
            prior_gone: left.prior_gone || right.prior_gone,
        }
    }

    /// Infinite if the policy gives mass to a token that the prior excludes; else at least 0, as only rounding gives
    /// less.
    pub(super) fn kl<T: Logit>(&self, logits: &[T], prior: &[T]) -> f32 {
        let gone = |logit: &T| logit.to_f64() == f64::NEG_INFINITY;
        if self.prior_gone && logits.iter().zip(prior).any(|(l, l0)| gone(l0) && !gone(l)) {
            return f32::INFINITY;
        }
        (self.difference / self.policy.sum - self.policy.sum.ln() + self.prior.sum.ln()).max(0.0) as f32
    }
}

/// The largest of some logits, and the smallest.
#[inline(always)]
fn range<M: Machine, T: Logit>(m: M, logits: &[T]) -> (f32, f32) {
    let mut max = m.splat_f32s(f32::NEG_INFINITY);
    let mut min = m.splat_f32s(f32::INFINITY);
    let first = logits[0].to_f64() as f32;
    each!(m, logits, |chunk| {
        let values = load_f32(m, chunk, first);
        max = m.max_f32s(values, max);
        min = m.min_f32s(values, min);
    });
    (m.reduce_max_f32s(max), m.reduce_min_f32s(min))
}

/// What logits are relative to: their maximum, unless none is possible.
#[inline(always)]
fn reference(max: f32) -> f32 {
    if max == f32::NEG_INFINITY { 0.0 } else { max }
}

/// `x`, but at least `lowest`; NaN stays.
#[inline(always)]
fn at_least<M: Machine>(m: M, x: M::f32s, lowest: f32) -> M::f32s {
    let lowest = m.splat_f32s(lowest);
    m.select_f32s(m.less_than_f32s(x, lowest), lowest, x)
}

/// [`Softmax`] over a block.
pub(super) struct Policy<'a, T>(pub(super) &'a [T]);

impl<T: Logit> Kernel for Policy<'_, T> {
    type Output = Softmax;

    #[inline(always)]
    fn run<M: Machine>(self, m: M) -> Softmax {
        let (max, _) = range(m, self.0);
        let reference = m.splat_f32s(reference(max));
        let mut sums = [m.splat_f32s(0.0); 2];
        each!(m, self.0, |logits| {
            simd::prefetch(logits, BLOCK);
            let x = at_least(m, m.sub_f32s(load_f32(m, logits, f32::NEG_INFINITY), reference), LOWEST);
            let exp = exp_f32(m, x);
            sums = [m.add_f32s(sums[0], exp), m.fma_f32(exp, x, sums[1])];
        });
        Softmax { max, sum: total(m, sums[0]), weighted: total(m, sums[1]) }
    }
}

#[inline(always)]
fn total<M: Machine>(m: M, lanes: M::f32s) -> f64 {
    let [low, high] = m.widen(lanes);
    m.reduce_sum_f64s(m.add_f64s(low, high))
}

/// [`Pair`] over a block.
pub(super) struct Both<'a, T> {
    pub(super) policy: &'a [T],
    pub(super) prior: &'a [T],
}

impl<T: Logit> Kernel for Both<'_, T> {
    type Output = Pair;

    #[inline(always)]
    fn run<M: Machine>(self, m: M) -> Pair {
        let ((max, _), (prior_max, prior_min)) = (range(m, self.policy), range(m, self.prior));
        let references = [m.splat_f32s(reference(max)), m.splat_f32s(reference(prior_max))];
        let mut sums = [m.splat_f32s(0.0); 4];
        each!(m, self.policy, self.prior, |policy, prior| {
            simd::prefetch(policy, BLOCK);
            simd::prefetch(prior, BLOCK);
            let x = load_f32(m, policy, f32::NEG_INFINITY);
            let y = load_f32(m, prior, f32::NEG_INFINITY);
            let x = at_least(m, m.sub_f32s(x, references[0]), LOWEST);
            let y = at_least(m, m.sub_f32s(y, references[1]), IMPOSSIBLE);
            let (exp, prior_exp) = (exp_f32(m, x), exp_f32(m, at_least(m, y, LOWEST)));
            // However small, it must not meet a difference as large as that of the impossible.
            let possible = m.select_f32s(m.equal_f32s(x, m.splat_f32s(LOWEST)), m.splat_f32s(0.0), exp);
            sums = [
                m.add_f32s(sums[0], exp),
                m.fma_f32(exp, x, sums[1]),
                m.add_f32s(sums[2], prior_exp),
                m.fma_f32(possible, m.sub_f32s(x, y), sums[3]),
            ];
        });
        let [sum, weighted, prior_sum, difference] = sums;
        Pair {
            policy: Softmax { max, sum: total(m, sum), weighted: total(m, weighted) },
            prior: Softmax { max: prior_max, sum: total(m, prior_sum), weighted: 0.0 },
            difference: total(m, difference),
            prior_gone: prior_min == f32::NEG_INFINITY,
        }
    }
}
