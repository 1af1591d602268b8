//! Sums in f64, in an order that depends on the data's length only.

use crate::simd::Machine;

/// A running sum, in two vectors so that one addition need not wait for the last.
#[derive(Clone, Copy)]
pub(crate) struct Sum<M: Machine>([M::f64s; 2]);

impl<M: Machine> Sum<M> {
    #[inline(always)]
    pub(crate) fn zero(m: M) -> Self {
        Self([m.splat_f64s(0.0); 2])
    }

    #[inline(always)]
    pub(crate) fn add(&mut self, m: M, terms: [M::f64s; 2]) {
        self.0 = [m.add_f64s(self.0[0], terms[0]), m.add_f64s(self.0[1], terms[1])];
    }

    #[inline(always)]
    pub(crate) fn add_product(&mut self, m: M, left: [M::f64s; 2], right: [M::f64s; 2]) {
        self.0 = [m.fma(left[0], right[0], self.0[0]), m.fma(left[1], right[1], self.0[1])];
    }

    #[inline(always)]
    pub(crate) fn total(self, m: M) -> f64 {
        m.reduce_sum_f64s(m.add_f64s(self.0[0], self.0[1]))
    }
}

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
