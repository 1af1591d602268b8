//! Pareto k and smoothing of importance weights (Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto smoothed importance
//! sampling", JMLR 2024), with the generalised Pareto fit of Zhang and Stephens (Technometrics 2009).

use std::cmp::Ordering;
use std::str::FromStr;

use crate::{
    Error, Offsets, Result, parallel,
    ragged::check_length,
    real::{MAX_LANES, sealed::Load},
    simd::{self, Kernel, Machine, exp_nonpositive, expm1, ln, ln_1p, ln_1p_of_four},
    sum::Sum,
    vectors::{each, load, map_in_place},
    weights,
};

/// How many of the largest weights make the tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailRule {
    /// arviz-stats: `floor(3 sqrt(S))`, and `floor(S / 5)` for 225 weights or fewer.
    ArvizStats,
    /// The R package loo: `ceil(min(S / 5, 3 sqrt(S)))`.
    Loo,
}

impl FromStr for TailRule {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self> {
        match value {
            "arviz-stats" => Ok(Self::ArvizStats),
            "loo" => Ok(Self::Loo),
            _ => Err(Error::Choice { name: "tail_rule", value: value.into(), choices: "arviz-stats, loo" }),
        }
    }
}

impl TailRule {
    fn tail_len(self, n: usize) -> usize {
        let root = 3.0 * (n as f64).sqrt();
        let len = match self {
            Self::ArvizStats if n > 225 => root.floor(),
            Self::ArvizStats => (n as f64 / 5.0).floor(),
            Self::Loo => root.min(0.2 * n as f64).ceil(),
        };
        len as usize
    }
}

/// The fewest weights that a tail is fitted to.
const MIN_TAIL: usize = 5;
/// Log-weights this close are equal: between them lies the rounding of sums of log-probs, not a tail.
const FLAT: f64 = 1e-10;

/// Fit the tail of every group's weights: write the unnormalised log-weights with their tail smoothed, and return k per
/// group.
///
/// k is `-inf` where the tail's weights are all equal up to rounding (there is no tail: on-policy data, say) and NaN
/// where it cannot be estimated (a tail of fewer than five weights, or mostly ties with the cutoff). Such groups are left
/// as they are.
///
/// # Errors
/// If a value is NaN or `+inf`, or the lengths differ.
pub fn smooth(log_ratios: &[f64], groups: &Offsets<'_>, rule: TailRule, smoothed: &mut [f64]) -> Result<Vec<f64>> {
    check_length("smoothed", smoothed.len(), "log_ratios", log_ratios.len())?;
    groups.check_items("groups", log_ratios.len())?;
    weights::check("log_ratios", log_ratios)?;
    smoothed.copy_from_slice(log_ratios);
    Ok(parallel::map_each(groups.split_mut(smoothed), |group| smooth_group(group, rule)))
}

/// k of the weights `exp(value / beta)` of every group and beta, as `[group][beta]`, with the values of [`smooth`].
///
/// # Errors
/// If a value is NaN or `+inf`, or the groups are not of as many values.
pub fn shapes(values: &[f64], betas: &[f64], groups: &Offsets<'_>, rule: TailRule) -> Result<Vec<f64>> {
    groups.check_items("groups", values.len())?;
    weights::check("values", values)?;
    let of_groups = parallel::map(groups.len(), |i| shapes_of_group(&values[groups.range(i)], betas, rule));
    Ok(of_groups.concat())
}

/// The tail is the same for every beta.
fn shapes_of_group(values: &[f64], betas: &[f64], rule: TailRule) -> Vec<f64> {
    let tail_len = rule.tail_len(values.len());
    if tail_len < MIN_TAIL {
        return vec![f64::NAN; betas.len()];
    }
    let (cutoff, tail) = split_tail(values, tail_len);
    let of_beta = |beta: &f64| {
        let mut tail: Vec<f64> = tail.iter().map(|weight| weight.value / beta).collect();
        fit_tail(cutoff / beta, &mut tail).map_or_else(|k| k, |(_, fit)| fit.k)
    };
    betas.iter().map(of_beta).collect()
}

fn smooth_group(log_ratios: &mut [f64], rule: TailRule) -> f64 {
    let tail_len = rule.tail_len(log_ratios.len());
    if tail_len < MIN_TAIL {
        return f64::NAN;
    }
    let (cutoff, tail) = split_tail(log_ratios, tail_len);
    let max = tail[tail_len - 1].value;
    let mut values: Vec<f64> = tail.iter().map(|weight| weight.value).collect();
    let (cutoff, fit) = match fit_tail(cutoff, &mut values) {
        Ok(fitted) => fitted,
        Err(k) => return k,
    };
    simd::dispatch(Quantiles { fit: &fit, max, cutoff, out: &mut values });
    for (weight, &value) in tail.iter().zip(&values) {
        log_ratios[weight.index] = value;
    }
    fit.k
}

/// The cutoff relative to the largest weight, and the fit to the weights beyond it, which replace the log-weights `tail`,
/// in rising order. Without a fit, what stands for k.
fn fit_tail(cutoff: f64, tail: &mut [f64]) -> std::result::Result<(f64, GeneralisedPareto), f64> {
    let (lowest, max) = (tail[0], tail[tail.len() - 1]);
    // The comparison comes first for a tail that is -inf throughout, whose difference is NaN.
    if lowest == max || max - lowest < FLAT {
        return Err(f64::NEG_INFINITY);
    }
    simd::dispatch(Excess { values: tail, max, cutoff });
    let fit = GeneralisedPareto::fit(tail);
    if fit.k.is_finite() && fit.sigma > 0.0 { Ok(((cutoff - max).exp(), fit)) } else { Err(f64::NAN) }
}

/// One of the log-weights.
#[derive(Clone, Copy)]
struct Weight {
    value: f64,
    index: usize,
}

impl Weight {
    fn order(a: &Self, b: &Self) -> Ordering {
        a.value.total_cmp(&b.value).then(a.index.cmp(&b.index))
    }
}

/// The largest value below the tail, and the tail in rising order.
fn split_tail(values: &[f64], tail_len: usize) -> (f64, Vec<Weight>) {
    let mut largest = above(values, threshold(values, tail_len));
    if largest.len() <= tail_len {
        largest = above(values, f64::NEG_INFINITY);
    }
    let below = largest.len() - tail_len - 1;
    let (_, &mut cutoff, tail) = largest.select_nth_unstable_by(below, Weight::order);
    tail.sort_unstable_by(Weight::order);
    (cutoff.value, tail.to_vec())
}

/// A value that hardly ever fewer are above than the tail has, nor many more: a quantile of some of the values.
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
        each(
            m,
            self.values,
            #[inline(always)]
            |chunk| {
                let x = load(m, chunk, f64::NEG_INFINITY);
                let highest = m.max_f64s(x[0], x[1]);
                // Mostly there is none.
                if m.first_true_m64s(m.less_than_or_equal_f64s(lowest, highest)) < M::F64_LANES {
                    extend(&mut found, chunk, start, self.lowest);
                }
                start += chunk.len();
            },
        );
        found
    }
}

/// Add what is at least `lowest` of a chunk that begins at `start`: without a branch, which could not be predicted.
#[inline(always)]
fn extend(found: &mut Vec<Weight>, chunk: &[f64], start: usize, lowest: f64) {
    let (mut weights, mut count) = ([Weight { value: 0.0, index: 0 }; MAX_LANES], 0);
    for (j, &value) in chunk.iter().enumerate() {
        weights[count] = Weight { value, index: start + j };
        count += usize::from(value >= lowest);
    }
    found.extend_from_slice(&weights[..count]);
}

/// A generalised Pareto distribution with location 0.
struct GeneralisedPareto {
    k: f64,
    sigma: f64,
}

impl GeneralisedPareto {
    /// The posterior mean of Zhang and Stephens' grid, with a weak prior towards k = 1/2. `excess` rises.
    fn fit(excess: &[f64]) -> Self {
        const PRIOR_B: f64 = 3.0;
        const PRIOR_K: f64 = 0.5;
        const PRIOR_WEIGHT: f64 = 10.0;
        let n = excess.len() as f64;
        let grid = 30 + n.sqrt() as usize;
        let quartile = excess[(n / 4.0 + 0.5) as usize - 1];
        let largest = excess[excess.len() - 1];

        let b: Vec<f64> = (1..=grid)
            .map(|j| 1.0 / largest + (1.0 - (grid as f64 / (j as f64 - 0.5)).sqrt()) / (PRIOR_B * quartile))
            .collect();
        let k = simd::dispatch(Shapes { excess, b: &b });
        let log_likelihood: Vec<f64> = b.iter().zip(&k).map(|(b, k)| n * ((-b / k).ln() - k - 1.0)).collect();
        let b = posterior_mean(&b, &log_likelihood);
        let k = simd::dispatch(Shapes { excess, b: &[b] })[0];
        Self { k: (n * k + PRIOR_WEIGHT * PRIOR_K) / (n + PRIOR_WEIGHT), sigma: -k / b }
    }
}

/// The mean of `values` under weights proportional to `exp(log_weights)`, negligible weights left out.
fn posterior_mean(values: &[f64], log_weights: &[f64]) -> f64 {
    let max = log_weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = log_weights.iter().map(|w| (w - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    let kept = || values.iter().zip(&weights).filter(|(_, w)| **w / total >= 10.0 * f64::EPSILON);
    kept().map(|(v, w)| v * w).sum::<f64>() / kept().map(|(_, w)| w).sum::<f64>()
}

/// Replace each log-weight by how far its weight exceeds the cutoff's, both relative to the largest.
struct Excess<'a> {
    values: &'a mut [f64],
    max: f64,
    cutoff: f64,
}

impl Kernel for Excess<'_> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, m: M) {
        let max = m.splat_f64s(self.max);
        // By the same function as the others, so that nothing is left of what is equal to it.
        let cutoff = exp_nonpositive(m, m.sub_f64s(m.splat_f64s(self.cutoff), max));
        map_in_place(
            m,
            self.values,
            #[inline(always)]
            |x| m.sub_f64s(exp_nonpositive(m, m.sub_f64s(x, max)), cutoff),
        );
    }
}

/// The likeliest shape for every inverse scale `b`: the mean of `ln(1 - b x)`.
struct Shapes<'a> {
    excess: &'a [f64],
    b: &'a [f64],
}

impl Kernel for Shapes<'_> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn run<M: Machine>(self, m: M) -> Vec<f64> {
        let mut shapes = self.b.to_vec();
        for b in &mut shapes {
            let minus_b = m.splat_f64s(-*b);
            let sum = sum_in_fours(m, self.excess, minus_b);
            // Where the largest is beyond 10^76 times the quartile, a product of four overflows.
            let sum = if sum.is_finite() { sum } else { sum_one_by_one(m, self.excess, minus_b) };
            *b = sum / self.excess.len() as f64;
        }
        shapes
    }
}

/// The sum of `ln(1 - b x)`.
#[inline(always)]
fn sum_in_fours<M: Machine>(m: M, excess: &[f64], minus_b: M::f64s) -> f64 {
    let mut sum = m.splat_f64s(0.0);
    let chunks = excess.chunks_exact(2 * M::F32_LANES);
    let mut rest = [0.0; 2 * MAX_LANES];
    rest[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    for chunk in chunks.chain([&rest[..2 * M::F32_LANES]]) {
        let (low, high) = chunk.split_at(M::F32_LANES);
        let (low, high) = (f64::load(m, low), f64::load(m, high));
        let x = [
            m.mul_f64s(minus_b, low[0]),
            m.mul_f64s(minus_b, low[1]),
            m.mul_f64s(minus_b, high[0]),
            m.mul_f64s(minus_b, high[1]),
        ];
        sum = m.add_f64s(sum, ln_1p_of_four(m, x));
    }
    m.reduce_sum_f64s(sum)
}

#[inline(always)]
fn sum_one_by_one<M: Machine>(m: M, excess: &[f64], minus_b: M::f64s) -> f64 {
    let mut sum = Sum::zero(m);
    each(
        m,
        excess,
        #[inline(always)]
        |chunk| {
            let x = load(m, chunk, 0.0);
            sum.add(m, [ln_1p(m, m.mul_f64s(minus_b, x[0])), ln_1p(m, m.mul_f64s(minus_b, x[1]))]);
        },
    );
    sum.total(m)
}

/// The smoothed log-weights: those of the distribution's quantiles above the cutoff, none above the largest.
struct Quantiles<'a> {
    fit: &'a GeneralisedPareto,
    max: f64,
    cutoff: f64,
    out: &'a mut [f64],
}

impl Kernel for Quantiles<'_> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, m: M) {
        let n = self.out.len() as f64;
        for (rank, p) in self.out.iter_mut().enumerate() {
            *p = -(rank as f64 + 0.5) / n;
        }
        map_in_place(
            m,
            self.out,
            #[inline(always)]
            |minus_p| self.fit.log_weight(m, minus_p, self.max, self.cutoff),
        );
    }
}

impl GeneralisedPareto {
    /// The log-weight at the quantile of which `minus_p` is the probability, but for its sign.
    #[inline(always)]
    fn log_weight<M: Machine>(&self, m: M, minus_p: M::f64s, max: f64, cutoff: f64) -> M::f64s {
        let exponential = m.neg_f64s(ln_1p(m, minus_p));
        let quantile = if self.k == 0.0 {
            m.mul_f64s(m.splat_f64s(self.sigma), exponential)
        } else {
            let grown = expm1(m, m.mul_f64s(m.splat_f64s(self.k), exponential));
            m.div_f64s(m.mul_f64s(m.splat_f64s(self.sigma), grown), m.splat_f64s(self.k))
        };
        let log = ln(m, m.add_f64s(quantile, m.splat_f64s(cutoff)));
        m.add_f64s(m.splat_f64s(max), m.min_f64s(log, m.splat_f64s(0.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn k(log_ratios: &[f64], rule: TailRule) -> f64 {
        let offsets = [0, log_ratios.len() as i64];
        let groups = Offsets::new("groups", &offsets, log_ratios.len()).unwrap();
        smooth(log_ratios, &groups, rule, &mut log_ratios.to_vec()).unwrap()[0]
    }

    #[test]
    fn published_value() {
        simd::paths::each(|| {
            // arviz-stats 0.8.0 on log w = -0.5 log u, u = (i + 0.5) / 1000.
            let log_ratios: Vec<f64> = (0..1000).map(|i| -0.5 * ((f64::from(i) + 0.5) / 1000.0).ln()).collect();
            assert!((k(&log_ratios, TailRule::ArvizStats) - 0.496_630_175_2).abs() < 1e-10);
        });
    }

    #[test]
    fn shapes_are_means_of_logarithms_where_products_overflow_too() {
        simd::paths::each(|| {
            let excess: Vec<f64> = (0..37).map(|i| 10f64.powi(i - 36)).collect();
            let b = [0.9, -0.5, -1e30, -1e100, -1e250];
            for (got, b) in simd::dispatch(Shapes { excess: &excess, b: &b }).iter().zip(b) {
                let mean = excess.iter().map(|x| (-b * x).ln_1p()).sum::<f64>() / 37.0;
                assert!((got / mean - 1.0).abs() < 1e-14, "b = {b}: {got}, not {mean}");
            }
        });
    }

    #[test]
    fn tail_lengths() {
        let lens = |n| (TailRule::ArvizStats.tail_len(n), TailRule::Loo.tail_len(n));
        assert_eq!(lens(24), (4, 5));
        assert_eq!(lens(225), (45, 45));
        assert_eq!(lens(226), (45, 46));
        assert_eq!(lens(1000), (94, 95));
    }

    #[test]
    fn no_tail_is_a_status() {
        simd::paths::each(|| {
            assert_eq!(k(&[1.5; 100], TailRule::ArvizStats), f64::NEG_INFINITY);
            assert_eq!(k(&[f64::NEG_INFINITY; 100], TailRule::ArvizStats), f64::NEG_INFINITY);
            let rounded: Vec<f64> = (0..100).map(|i| 0.7 + f64::EPSILON * f64::from(i % 7)).collect();
            assert_eq!(k(&rounded, TailRule::ArvizStats), f64::NEG_INFINITY);
            assert!(k(&[0.0, 1.0, 2.0], TailRule::Loo).is_nan());
            assert!(k(&[], TailRule::Loo).is_nan());
        });
    }
}
