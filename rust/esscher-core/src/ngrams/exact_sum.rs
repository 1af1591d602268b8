//! Sums that do not depend on the order of their terms (Neal, "Fast exact summation using small and large
//! superaccumulators", 2015, arXiv:1505.05571).

const LIMBS: usize = 34;
/// One digit of the sum, and how many bits it has.
const DIGIT: u128 = u64::MAX as u128;
const BITS: usize = 64;
/// The lowest bit of an f64 is worth 2 to this.
const LOWEST: i32 = -1074;

/// A sum of finite numbers, each at least 0, that is rounded once, in the end.
///
/// The sum is an integer in units of the smallest f64, in digits of 64 bits; each digit has 64 more bits for its
/// carries, which are resolved in the end.
#[derive(Debug, Clone)]
pub(super) struct ExactSum([u128; LIMBS]);

impl Default for ExactSum {
    fn default() -> Self {
        Self([0; LIMBS])
    }
}

impl ExactSum {
    /// Add one number.
    pub(super) fn add(&mut self, term: f64) {
        debug_assert!(term.is_finite() && term.is_sign_positive(), "{term}");
        let exponent = (term.to_bits() >> 52) as usize;
        let hidden = u64::from(exponent > 0) << 52;
        let mantissa = term.to_bits() & (u64::MAX >> 12) | hidden;
        let shift = exponent.max(1) - 1;
        let wide = u128::from(mantissa) << (shift % BITS);
        self.0[shift / BITS] += wide & DIGIT;
        self.0[shift / BITS + 1] += wide >> BITS;
    }

    /// Add another sum.
    pub(super) fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(limb, more)| *limb += more);
    }

    /// The sum.
    pub(super) fn total(&self) -> f64 {
        let digits = self.digits();
        let Some(top) = digits.iter().rposition(|&digit| digit > 0) else { return 0.0 };
        let below = if top > 0 { digits[top - 1] } else { 0 };
        let highest = (digits[top] << BITS | below) as f64;
        let exponent = (top as i32 - 1) * BITS as i32 + LOWEST;
        // In two steps: a power of two by itself may be too small.
        let half = exponent / 2;
        highest * 2f64.powi(half) * 2f64.powi(exponent - half)
    }

    fn digits(&self) -> [u128; LIMBS] {
        let mut digits = self.0;
        let mut carry = 0;
        for digit in &mut digits {
            let sum = *digit + carry;
            (*digit, carry) = (sum & DIGIT, sum >> BITS);
        }
        digits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(terms: impl IntoIterator<Item = f64>) -> f64 {
        let mut sum = ExactSum::default();
        terms.into_iter().for_each(|term| sum.add(term));
        sum.total()
    }

    #[test]
    fn every_magnitude_comes_back_as_it_was() {
        let numbers = [0.0, 5e-324, 3e-320, f64::MIN_POSITIVE, 1e-300, 0.1, 1.0, 12_345.678, 1e300, f64::MAX];
        for number in numbers {
            assert_eq!(total([number]), number);
        }
    }

    #[test]
    fn nothing_is_lost_between_magnitudes() {
        assert_eq!(total(std::iter::once(1.0).chain(std::iter::repeat_n(1e-16, 1_000_000))), 1.000_000_000_1);
        assert_eq!(total([0.1; 10]), 1.0);
        assert_eq!(total([1e16, 1.0, 1.0, 1e-10]), 1e16 + 2.0);
    }

    #[test]
    fn neither_order_nor_parts_matter() {
        let terms: Vec<f64> = (1..5000).map(|i| f64::from(i).powi(-20 + i % 40)).collect();
        let expected = total(terms.iter().copied());
        assert_eq!(total(terms.iter().rev().copied()), expected);
        let mut merged = ExactSum::default();
        for part in terms.chunks(77).rev() {
            let mut sum = ExactSum::default();
            for &term in part {
                sum.add(term);
            }
            merged.merge(&sum);
        }
        assert_eq!(merged.total(), expected);
    }
}
