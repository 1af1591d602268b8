//! Per-token log-probs, and their sum over a sequence.

use crate::{Error, Ragged, Real, Result, parallel, sum::sum};

/// Check that every value is a log-prob: at most 0, `-inf` included, and not NaN.
///
/// # Errors
/// Names the first value that is not.
pub fn check<T: Real>(name: &'static str, values: &[T]) -> Result<()> {
    match values.iter().position(|&value| !is_logprob(value.into())) {
        None => Ok(()),
        Some(index) => Err(Error::LogProb { name, index, value: values[index].into() }),
    }
}

/// NaN compares false, so it is not one.
fn is_logprob(value: f64) -> bool {
    value <= 0.0
}

/// The log-prob of every sequence, in nats: `log p(y) = sum_t log p(y_t | y_<t)`. A row without tokens has log-prob 0.
///
/// # Errors
/// If a value is not a log-prob.
pub fn sequence_logprobs<T: Real>(name: &'static str, logprobs: &Ragged<'_, T>) -> Result<Vec<f64>> {
    check(name, logprobs.values())?;
    Ok(parallel::map(logprobs.len(), |i| row_sum(logprobs.row(i))))
}

fn row_sum<T: Real>(row: &[T]) -> f64 {
    sum(row.len(), |t| row[t].into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minus_infinity_stays() {
        let values = [-1.0f32, f32::NEG_INFINITY, -0.5];
        let rows = Ragged::new("offsets", &values, &[0, 2, 2, 3]).unwrap();
        assert_eq!(sequence_logprobs("logprobs", &rows).unwrap(), [f64::NEG_INFINITY, 0.0, -0.5]);
    }

    #[test]
    fn nan_and_positive_values_are_refused() {
        for bad in [f64::NAN, 1e-9, f64::INFINITY] {
            let error = check("logprobs", &[-1.0, bad]).unwrap_err().to_string();
            assert!(error.starts_with("logprobs[1] is "), "{error}");
        }
    }
}
