//! The chance that one of some completions is in a random set of m.

use crate::sum::sum;

/// The largest sets of weighted completions.
pub(super) const MOST: usize = 8;
/// The effective sample size may fall short of m by this much, as rounding makes it for equal weights.
const ROUNDING: f64 = 1e-12;

/// The chance that one of `of` completions, at least 1, is among `m` that are drawn from `rows` without replacement:
/// `1 - C(rows - of, m) / C(rows, m)`.
///
/// A sum of positive terms, the chance that the one drawn in step j is the first: nothing cancels. `of` and `m` may be
/// exchanged, so the shorter sum is taken; n-grams of different `of` together cost no more than their occurrences.
pub(super) fn inclusion(rows: usize, of: usize, m: usize) -> f64 {
    let (steps, size) = (of.min(m), of.max(m) as f64);
    let (mut included, mut missed) = (0.0, 1.0);
    for j in 0..steps {
        let left = (rows - j) as f64;
        included += missed * (size / left);
        missed *= (left - size).max(0.0) / left;
        if missed == 0.0 {
            break;
        }
    }
    included.min(1.0)
}

/// Elementary symmetric polynomials of some weights, from the first: entry k - 1 is the sum over all sets of k of the
/// product of their weights.
pub(super) type Polynomials<const M: usize> = [f64; M];

/// Add a weight. Terms are positive, so nothing cancels.
pub(super) fn add_weight<const M: usize>(polynomials: &mut Polynomials<M>, weight: f64) {
    for k in (0..M).rev() {
        polynomials[k] += weight * if k == 0 { 1.0 } else { polynomials[k - 1] };
    }
}

/// Add all weights of others.
pub(super) fn add_all<const M: usize>(polynomials: &mut Polynomials<M>, others: &Polynomials<M>) {
    for k in (0..M).rev() {
        let both: f64 = (0..k).map(|i| polynomials[i] * others[k - 1 - i]).sum();
        polynomials[k] += others[k] + both;
    }
}

/// Sets of `m` of some weighted completions; each counts by the product of its weights.
#[derive(Debug, Clone)]
pub(super) struct Subsets {
    m: usize,
    all: Polynomials<MOST>,
}

impl Subsets {
    /// Sets of at most [`MOST`]; `None` if there are fewer effective completions than that: few would carry all sets.
    pub(super) fn new(weights: &[f64], m: usize) -> Option<Self> {
        if ess(weights) < m as f64 * (1.0 - ROUNDING) {
            return None;
        }
        let mut all = [0.0; MOST];
        for &weight in weights {
            add_weight(&mut all, weight);
        }
        Some(Self { m, all })
    }

    /// The chance that one of the completions whose polynomials are `of` is in a set.
    ///
    /// Sets with j of them have the total weight `of_j * without_(m - j)`; polynomials without them come by dividing.
    pub(super) fn inclusion<const M: usize>(&self, of: &Polynomials<M>) -> f64 {
        let mut without = [1.0; MOST];
        for k in 1..self.m {
            let with: f64 = (1..=k).map(|j| of[j - 1] * without[k - j]).sum();
            without[k] = (self.all[k - 1] - with).max(0.0);
        }
        let included: f64 = (1..=self.m).map(|j| of[j - 1] * without[self.m - j]).sum();
        (included / self.all[self.m - 1]).min(1.0)
    }

    /// The chance that one completion is in a set.
    pub(super) fn inclusion_of(&self, weight: f64) -> f64 {
        let mut of = [0.0; MOST];
        of[0] = weight;
        self.inclusion(&of)
    }
}

/// The effective sample size of weights, at most 1; 0 if there is no weight.
pub(super) fn ess(weights: &[f64]) -> f64 {
    total(weights) * scale(weights)
}

/// The factor that makes weights add up to the effective sample size, and equal ones 1.
pub(super) fn scale(weights: &[f64]) -> f64 {
    let squares = sum(weights.len(), |i| weights[i] * weights[i]);
    if squares > 0.0 { total(weights) / squares } else { 0.0 }
}

fn total(weights: &[f64]) -> f64 {
    sum(weights.len(), |i| weights[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_are_those_of_binomials() {
        // 1 - C(6, 3) / C(10, 3), 1 - C(8, 4) / C(10, 4), and the certain ones.
        for (rows, of, m, expected) in
            [(10, 4, 3, 100.0 / 120.0), (10, 2, 4, 140.0 / 210.0), (9, 1, 2, 2.0 / 9.0), (5, 3, 3, 1.0), (4, 1, 4, 1.0)]
        {
            assert!((inclusion(rows, of, m) - expected).abs() < 1e-15);
            assert!((inclusion(rows, m, of) - expected).abs() < 1e-15);
        }
    }

    #[test]
    fn a_long_product_keeps_its_digits() {
        // 1 - (1 - m / N)(1 - m / (N - 1)) ... as a sum of logarithms, which is good to 1e-10 here.
        let (rows, of, m) = (1_000_000, 3000, 200);
        let log: f64 = (0..of).map(|j| (-f64::from(m) / f64::from(rows - j)).ln_1p()).sum();
        assert!((inclusion(rows as usize, of as usize, m as usize) / -log.exp_m1() - 1.0).abs() < 1e-13);
    }

    #[test]
    fn equal_weights_are_no_weights() {
        for rows in 1..30usize {
            for m in 1..=MOST.min(rows) {
                let subsets = Subsets::new(&vec![0.7; rows], m).unwrap();
                let mut of = [0.0; MOST];
                for count in 1..=rows {
                    add_weight(&mut of, 0.7);
                    let (got, expected) = (subsets.inclusion(&of), inclusion(rows, count, m));
                    assert!((got - expected).abs() < 1e-11, "{rows} {m} {count}: {got}, not {expected}");
                }
            }
        }
    }

    #[test]
    fn parts_are_joined_as_the_whole() {
        let weights = [0.3, 1.0, 0.25, 0.5, 0.125];
        let polynomials = |weights: &[f64]| {
            let mut all: Polynomials<MOST> = [0.0; MOST];
            for &weight in weights {
                add_weight(&mut all, weight);
            }
            all
        };
        for cut in 0..=weights.len() {
            let mut joined = polynomials(&weights[..cut]);
            add_all(&mut joined, &polynomials(&weights[cut..]));
            for (got, expected) in joined.iter().zip(polynomials(&weights)) {
                assert!((got - expected).abs() < 1e-15);
            }
        }
    }

    #[test]
    fn few_effective_completions_make_no_sets() {
        assert!(Subsets::new(&[1.0, 1.0, 0.0], 2).is_some());
        assert!(Subsets::new(&[1.0, 1.0, 0.0], 3).is_none());
        assert!(Subsets::new(&[1.0, 0.9], 2).is_none());
        assert!(Subsets::new(&[0.0], 1).is_none());
    }
}
