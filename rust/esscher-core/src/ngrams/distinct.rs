//! Distinct-n.

use super::{
    census::{Census, Tally, Window},
    count::{count_groups, longest},
    group::Group,
};
use crate::{Masked, Offsets, Result};

/// Distinct-n of every group, for each n of `orders`: different n-grams over all n-grams of its completions; n-grams
/// never cross a completion's border (Li et al., "A Diversity-Promoting Objective Function for Neural Conversation
/// Models", NAACL 2016, section 5, arXiv:1510.03055).
///
/// First come all groups at the first order, then all at the second. NaN for a group without n-grams.
///
/// # Errors
/// If an order is 0, or a group has 2^32 tokens or more.
pub fn distinct<'a>(token_ids: impl Into<Masked<'a, u32>>, groups: &Offsets<'_>, orders: &[usize]) -> Result<Vec<f64>> {
    let shares = |group: &Group<'_>, repetitions: Repetitions| {
        let share = |&n: &usize| repetitions.share(n, group.total(n));
        orders.iter().map(share).collect::<Vec<_>>()
    };
    let shares = count_groups(token_ids.into(), groups, None, longest(orders)?, |_| Repetitions::default(), shares)?;
    Ok((0..orders.len()).flat_map(|i| shares.iter().map(move |shares| shares[i])).collect())
}

/// How often an n-gram occurs.
#[derive(Clone, Default, PartialEq)]
struct Count(u32);

impl Tally for Count {
    fn note(&mut self, _: Window, _: &Group<'_>) {
        self.0 += 1;
    }

    fn merge(&mut self, later: &Self) {
        self.0 += later.0;
    }

    fn recurs(&self) -> bool {
        self.0 > 1
    }
}

/// By order from 1: how many n-grams have occurred before.
#[derive(Default)]
struct Repetitions(Vec<usize>);

impl Repetitions {
    fn at(&mut self, order: usize) -> &mut usize {
        if self.0.len() < order {
            self.0.resize(order, 0);
        }
        &mut self.0[order - 1]
    }

    fn share(&self, order: usize, total: usize) -> f64 {
        (total - self.0.get(order - 1).unwrap_or(&0)) as f64 / total as f64
    }
}

impl Census for Repetitions {
    type Tally = Count;

    fn count(&mut self, order: usize, windows: impl Iterator<Item = Window>, tallies: &[Count]) {
        *self.at(order) += windows.count() - tallies.len();
    }

    fn merge(&mut self, other: Self) {
        (1..).zip(other.0).for_each(|(order, repetitions)| *self.at(order) += repetitions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ragged;

    const TOKENS: [u32; 9] = [7, 7, 7, 5, 7, 7, 9, 7, 7];
    const OFFSETS: [i64; 5] = [0, 5, 5, 8, 9];

    fn rows() -> Ragged<'static, u32> {
        Ragged::new("offsets", &TOKENS, &OFFSETS).unwrap()
    }

    #[test]
    fn ngrams_do_not_cross_borders() {
        // Rows 77757, (empty), 797, 7: bigrams 77 77 75 57 | 79 97.
        let groups = Offsets::new("groups", &[0, 4], 4).unwrap();
        assert_eq!(distinct(rows(), &groups, &[2, 1]), Ok(vec![5.0 / 6.0, 3.0 / 9.0]));
    }

    #[test]
    fn groups_follow_one_another_within_an_order() {
        let groups = Offsets::new("groups", &[0, 1, 3, 4], 4).unwrap();
        let got = distinct(rows(), &groups, &[1, 2]).unwrap();
        assert_eq!(got[..5], [2.0 / 5.0, 2.0 / 3.0, 1.0, 3.0 / 4.0, 1.0]);
        assert!(got[5].is_nan());
    }

    #[test]
    fn no_ngrams_is_nan() {
        let groups = Offsets::new("groups", &[0, 1, 4, 4], 4).unwrap();
        let got = distinct(rows(), &groups, &[4]).unwrap();
        assert_eq!(got[0], 1.0);
        assert!(got[1].is_nan() && got[2].is_nan());
        assert!(distinct(rows(), &groups, &[usize::MAX]).unwrap().iter().all(|share| share.is_nan()));
        assert!(distinct(rows(), &groups, &[1, 0]).is_err());
        assert_eq!(distinct(rows(), &groups, &[]), Ok(vec![]));
    }
}
