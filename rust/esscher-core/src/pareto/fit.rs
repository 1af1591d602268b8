//! The generalised Pareto distribution of a tail.

use crate::{
    simd::{self, Kernel, Machine, expm1, ln, ln_1p, ln_1p_of_four},
    sum::Sum,
    vectors::{each, each_chunk, largest, load, map},
};

/// A generalised Pareto distribution with location 0.
pub(super) struct GeneralisedPareto {
    pub(super) k: f64,
    pub(super) sigma: f64,
}

impl GeneralisedPareto {
    /// The posterior mean of Zhang and Stephens' grid, with a weak prior towards k = 1/2. `excess` rises.
    pub(super) fn fit(excess: &[f64]) -> Self {
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

    /// The log-weight at the quantile of probability `-minus_p`.
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

/// The mean of `values` under weights proportional to `exp(log_weights)`, negligible weights left out.
fn posterior_mean(values: &[f64], log_weights: &[f64]) -> f64 {
    let max = largest(log_weights);
    let weights: Vec<f64> = log_weights.iter().map(|w| (w - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    let kept = || values.iter().zip(&weights).filter(|(_, w)| **w / total >= 10.0 * f64::EPSILON);
    kept().map(|(v, w)| v * w).sum::<f64>() / kept().map(|(_, w)| w).sum::<f64>()
}

/// The maximum-likelihood shape for every inverse scale `b`: the mean of `ln(1 - b x)`.
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
    each_chunk(
        2 * M::F32_LANES,
        excess,
        #[inline(always)]
        |chunk| {
            let (low, high) = chunk.split_at(chunk.len().min(M::F32_LANES));
            let (low, high) = (load(m, low, 0.0), load(m, high, 0.0));
            let x = [
                m.mul_f64s(minus_b, low[0]),
                m.mul_f64s(minus_b, low[1]),
                m.mul_f64s(minus_b, high[0]),
                m.mul_f64s(minus_b, high[1]),
            ];
            sum = m.add_f64s(sum, ln_1p_of_four(m, x));
        },
    );
    m.reduce_sum_f64s(sum)
}

#[inline(always)]
fn sum_one_by_one<M: Machine>(m: M, excess: &[f64], minus_b: M::f64s) -> f64 {
    let mut sum = Sum::zero(m);
    each!(m, excess, |chunk| {
        let x = load(m, chunk, 0.0);
        sum.add(m, [ln_1p(m, m.mul_f64s(minus_b, x[0])), ln_1p(m, m.mul_f64s(minus_b, x[1]))]);
    });
    sum.total(m)
}

/// The smoothed log-weights: those of the distribution's quantiles above the cutoff, none above the largest.
pub(super) struct Quantiles<'a> {
    pub(super) fit: &'a GeneralisedPareto,
    pub(super) max: f64,
    pub(super) cutoff: f64,
    pub(super) out: &'a mut [f64],
}

impl Kernel for Quantiles<'_> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, m: M) {
        let n = self.out.len() as f64;
        for (rank, p) in self.out.iter_mut().enumerate() {
            *p = -(rank as f64 + 0.5) / n;
        }
        map!(m, self.out, |minus_p| self.fit.log_weight(m, minus_p, self.max, self.cutoff));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
