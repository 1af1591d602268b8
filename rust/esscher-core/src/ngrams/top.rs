//! The most frequent n-grams.

use std::cmp::Ordering;

use hashbrown::HashSet;

use super::{
    census::{Census, Tally, Window},
    count::{check_order, check_weights, count_rows},
    group::Group,
};
use crate::{Masked, Result};

/// The most frequent n-grams, most frequent first, ties in order of appearance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopNgrams {
    /// Where each starts for the first time, as an index into the token ids.
    pub starts: Vec<i64>,
    /// How often each occurs.
    pub counts: Vec<i64>,
}

/// The `k` most frequent n-grams of all rows.
///
/// # Errors
/// If `n` is 0, or there are 2^32 tokens or more.
pub fn top_ngrams<'a>(token_ids: impl Into<Masked<'a, u32>>, n: usize, k: usize) -> Result<TopNgrams> {
    check_order(n)?;
    let finish = |group: &Group<'_>, top: Top<Seen>| top.or_single(group);
    let census = |_: &Group<'_>| Top { n, k, ngrams: Vec::new() };
    let top = count_rows(token_ids.into(), None, n, census, finish)?;
    Ok(TopNgrams {
        starts: top.iter().map(|seen| i64::from(seen.first)).collect(),
        counts: top.iter().map(|seen| i64::from(seen.count)).collect(),
    })
}

/// The n-grams of the largest weight, ties in order of appearance.
#[derive(Debug, Clone, PartialEq)]
pub struct TopWeightedNgrams {
    /// Where each starts for the first time, as an index into the token ids.
    pub starts: Vec<i64>,
    /// How often each occurs.
    pub counts: Vec<i64>,
    /// The summed weight of its occurrences.
    pub weights: Vec<f64>,
}

/// The `k` n-grams of all rows whose occurrences weigh most, each as much as its row; those of no weight are left out.
///
/// # Errors
/// If `n` is 0, a weight is negative or not finite, there is not one for each row, or there are 2^32 tokens or more.
pub fn top_weighted_ngrams<'a>(
    token_ids: impl Into<Masked<'a, u32>>,
    weights: &[f64],
    n: usize,
    k: usize,
) -> Result<TopWeightedNgrams> {
    let token_ids = token_ids.into();
    check_order(n)?;
    check_weights(weights, token_ids.len())?;
    let census = |_: &Group<'_>| Top { n, k, ngrams: Vec::new() };
    let finish = |_: &Group<'_>, mut top: Top<Weighed>| {
        top.shorten();
        top.ngrams
    };
    let top = count_rows(token_ids, Some(weights), n, census, finish)?;
    let most = weights.iter().copied().fold(0.0, f64::max);
    Ok(TopWeightedNgrams {
        starts: top.iter().map(|ngram| i64::from(ngram.seen.first)).collect(),
        counts: top.iter().map(|ngram| i64::from(ngram.seen.count)).collect(),
        weights: top.iter().map(|ngram| ngram.weight * most).collect(),
    })
}

/// How often an n-gram occurs, and where first.
#[derive(Clone, Default, PartialEq)]
struct Seen {
    count: u32,
    first: u32,
}

impl Tally for Seen {
    fn note(&mut self, window: Window, _: &Group<'_>) {
        self.merge(&Self { count: 1, first: window.start });
    }

    fn merge(&mut self, later: &Self) {
        if self.count == 0 {
            self.first = later.first;
        }
        self.count += later.count;
    }

    fn recurs(&self) -> bool {
        self.count > 1
    }
}

impl Ranked for Seen {
    fn order(a: &Self, b: &Self) -> Ordering {
        b.count.cmp(&a.count).then(a.first.cmp(&b.first))
    }

    fn competes(&self) -> bool {
        self.recurs()
    }
}

/// As [`Seen`], with the weight of all occurrences.
#[derive(Clone, Default, PartialEq)]
struct Weighed {
    seen: Seen,
    weight: f64,
}

impl Tally for Weighed {
    fn note(&mut self, window: Window, group: &Group<'_>) {
        self.seen.note(window, group);
        self.weight += group.weights()[window.row() as usize];
    }

    fn merge(&mut self, later: &Self) {
        self.seen.merge(&later.seen);
        self.weight += later.weight;
    }

    fn recurs(&self) -> bool {
        true
    }
}

impl Ranked for Weighed {
    fn order(a: &Self, b: &Self) -> Ordering {
        b.weight.total_cmp(&a.weight).then(a.seen.first.cmp(&b.seen.first))
    }

    fn competes(&self) -> bool {
        self.weight > 0.0
    }
}

/// A tally that n-grams are ranked by.
trait Ranked: Tally {
    fn order(a: &Self, b: &Self) -> Ordering;

    /// Whether the n-gram can be listed at all.
    fn competes(&self) -> bool;
}

/// The first `k` n-grams of order `n`, and perhaps some more.
struct Top<T> {
    n: usize,
    k: usize,
    ngrams: Vec<T>,
}

impl<T: Ranked> Top<T> {
    fn shorten(&mut self) {
        self.ngrams.sort_unstable_by(T::order);
        self.ngrams.truncate(self.k);
    }
}

impl Top<Seen> {
    /// The `k` most frequent n-grams; where too few recur, those that occur once follow, in order of appearance.
    fn or_single(mut self, group: &Group<'_>) -> Vec<Seen> {
        self.shorten();
        let at = |start: u32| &group.tokens()[start as usize..start as usize + self.n];
        let known: HashSet<_> = self.ngrams.iter().map(|seen| at(seen.first)).collect();
        let pieces = (0..group.len()).flat_map(|row| group.pieces(row));
        let starts = pieces.flat_map(|piece| (piece.start..).zip(group.piece(piece).windows(self.n)));
        let singles = starts.filter(|(_, ngram)| !known.contains(ngram)).map(|(first, _)| Seen { count: 1, first });
        let missing = self.k - self.ngrams.len();
        self.ngrams.extend(singles.take(missing));
        self.ngrams
    }
}

impl<T: Ranked> Census for Top<T> {
    type Tally = T;

    fn count(&mut self, order: usize, _: impl Iterator<Item = Window>, tallies: &[T]) {
        if order == self.n {
            self.ngrams.extend(tallies.iter().filter(|ngram| ngram.competes()).cloned());
            if self.ngrams.len() / 4 > self.k {
                self.shorten();
            }
        }
    }

    fn merge(&mut self, other: Self) {
        self.ngrams.extend(other.ngrams);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ragged;

    #[test]
    fn heaviest_first_and_none_without_weight() {
        let rows = Ragged::new("offsets", &[7, 7, 7, 5, 8, 8, 9, 7, 7], &[0, 4, 6, 9]).unwrap();
        let top = top_weighted_ngrams(rows, &[1.0, 4.0, 0.0], 2, 9).unwrap();
        let expected = TopWeightedNgrams { starts: vec![4, 0, 2], counts: vec![1, 3, 1], weights: vec![4.0, 2.0, 1.0] };
        assert_eq!(top, expected);
    }

    #[test]
    fn most_frequent_first_then_in_order_of_appearance() {
        let rows = Ragged::new("offsets", &[7, 7, 7, 5, 7, 7, 9, 7, 7], &[0, 5, 5, 8, 9]).unwrap();
        let top = |k| top_ngrams(rows, 2, k).unwrap();
        assert_eq!(top(2), TopNgrams { starts: vec![0, 2], counts: vec![2, 1] });
        assert_eq!(top(9), TopNgrams { starts: vec![0, 2, 3, 5, 6], counts: vec![2, 1, 1, 1, 1] });
    }
}
