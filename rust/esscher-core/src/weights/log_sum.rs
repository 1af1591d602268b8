//! Log-sum-exp and effective sample size of parts of a group, which merge.

use crate::{
    simd::{self, Machine},
    sum::Sum,
    vectors::{each, load},
};

/// Sums over a part of a group of `exp((value - max) / beta)`, but for the first that equals the maximum.
///
/// Its term is exactly 1; adding it would cost the other terms their digits in a group that one value dominates
/// (Blanchard, Higham, Higham, "Accurately computing the log-sum-exp and softmax functions", IMA Journal of Numerical
/// Analysis 2021, doi:10.1093/imanum/draa038).
#[derive(Debug, Clone, Copy)]
pub(super) struct LogSum {
    pub(super) max: f64,
    /// Of the exponentials.
    pub(super) others: f64,
    /// Of their squares.
    pub(super) squares: f64,
}

/// The number of values of a big group that are summed at once: a block is read twice, so it must fit in the
/// first-level cache.
pub(super) const BLOCK: usize = 2048;
/// If the other terms sum to less than this, they are summed again without the largest, whose 1 would cost them digits.
const DOMINATED: f64 = 1e-2;

impl LogSum {
    pub(super) const EMPTY: Self = Self { max: f64::NEG_INFINITY, others: 0.0, squares: 0.0 };

    /// From the sums over all values, the largest included; `below_largest` sums all but the largest, and is called
    /// where one value dominates.
    #[inline(always)]
    pub(super) fn new(max: f64, (sum, squares): (f64, f64), below_largest: impl FnOnce() -> (f64, f64)) -> Self {
        let (others, squares) = if sum < 1.0 + DOMINATED { below_largest() } else { (sum - 1.0, squares - 1.0) };
        Self { max, others, squares }
    }

    /// Whether no value was NaN or `+inf`: NaN in the values makes the sums NaN.
    pub(super) fn is_valid(&self) -> bool {
        self.max < f64::INFINITY && !self.others.is_nan()
    }

    pub(super) fn has_weight(&self) -> bool {
        self.max > f64::NEG_INFINITY
    }

    fn merge(self, other: Self, beta: f64) -> Self {
        if self.max < other.max {
            return other.merge(self, beta);
        }
        let scale = if self.max == other.max { 1.0 } else { ((other.max - self.max) / beta).exp() };
        let first = if other.has_weight() { 1.0 } else { 0.0 };
        Self {
            max: self.max,
            others: self.others + scale * (first + other.others),
            squares: self.squares + scale * scale * (first + other.squares),
        }
    }

    /// By halves: the error of a sum of many equal terms grows with the depth only (Higham, "The accuracy of floating
    /// point summation", SIAM Journal on Scientific Computing 1993, doi:10.1137/0914050).
    pub(super) fn merge_all(sums: &[Self], beta: f64) -> Self {
        match sums {
            [] => Self::EMPTY,
            [one] => *one,
            many => {
                let (left, right) = many.split_at(many.len() / 2);
                Self::merge_all(left, beta).merge(Self::merge_all(right, beta), beta)
            }
        }
    }

    /// The weight of the largest value.
    pub(super) fn share(&self) -> f64 {
        if self.has_weight() { 1.0 / (1.0 + self.others) } else { 0.0 }
    }

    /// `(sum w)^2 / sum w^2` (Kong, Liu, Wong, "Sequential imputations and Bayesian missing data problems", Journal of
    /// the American Statistical Association 1994, doi:10.1080/01621459.1994.10476469).
    pub(super) fn ess(&self) -> f64 {
        let sum = 1.0 + self.others;
        if self.has_weight() { sum * sum / (1.0 + self.squares) } else { 0.0 }
    }

    /// `log_sum` is `ln(1 + others)`, and `log_n` the logarithm of the number of values.
    pub(super) fn log_z(&self, beta: f64, log_sum: f64, log_n: f64) -> f64 {
        if self.has_weight() { self.max / beta + (log_sum - log_n) } else { f64::NEG_INFINITY }
    }
}

/// The sum of `exp` of all values, and of its squares, what reaches `limit` left out; NaN counts. `exp(fill)` is 0, and
/// `exp` is `#[inline(always)]`.
#[inline(always)]
pub(super) fn total_and_squares<M: Machine>(
    m: M,
    values: &[f64],
    fill: f64,
    limit: f64,
    exp: impl Fn([M::f64s; 2]) -> [M::f64s; 2],
) -> (f64, f64) {
    let (mut sum, mut squares) = (Sum::zero(m), Sum::zero(m));
    let below = |exp| m.select_f64s(m.less_than_or_equal_f64s(m.splat_f64s(limit), exp), m.splat_f64s(0.0), exp);
    each!(m, values, |chunk| {
        simd::prefetch(chunk, BLOCK);
        let [low, high] = exp(load(m, chunk, fill));
        let exps = [below(low), below(high)];
        sum.add(m, exps);
        squares.add_product(m, exps, exps);
    });
    (sum.total(m), squares.total(m))
}
