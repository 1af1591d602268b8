//! Per-token log-probs, and their sum over a sequence.

use crate::{
    Error, Real, Result, Rows, parallel,
    simd::{self, Kernel, Machine},
    sum::Sum,
    vectors::{each, load},
};

/// Sum, mean and number of the log-probs of each sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregates {
    /// The log-prob of each sequence, in nats.
    pub log_prob: Vec<f64>,
    /// The mean log-prob of its tokens, in nats; NaN without tokens.
    pub mean: Vec<f64>,
    /// The number of its tokens.
    pub length: Vec<i64>,
}

/// A log-prob above 0 by at most this is a rounding error, and read as 0.
pub const ROUNDING: f64 = 1e-4;

/// The log-prob of every sequence, in nats, `log p(y) = sum_t log p(y_t | y_<t)`, with its mean and length. A row
/// without tokens has log-prob 0.
///
/// # Errors
/// If a value is not a log-prob: above 0 by more than [`ROUNDING`], or NaN.
pub fn aggregate<T: Real>(name: &'static str, logprobs: &(impl Rows<T> + ?Sized)) -> Result<Aggregates> {
    let row = |i| {
        let mut scratch = Vec::new();
        let row = logprobs.read(i, &mut scratch)?;
        let sum = |row: &[T]| simd::dispatch(RowSum { row, ahead: logprobs.ahead() });
        match sum(row).or_else(|| sum(&capped(row)?)) {
            Some(sum) => Ok((sum, row.len())),
            None => Err(broken(name, logprobs, i, row, first_broken(row).unwrap_or_default())),
        }
    };
    let sums: Vec<(f64, usize)> = parallel::map(logprobs.count(), row).into_iter().collect::<Result<_>>()?;
    Ok(Aggregates {
        log_prob: sums.iter().map(|&(sum, _)| sum).collect(),
        mean: sums.iter().map(|&(sum, len)| sum / len as f64).collect(),
        length: sums.iter().map(|&(_, len)| len as i64).collect(),
    })
}

/// The index of the first value of a row that is not a log-prob.
pub(crate) fn first_broken<T: Real>(row: &[T]) -> Option<usize> {
    row.iter().map(|value| value.to_f64()).position(|value| value.is_nan() || value > ROUNDING)
}

/// The row with rounding errors above 0 replaced by 0; `None` if a value is not a log-prob.
pub(crate) fn capped<T: Real>(row: &[T]) -> Option<Vec<T>> {
    let cap = |&value: &T| if value.to_f64() > 0.0 { T::default() } else { value };
    first_broken(row).is_none().then(|| row.iter().map(cap).collect())
}

/// The error that names value `token` of row `i`.
pub(crate) fn broken<T: Real>(
    name: &'static str,
    rows: &(impl Rows<T> + ?Sized),
    i: usize,
    row: &[T],
    token: usize,
) -> Error {
    Error::LogProb { name, place: rows.place(i, token), value: row[token].to_f64() }
}

/// The sum of a row; `None` if a value is above 0 or NaN.
struct RowSum<'a, T> {
    row: &'a [T],
    ahead: usize,
}

impl<T: Real> Kernel for RowSum<'_, T> {
    type Output = Option<f64>;

    #[inline(always)]
    fn run<M: Machine>(self, m: M) -> Option<f64> {
        let (mut sum, mut highest) = (Sum::zero(m), m.splat_f64s(0.0));
        each!(m, self.row, |chunk| {
            simd::prefetch(chunk, self.ahead);
            let x = load(m, chunk, 0.0);
            sum.add(m, x);
            highest = m.max_f64s(x[0], m.max_f64s(x[1], highest));
        });
        let sum = sum.total(m);
        // NaN is lost in the maximum, but not in the sum.
        (m.reduce_max_f64s(highest) <= 0.0 && !sum.is_nan()).then_some(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bf16, Padded, Ragged, padded::Mask};

    #[test]
    fn minus_infinity_stays() {
        simd::paths::each(|| {
            let values = [-1.0f32, f32::NEG_INFINITY, -0.5];
            let rows = Ragged::new("offsets", &values, &[0, 2, 2, 3]).unwrap();
            let got = aggregate("logprobs", &rows).unwrap();
            assert_eq!(got.log_prob, [f64::NEG_INFINITY, 0.0, -0.5]);
            assert_eq!(got.length, [2, 0, 1]);
            assert_eq!((got.mean[0], got.mean[2]), (f64::NEG_INFINITY, -0.5));
            assert!(got.mean[1].is_nan());
        });
    }

    #[test]
    fn nan_and_positive_values_are_refused() {
        simd::paths::each(|| {
            for bad in [f64::NAN, 1.001e-4, f64::INFINITY] {
                let values = [-1.0, bad];
                let rows = Ragged::new("offsets", &values, &[0, 2]).unwrap();
                let error = aggregate("logprobs", &rows).unwrap_err().to_string();
                assert!(error.starts_with("logprobs[1] is "), "{error}");
            }
        });
    }

    #[test]
    fn what_rounding_left_above_zero_is_read_as_zero() {
        simd::paths::each(|| {
            for above in [f64::MIN_POSITIVE, 1e-9, 1e-4] {
                let values = [-1.0, above, -0.0, f64::NEG_INFINITY];
                let rows = Ragged::new("offsets", &values, &[0, 3, 4]).unwrap();
                assert_eq!(aggregate("logprobs", &rows).unwrap().log_prob, [-1.0, f64::NEG_INFINITY]);
            }
            let bits = [0xbf80, 0x3886];
            let rows = Ragged::new("offsets", Bf16::from_bits(&bits), &[0, 2]).unwrap();
            assert_eq!(aggregate("logprobs", &rows).unwrap().log_prob, [-1.0]);
        });
    }

    #[test]
    fn padding_is_never_read() {
        simd::paths::each(|| {
            let values = [f32::NAN, -1.0, 7.0, -0.5, f32::INFINITY, -0.25];
            let mask = [0, 1, 0, 1, 0, 1];
            let rows = Padded::new("logprobs", &values, 2, 3, Mask::Bytes(&mask)).unwrap();
            assert_eq!(aggregate("logprobs", &rows).unwrap().log_prob, [-1.0, -0.75]);
            let rows = Padded::new("logprobs", &values, 2, 3, Mask::Bytes(&[0, 1, 0, 1, 1, 0])).unwrap();
            let error = aggregate("logprobs", &rows).unwrap_err().to_string();
            assert!(error.starts_with("logprobs[1, 1] is inf"), "{error}");
        });
    }

    #[test]
    fn a_long_sum_keeps_its_digits() {
        simd::paths::each(|| {
            let values = vec![-0.1f32; 1 << 22];
            let rows = Ragged::new("offsets", &values, &[0, 1 << 22]).unwrap();
            let exact = f64::from(-0.1f32) * f64::from(1 << 22);
            assert!((aggregate("logprobs", &rows).unwrap().log_prob[0] / exact - 1.0).abs() < 1e-13);
        });
    }
}
