//! Pareto k and smoothing of importance weights (Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto smoothed importance
//! sampling", JMLR 25(72), 2024, arXiv:1507.02646), with the generalised Pareto fit of Zhang and Stephens ("A new and
//! efficient estimation method for the generalized Pareto distribution", Technometrics 51(3), 2009,
//! doi:10.1198/tech.2009.08017).

mod fit;
mod tail;

use std::str::FromStr;

use crate::{
    Error, Offsets, Result, error, parallel,
    ragged::check_length,
    simd::{self, Kernel, Machine, exp_nonpositive},
    vectors::map,
    weights,
};
use fit::{GeneralisedPareto, Quantiles};
use tail::split_tail;

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
        error::choose("tail_rule", value, &[("arviz-stats", Self::ArvizStats), ("loo", Self::Loo)])
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
/// where it cannot be estimated (a tail of fewer than five weights, or mostly ties with the cutoff). Such groups are
/// left as they are.
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

/// The weights in the tail are the same ones for every beta.
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

/// Fit the excesses over the cutoff: return the cutoff's weight relative to the largest, and the fit. `tail` holds the
/// log-weights beyond the cutoff in rising order, and is overwritten. The error is the k to report where there is no
/// fit.
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

/// Replace each log-weight by its weight less the cutoff's, both relative to the largest weight.
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
        map!(m, self.values, |x| m.sub_f64s(exp_nonpositive(m, m.sub_f64s(x, max)), cutoff));
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
