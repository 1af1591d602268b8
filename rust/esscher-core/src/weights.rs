//! Importance weights by log-sum-exp, group by group.

use crate::{Error, Offsets, Result, parallel, ragged::check_length, sum::sum};

/// Self-normalised importance weights, and what they say of the target, group by group.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// Log of the self-normalised weights, one per completion: in every group their exponentials sum to 1.
    pub log_weights: Vec<f64>,
    /// Log of the mean unnormalised weight, one per group: the estimate of log Z.
    pub log_z: Vec<f64>,
    /// Effective sample size `(sum w)^2 / sum w^2`, one per group.
    pub ess: Vec<f64>,
}

/// Check that every value is finite or `-inf`.
///
/// # Errors
/// Names the first value that is NaN or `+inf`.
pub fn check(name: &'static str, values: &[f64]) -> Result<()> {
    match values.iter().position(|value| value.is_nan() || *value == f64::INFINITY) {
        None => Ok(()),
        Some(index) => Err(Error::LogWeight { name, index, value: values[index] }),
    }
}

/// `log_target - log_proposal`, the log of the unnormalised importance weights.
///
/// # Errors
/// If the lengths differ, `log_target` is NaN or `+inf` somewhere, or `log_proposal` is not finite: a sample that the
/// proposal cannot produce has no weight.
pub fn log_ratios(log_target: &[f64], log_proposal: &[f64]) -> Result<Vec<f64>> {
    check_length("log_proposal", log_proposal.len(), "log_target", log_target.len())?;
    check("log_target", log_target)?;
    if let Some(index) = log_proposal.iter().position(|value| !value.is_finite()) {
        return Err(Error::Proposal { index, value: log_proposal[index] });
    }
    Ok(log_target.iter().zip(log_proposal).map(|(target, proposal)| target - proposal).collect())
}

/// Normalise unnormalised log-weights in every group.
///
/// A group in which nothing has weight gets `log_z = -inf` and `ess = 0`, and its weights stay `-inf`.
///
/// # Errors
/// If a value is NaN or `+inf`.
pub fn normalise(log_ratios: &[f64], groups: &Offsets<'_>) -> Result<Weights> {
    check("log_ratios", log_ratios)?;
    let mut log_weights = log_ratios.to_vec();
    let (log_z, ess) = parallel::map_each(groups.split_mut(&mut log_weights), normalise_group).into_iter().unzip();
    Ok(Weights { log_weights, log_z, ess })
}

fn normalise_group(log_weights: &mut [f64]) -> (f64, f64) {
    let Some(top) = argmax(log_weights) else {
        return (f64::NEG_INFINITY, 0.0);
    };
    let max = log_weights[top];
    if max == f64::NEG_INFINITY {
        return (f64::NEG_INFINITY, 0.0);
    }
    let others = sum(log_weights.len(), |i| if i == top { 0.0 } else { (log_weights[i] - max).exp() });
    let squares = sum(log_weights.len(), |i| (2.0 * (log_weights[i] - max)).exp());
    let log_n = (log_weights.len() as f64).ln();
    // ln_1p keeps the digits of a group that one completion dominates.
    let log_sum = others.ln_1p();
    for value in log_weights.iter_mut() {
        *value = (*value - max) - log_sum;
    }
    (max + (log_sum - log_n), (1.0 + others).powi(2) / squares)
}

/// The index of the first largest value.
pub(crate) fn argmax(values: &[f64]) -> Option<usize> {
    (0..values.len()).reduce(|best, i| if values[i] > values[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(log_ratios: &[f64]) -> Weights {
        let offsets = [0, log_ratios.len() as i64];
        normalise(log_ratios, &Offsets::new("groups", &offsets, log_ratios.len()).unwrap()).unwrap()
    }

    #[test]
    fn equal_weights_have_full_ess() {
        let got = weights(&[1000.0; 4]);
        assert_eq!(got.log_z, [1000.0]);
        assert_eq!(got.ess, [4.0]);
        assert!(got.log_weights.iter().all(|w| (w - 0.25f64.ln()).abs() < 1e-15));
    }

    #[test]
    fn nothing_has_weight() {
        for log_ratios in [&[][..], &[f64::NEG_INFINITY; 3]] {
            let got = weights(log_ratios);
            assert_eq!((got.log_z[0], got.ess[0]), (f64::NEG_INFINITY, 0.0));
            assert_eq!(got.log_weights, log_ratios);
        }
    }

    #[test]
    fn one_dominates_by_far() {
        let got = weights(&[0.0, -60.0]);
        assert_eq!(got.log_weights, [-(-60f64).exp(), -60.0]);
    }

    #[test]
    fn proposals_must_be_able_to_propose() {
        let error = log_ratios(&[0.0, 0.0], &[-1.0, f64::NEG_INFINITY]).unwrap_err().to_string();
        assert!(error.starts_with("log_proposal[1] is -inf"), "{error}");
    }
}
