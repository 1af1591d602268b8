//! Estimators of KL(policy || prior) from log-probs of sampled tokens (Schulman, "Approximating KL Divergence", 2020).

use std::str::FromStr;

use crate::{Error, Ragged, Real, Result, logprobs, parallel, sum::sum};

/// A function of the log-ratio `d = log policy - log prior` whose mean under the policy is near KL(policy || prior).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Estimator {
    /// `d`: unbiased, can be negative.
    K1,
    /// `d^2 / 2`: biased, of low variance near 0.
    K2,
    /// `exp(-d) - 1 + d`: unbiased, never negative.
    K3,
    /// `|d|`: biased.
    Abs,
}

impl FromStr for Estimator {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self> {
        match value {
            "k1" => Ok(Self::K1),
            "k2" => Ok(Self::K2),
            "k3" => Ok(Self::K3),
            "abs" => Ok(Self::Abs),
            _ => Err(Error::Choice { name: "estimator", value: value.into(), choices: "k1, k2, k3, abs" }),
        }
    }
}

impl Estimator {
    /// The estimator at log-ratio `d`.
    #[must_use]
    pub fn at(self, d: f64) -> f64 {
        match self {
            Self::K1 => d,
            Self::K2 => 0.5 * d * d,
            Self::K3 => k3(d),
            Self::Abs => d.abs(),
        }
    }
}

/// What the log-ratio is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Each token: the estimator of every token's log-ratio, summed over the completion.
    Token,
    /// The completion: the estimator of the summed log-ratio.
    Sequence,
}

impl FromStr for Level {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self> {
        match value {
            "token" => Ok(Self::Token),
            "sequence" => Ok(Self::Sequence),
            _ => Err(Error::Choice { name: "level", value: value.into(), choices: "token, sequence" }),
        }
    }
}

/// One value per completion, in nats.
///
/// # Errors
/// If the rows of the two arguments differ, a value is not a log-prob, or a token (at sequence level: a completion) is
/// `-inf` under both, where the log-ratio is undefined.
pub fn kl<T: Real>(
    policy_logprobs: &Ragged<'_, T>,
    prior_logprobs: &Ragged<'_, T>,
    estimator: Estimator,
    level: Level,
) -> Result<Vec<f64>> {
    prior_logprobs.check_same_rows("prior_logprobs", "policy_logprobs", policy_logprobs)?;
    match level {
        Level::Token => token_kl(policy_logprobs, prior_logprobs, estimator),
        Level::Sequence => sequence_kl(policy_logprobs, prior_logprobs, estimator),
    }
}

fn token_kl<T: Real>(policy: &Ragged<'_, T>, prior: &Ragged<'_, T>, estimator: Estimator) -> Result<Vec<f64>> {
    logprobs::check("policy_logprobs", policy.values())?;
    logprobs::check("prior_logprobs", prior.values())?;
    check_ratios("token", policy.values(), prior.values())?;
    let values = parallel::map(policy.len(), |i| row_kl(policy.row(i), prior.row(i), estimator));
    // A row with an infinite log-ratio of either sign: the completion is impossible under both.
    match values.iter().position(|value| value.is_nan()) {
        None => Ok(values),
        Some(index) => Err(Error::UndefinedRatio { what: "completion", index }),
    }
}

fn row_kl<T: Real>(policy: &[T], prior: &[T], estimator: Estimator) -> f64 {
    sum(policy.len(), |t| estimator.at(policy[t].into() - prior[t].into()))
}

fn sequence_kl<T: Real>(policy: &Ragged<'_, T>, prior: &Ragged<'_, T>, estimator: Estimator) -> Result<Vec<f64>> {
    let policy = logprobs::sequence_logprobs("policy_logprobs", policy)?;
    let prior = logprobs::sequence_logprobs("prior_logprobs", prior)?;
    check_ratios("completion", &policy, &prior)?;
    Ok(policy.iter().zip(&prior).map(|(l, l0)| estimator.at(l - l0)).collect())
}

fn check_ratios<T: Real>(what: &'static str, policy: &[T], prior: &[T]) -> Result<()> {
    let impossible = |(l, l0): (&T, &T)| (*l).into() == f64::NEG_INFINITY && (*l0).into() == f64::NEG_INFINITY;
    match policy.iter().zip(prior).position(impossible) {
        None => Ok(()),
        Some(index) => Err(Error::UndefinedRatio { what, index }),
    }
}

/// `exp(-d) - 1 + d`, which is `d^2/2 - d^3/6 + ...`: near 0 the closed form cancels, so the series is summed instead.
fn k3(d: f64) -> f64 {
    /// Below it, the terms left out are under one part in 2^53 of the first.
    const SERIES_BELOW: f64 = 0.5;
    const LAST_TERM: i32 = 17;
    if d == f64::NEG_INFINITY {
        return f64::INFINITY;
    }
    if d.abs() >= SERIES_BELOW {
        return (-d).exp_m1() + d;
    }
    // Horner: d^2/2 (1 - d/3 (1 - d/4 (1 - ...))).
    let tail = (3..=LAST_TERM).rev().fold(1.0, |inner, k| 1.0 - d / f64::from(k) * inner);
    0.5 * d * d * tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::unreadable_literal, reason = "reference values as the arithmetic printed them")]
    fn k3_keeps_its_digits_near_zero() {
        // exp(-d) - 1 + d by arbitrary-precision arithmetic.
        for (d, exact) in [
            (1e-09, 4.999999998333334e-19),
            (-0.001, 5.00166708341668e-07),
            (0.1, 0.0048374180359595734),
            (-0.49999, 0.14871478356985693),
            (0.49999, 0.10652672504955718),
            (0.50001, 0.1065345944363627),
            (30.0, 29.000000000000092),
            (-30.0, 10686474581493.463),
        ] {
            let got = k3(d);
            assert!((got / exact - 1.0).abs() < 2e-15, "k3({d}) = {got}, not {exact}");
        }
    }

    #[test]
    fn k3_is_never_negative_and_never_nan() {
        for d in [0.0, -0.0, 1e-300, -1e-300, 1e-17, 800.0, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(k3(d) >= 0.0, "k3({d}) = {}", k3(d));
        }
    }

    #[test]
    fn impossible_tokens_have_no_ratio() {
        let (gone, here) = (f64::NEG_INFINITY, -1.0);
        let estimate = |policy: [f64; 2], prior: [f64; 2], estimator| {
            let row = |values| Ragged::new("offsets", values, &[0, 2]).unwrap();
            kl(&row(&policy), &row(&prior), estimator, Level::Token)
        };
        let both = estimate([here, gone], [here, gone], Estimator::K2);
        assert_eq!(both, Err(Error::UndefinedRatio { what: "token", index: 1 }));
        let either = estimate([here, gone], [gone, here], Estimator::K1);
        assert_eq!(either, Err(Error::UndefinedRatio { what: "completion", index: 0 }));
        assert_eq!(estimate([here, here], [gone, here], Estimator::K1), Ok(vec![f64::INFINITY]));
    }
}
