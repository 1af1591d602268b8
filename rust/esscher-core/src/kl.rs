//! Estimators of KL(policy || prior) from log-probs of sampled tokens (Schulman, "Approximating KL Divergence", 2020,
//! <http://joschu.net/blog/kl-approx.html>).

use std::str::FromStr;

use crate::{
    Error, Real, Result, Rows, error, logprobs, parallel,
    ragged::check_length,
    simd::{self, Kernel, Machine},
    sum::Sum,
    vectors::{each, load, load_f32},
};

/// Functions of the log-ratio `d = log policy - log prior` whose mean under the policy is near KL(policy || prior); one
/// value of each per completion, in nats.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimates {
    /// `d`: unbiased, can be negative.
    pub k1: Vec<f64>,
    /// `d^2 / 2`: biased, of low variance near 0.
    pub k2: Vec<f64>,
    /// `exp(-d) - 1 + d`: unbiased, never negative.
    pub k3: Vec<f64>,
    /// `|d|`: biased.
    pub abs: Vec<f64>,
}

/// What the log-ratio is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Each token: the estimators of every token's log-ratio, summed over the completion.
    Token,
    /// The completion: the estimators of the summed log-ratio.
    Sequence,
}

impl FromStr for Level {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self> {
        error::choose("level", value, &[("token", Self::Token), ("sequence", Self::Sequence)])
    }
}

/// How each token's estimators are computed; they are summed in f64 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// In f64: k3 within 2e-14 relative.
    F64,
    /// In f32: k1, k2 and abs of every token within 2e-7 relative, k3 within 4e-6.
    Mixed,
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self> {
        error::choose("precision", value, &[("f64", Self::F64), ("mixed", Self::Mixed)])
    }
}

/// All estimators in one pass.
///
/// # Errors
/// If the rows of the two arguments differ, a value is not a log-prob, or a token (at sequence level: a completion) is
/// `-inf` under both, where the log-ratio is undefined.
pub fn estimates<T: Real>(
    policy_logprobs: &(impl Rows<T> + ?Sized),
    prior_logprobs: &(impl Rows<T> + ?Sized),
    level: Level,
    precision: Precision,
) -> Result<Estimates> {
    check_length("prior_logprobs", prior_logprobs.count(), "policy_logprobs", policy_logprobs.count())?;
    let rows = match level {
        Level::Token => {
            parallel::map(policy_logprobs.count(), |i| token_estimates(policy_logprobs, prior_logprobs, i, precision))
        }
        Level::Sequence => sequence_estimates(policy_logprobs, prior_logprobs)?,
    };
    let rows: Vec<[f64; 4]> = rows.into_iter().collect::<Result<_>>()?;
    let column = |which: usize| rows.iter().map(|row| row[which]).collect();
    Ok(Estimates { k1: column(0), k2: column(1), k3: column(2), abs: column(3) })
}

fn token_estimates<T: Real>(
    policy: &(impl Rows<T> + ?Sized),
    prior: &(impl Rows<T> + ?Sized),
    i: usize,
    precision: Precision,
) -> Result<[f64; 4]> {
    let (mut policy_scratch, mut prior_scratch) = (Vec::new(), Vec::new());
    let (l, l0) = (policy.read(i, &mut policy_scratch)?, prior.read(i, &mut prior_scratch)?);
    check_lengths(i, l0.len(), l.len())?;
    let sums = |policy: &[T], prior: &[T]| row_estimates(RowEstimates { policy, prior }, precision);
    match sums(l, l0).or_else(|| sums(&logprobs::capped(l)?, &logprobs::capped(l0)?)) {
        Some(sums) if !sums[0].is_nan() => Ok(sums),
        _ => Err(match (logprobs::first_broken(l), logprobs::first_broken(l0)) {
            (Some(token), _) => logprobs::broken("policy_logprobs", policy, i, l, token),
            (None, Some(token)) => logprobs::broken("prior_logprobs", prior, i, l0, token),
            (None, None) => undefined_ratio(policy, i, l, l0),
        }),
    }
}

fn row_estimates<T: Real>(row: RowEstimates<'_, T>, precision: Precision) -> Option<[f64; 4]> {
    match precision {
        // What f32 cannot hold is left to f64.
        Precision::Mixed if T::FITS_F32 => simd::dispatch(Mixed(row)).or_else(|| simd::dispatch(row)),
        _ => simd::dispatch(row),
    }
}

fn check_lengths(row: usize, got: usize, expected: usize) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::RowLength { name: "prior_logprobs", row, got, other: "policy_logprobs", expected })
}

/// The error for a row whose estimators are NaN: a token is `-inf` under both models, or the log-ratios of the row
/// include both infinities.
fn undefined_ratio<T: Real>(rows: &(impl Rows<T> + ?Sized), i: usize, policy: &[T], prior: &[T]) -> Error {
    let impossible = |value: T| value.to_f64() == f64::NEG_INFINITY;
    match policy.iter().zip(prior).position(|(&l, &l0)| impossible(l) && impossible(l0)) {
        Some(token) => Error::UndefinedRatio { what: "token", place: rows.place(i, token) },
        None => Error::UndefinedRatio { what: "completion", place: i.to_string() },
    }
}

fn sequence_estimates<T: Real>(
    policy: &(impl Rows<T> + ?Sized),
    prior: &(impl Rows<T> + ?Sized),
) -> Result<Vec<Result<[f64; 4]>>> {
    let policy = logprobs::aggregate("policy_logprobs", policy)?;
    let prior = logprobs::aggregate("prior_logprobs", prior)?;
    for (i, (&got, &expected)) in prior.length.iter().zip(&policy.length).enumerate() {
        check_lengths(i, got as usize, expected as usize)?;
    }
    let row = |(i, (l, l0)): (usize, (&f64, &f64))| match l - l0 {
        d if d.is_nan() => Err(Error::UndefinedRatio { what: "completion", place: i.to_string() }),
        d => Ok([d, 0.5 * d * d, k3(d), d.abs()]),
    };
    Ok(policy.log_prob.iter().zip(&prior.log_prob).enumerate().map(row).collect())
}

/// k3 of a single log-ratio.
fn k3(d: f64) -> f64 {
    struct One(f64);
    impl Kernel for One {
        type Output = f64;

        #[inline(always)]
        fn run<M: Machine>(self, m: M) -> f64 {
            m.reduce_max_f64s(simd::k3(m, m.splat_f64s(self.0)))
        }
    }
    simd::dispatch(One(d))
}

/// k1, k2, k3 and abs of the tokens of a row, summed; `None` if a value is above 0.
#[derive(Clone, Copy)]
struct RowEstimates<'a, T> {
    policy: &'a [T],
    prior: &'a [T],
}

/// As [`RowEstimates`], in f32 but for the sums; `None` also where a log-ratio is not between -87 and 87.
struct Mixed<'a, T>(RowEstimates<'a, T>);

struct State<M: Machine> {
    k1: Sum<M>,
    k2: Sum<M>,
    k3: Sum<M>,
    abs: Sum<M>,
}

impl<M: Machine> State<M> {
    #[inline(always)]
    fn zero(m: M) -> Self {
        Self { k1: Sum::zero(m), k2: Sum::zero(m), k3: Sum::zero(m), abs: Sum::zero(m) }
    }

    #[inline(always)]
    fn add(&mut self, m: M, d: [M::f64s; 2], k3: [M::f64s; 2]) {
        self.k1.add(m, d);
        self.k2.add_product(m, d, d);
        self.k3.add(m, k3);
        self.abs.add(m, [m.abs_f64s(d[0]), m.abs_f64s(d[1])]);
    }

    #[inline(always)]
    fn totals(self, m: M) -> [f64; 4] {
        [self.k1.total(m), 0.5 * self.k2.total(m), self.k3.total(m), self.abs.total(m)]
    }
}

impl<T: Real> Kernel for RowEstimates<'_, T> {
    type Output = Option<[f64; 4]>;

    #[inline(always)]
    fn run<M: Machine>(self, m: M) -> Self::Output {
        let (mut state, mut highest) = (State::zero(m), m.splat_f64s(0.0));
        each!(m, self.policy, self.prior, |policy, prior| {
            simd::prefetch(policy, AHEAD);
            simd::prefetch(prior, AHEAD);
            let (l, l0) = (load(m, policy, 0.0), load(m, prior, 0.0));
            let d = [m.sub_f64s(l[0], l0[0]), m.sub_f64s(l[1], l0[1])];
            state.add(m, d, [simd::k3(m, d[0]), simd::k3(m, d[1])]);
            highest = m.max_f64s(l[0], m.max_f64s(l[1], highest));
            highest = m.max_f64s(l0[0], m.max_f64s(l0[1], highest));
        });
        (m.reduce_max_f64s(highest) <= 0.0).then(|| state.totals(m))
    }
}

impl<T: Real> Kernel for Mixed<'_, T> {
    type Output = Option<[f64; 4]>;

    #[inline(always)]
    fn run<M: Machine>(self, m: M) -> Self::Output {
        let RowEstimates { policy, prior } = self.0;
        let mut state = State::zero(m);
        // The largest log-prob, or 0, and the largest log-ratio.
        let (mut highest, mut widest) = (m.splat_f32s(0.0), m.splat_f32s(0.0));
        each!(m, policy, prior, |policy, prior| {
            simd::prefetch(policy, AHEAD);
            simd::prefetch(prior, AHEAD);
            let (l, l0) = (load_f32(m, policy, 0.0), load_f32(m, prior, 0.0));
            let d = m.sub_f32s(l, l0);
            state.add(m, m.widen(d), m.widen(simd::k3_f32(m, d)));
            highest = m.max_f32s(l0, m.max_f32s(l, highest));
            widest = m.max_f32s(m.abs_f32s(d), widest);
        });
        let valid = m.reduce_max_f32s(highest) <= 0.0 && m.reduce_max_f32s(widest) < WIDEST;
        valid.then(|| state.totals(m))
    }
}

/// How many tokens ahead to prefetch.
const AHEAD: usize = 512;

/// For larger log-ratios the exponential may overflow in f32.
const WIDEST: f32 = 87.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Ragged,
        padded::{Mask, Padded},
    };

    fn estimate(policy: [f64; 2], prior: [f64; 2]) -> Result<Estimates> {
        let row = |values| Ragged::new("offsets", values, &[0, 2]).unwrap();
        estimates(&row(&policy), &row(&prior), Level::Token, Precision::F64)
    }

    #[test]
    fn impossible_tokens_have_no_ratio() {
        simd::paths::each(|| {
            let (gone, here) = (f64::NEG_INFINITY, -1.0);
            let undefined = |what, place: &str| Err(Error::UndefinedRatio { what, place: place.into() });
            assert_eq!(estimate([here, gone], [here, gone]), undefined("token", "1"));
            assert_eq!(estimate([here, gone], [gone, here]), undefined("completion", "0"));
            let prior_gone = estimate([here, here], [gone, here]).unwrap();
            assert_eq!((prior_gone.k1[0], prior_gone.k3[0]), (f64::INFINITY, f64::INFINITY));
            let policy_gone = estimate([gone, here], [here, here]).unwrap();
            assert_eq!((policy_gone.k1[0], policy_gone.k3[0]), (f64::NEG_INFINITY, f64::INFINITY));
        });
    }

    #[test]
    fn bad_rows_are_named() {
        simd::paths::each(|| {
            let message = |result: Result<Estimates>| result.unwrap_err().to_string();
            assert!(message(estimate([0.5, -1.0], [-1.0, -1.0])).starts_with("policy_logprobs[0] is 0.5"));
            assert!(message(estimate([-1.0, -1.0], [-1.0, f64::NAN])).starts_with("prior_logprobs[1] is NaN"));
            let values = [-1.0f32; 4];
            let rows = |lengths| Padded::new("logprobs", &values, 2, 2, Mask::Lengths(lengths)).unwrap();
            let got = estimates(&rows(&[2, 1]), &rows(&[2, 2]), Level::Token, Precision::Mixed);
            assert_eq!(message(got), "row 1 of prior_logprobs has 2 tokens, of policy_logprobs 1: they must be equal");
        });
    }

    #[test]
    fn what_rounding_left_above_zero_is_read_as_zero() {
        simd::paths::each(|| {
            for level in [Level::Token, Level::Sequence] {
                for precision in [Precision::F64, Precision::Mixed] {
                    let by = |policy: [f32; 2], prior: [f32; 2]| {
                        let row = |values| Ragged::new("offsets", values, &[0, 2]).unwrap();
                        estimates(&row(&policy), &row(&prior), level, precision).unwrap()
                    };
                    assert_eq!(by([1e-7, -1.0], [-1.5, 9e-5]), by([0.0, -1.0], [-1.5, 0.0]));
                }
            }
        });
    }

    #[test]
    fn mixed_precision_keeps_its_bound() {
        simd::paths::each(|| {
            let policy: Vec<f32> = (0..5000).map(|i| -10.0 - (i as f32 * 0.37).sin() * 9.0).collect();
            let prior: Vec<f32> = policy.iter().enumerate().map(|(i, l)| l + (i as f32 * 0.11).cos() * 0.01).collect();
            let row = |values| Ragged::new("offsets", values, &[0, 5000]).unwrap();
            let by = |precision| estimates(&row(&policy), &row(&prior), Level::Token, precision).unwrap();
            let (exact, mixed) = (by(Precision::F64), by(Precision::Mixed));
            assert!((mixed.k3[0] / exact.k3[0] - 1.0).abs() < 4e-6);
            assert!((mixed.k1[0] - exact.k1[0]).abs() < 2e-7 * exact.abs[0]);
        });
    }

    #[test]
    fn what_single_precision_cannot_hold_is_done_in_double() {
        simd::paths::each(|| {
            let row = |values| Ragged::new("offsets", values, &[0, 1]).unwrap();
            let got = estimates(&row(&[-200.0f32]), &row(&[-1.0f32]), Level::Token, Precision::Mixed).unwrap();
            assert!((got.k3[0] / (199f64.exp() - 200.0) - 1.0).abs() < 1e-13);
        });
    }
}
