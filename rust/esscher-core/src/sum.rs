//! Sums in f64, in an order that depends on the data's length only.

/// A floating-point type that widens to f64 without loss.
pub trait Real: Copy + Send + Sync + Into<f64> {}

impl Real for f32 {}
impl Real for f64 {}

/// Terms per block: partial sums of blocks keep the rounding error of a long sum near that of a short one.
const BLOCK: usize = 4096;

/// The sum of `term(i)` for `i` in `0..len`.
pub(crate) fn sum(len: usize, term: impl Fn(usize) -> f64) -> f64 {
    (0..len).step_by(BLOCK).map(|start| (start..len.min(start + BLOCK)).map(&term).sum::<f64>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_sum_keeps_its_digits() {
        let n = 10_000_000;
        let total = sum(n, |_| 0.1);
        assert!((total / (0.1 * n as f64) - 1.0).abs() < 1e-13);
    }
}
