//! Pareto k and smoothing of importance weights (Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto smoothed importance
//! sampling", JMLR 2024), with the generalised Pareto fit of Zhang and Stephens (Technometrics 2009).

use std::str::FromStr;

use crate::{Error, Offsets, Result, parallel, sum::sum, weights};

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

/// Fit the tail of every group's weights: the unnormalised log-weights with their tail smoothed, and k per group.
///
/// k is `-inf` where the tail's weights are all equal up to rounding (there is no tail: on-policy data, say) and NaN where it cannot be
/// estimated (a tail of fewer than five weights, or mostly ties with the cutoff). Such groups are left as they are.
///
/// # Errors
/// If a value is NaN or `+inf`.
pub fn smooth(log_ratios: &[f64], groups: &Offsets<'_>, rule: TailRule) -> Result<(Vec<f64>, Vec<f64>)> {
    weights::check("log_ratios", log_ratios)?;
    let mut smoothed = log_ratios.to_vec();
    let k = parallel::map_each(groups.split_mut(&mut smoothed), |group| smooth_group(group, rule));
    Ok((smoothed, k))
}

fn smooth_group(log_ratios: &mut [f64], rule: TailRule) -> f64 {
    let tail_len = rule.tail_len(log_ratios.len());
    if tail_len < MIN_TAIL {
        return f64::NAN;
    }
    let (cutoff, tail) = split_tail(log_ratios, tail_len);
    let max = log_ratios[tail[tail_len - 1]];
    // The comparison comes first for a tail that is -inf throughout, whose difference is NaN.
    if log_ratios[tail[0]] == max || max - log_ratios[tail[0]] < FLAT {
        return f64::NEG_INFINITY;
    }
    let cutoff = (log_ratios[cutoff] - max).exp();
    let excess: Vec<f64> = tail.iter().map(|&i| (log_ratios[i] - max).exp() - cutoff).collect();
    let fit = GeneralisedPareto::fit(&excess);
    if fit.k.is_finite() && fit.sigma > 0.0 {
        for (rank, &i) in tail.iter().enumerate() {
            let quantile = fit.quantile((rank as f64 + 0.5) / tail_len as f64) + cutoff;
            log_ratios[i] = max + quantile.ln().min(0.0);
        }
        return fit.k;
    }
    f64::NAN
}

/// The index of the largest value below the tail, and the indices of the tail in rising order.
fn split_tail(values: &[f64], tail_len: usize) -> (usize, Vec<usize>) {
    let by_value = |&a: &usize, &b: &usize| values[a].total_cmp(&values[b]).then(a.cmp(&b));
    let mut order: Vec<usize> = (0..values.len()).collect();
    let (_, &mut cutoff, tail) = order.select_nth_unstable_by(values.len() - tail_len - 1, by_value);
    let mut tail = tail.to_vec();
    tail.sort_unstable_by(by_value);
    (cutoff, tail)
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
        let scale = |b: f64| sum(excess.len(), |i| (-b * excess[i]).ln_1p()) / n;

        let b: Vec<f64> = (1..=grid)
            .map(|j| 1.0 / largest + (1.0 - (grid as f64 / (j as f64 - 0.5)).sqrt()) / (PRIOR_B * quartile))
            .collect();
        let log_likelihood: Vec<f64> = b
            .iter()
            .map(|&b| {
                let k = scale(b);
                n * ((-b / k).ln() - k - 1.0)
            })
            .collect();
        let b = posterior_mean(&b, &log_likelihood);
        let k = scale(b);
        Self { k: (n * k + PRIOR_WEIGHT * PRIOR_K) / (n + PRIOR_WEIGHT), sigma: -k / b }
    }

    fn quantile(&self, p: f64) -> f64 {
        let exponential = -(-p).ln_1p();
        if self.k == 0.0 { self.sigma * exponential } else { self.sigma * (self.k * exponential).exp_m1() / self.k }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn k(log_ratios: &[f64], rule: TailRule) -> f64 {
        let offsets = [0, log_ratios.len() as i64];
        let groups = Offsets::new("groups", &offsets, log_ratios.len()).unwrap();
        smooth(log_ratios, &groups, rule).unwrap().1[0]
    }

    #[test]
    fn published_value() {
        // arviz-stats 0.8.0 on log w = -0.5 log u, u = (i + 0.5) / 1000.
        let log_ratios: Vec<f64> = (0..1000).map(|i| -0.5 * ((f64::from(i) + 0.5) / 1000.0).ln()).collect();
        assert!((k(&log_ratios, TailRule::ArvizStats) - 0.496_630_175_2).abs() < 1e-10);
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
        assert_eq!(k(&[1.5; 100], TailRule::ArvizStats), f64::NEG_INFINITY);
        assert_eq!(k(&[f64::NEG_INFINITY; 100], TailRule::ArvizStats), f64::NEG_INFINITY);
        let rounded: Vec<f64> = (0..100).map(|i| 0.7 + f64::EPSILON * f64::from(i % 7)).collect();
        assert_eq!(k(&rounded, TailRule::ArvizStats), f64::NEG_INFINITY);
        assert!(k(&[0.0, 1.0, 2.0], TailRule::Loo).is_nan());
        assert!(k(&[], TailRule::Loo).is_nan());
    }
}
