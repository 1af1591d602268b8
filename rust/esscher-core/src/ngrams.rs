//! Exact n-grams in linear time: every n-gram gets a small number, by way of the number of its first n - 1 tokens.

use std::ops::Range;

use crate::{Error, Offsets, Ragged, Result, parallel};
use hashbrown::HashMap;

/// The n-grams of some rows as numbers: equal n-grams have equal numbers, which count up from 0 in order of appearance.
pub(crate) struct Ngrams<'a> {
    rows: Vec<&'a [u32]>,
    /// For every row, the number of the n-gram that starts at each token.
    ids: Vec<Vec<u32>>,
    order: usize,
    distinct: usize,
}

impl<'a> Ngrams<'a> {
    /// The unigrams of `rows`.
    pub(crate) fn unigrams(rows: impl Iterator<Item = &'a [u32]>) -> Self {
        let rows: Vec<_> = rows.collect();
        let mut numbers = Numbers::default();
        let ids = rows.iter().map(|row| row.iter().map(|&token| numbers.of(0, token)).collect()).collect();
        Self { rows, ids, order: 1, distinct: numbers.len() }
    }

    /// The n-grams of `rows`.
    pub(crate) fn of_order(rows: impl Iterator<Item = &'a [u32]>, n: usize) -> Self {
        (1..n).fold(Self::unigrams(rows), |ngrams, _| ngrams.extended())
    }

    /// The n-grams of one token more.
    pub(crate) fn extended(mut self) -> Self {
        let mut numbers = Numbers::default();
        for (row, ids) in self.rows.iter().zip(&mut self.ids) {
            // An (n+1)-gram is an n-gram and the token after it; the row's last n-gram has none.
            ids.truncate(row.len().saturating_sub(self.order));
            for (id, &token) in ids.iter_mut().zip(&row[self.order.min(row.len())..]) {
                *id = numbers.of(*id, token);
            }
        }
        Self { order: self.order + 1, distinct: numbers.len(), ..self }
    }

    /// The numbers of each row's n-grams, from left to right.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &[u32]> {
        self.ids.iter().map(Vec::as_slice)
    }

    /// How many n-grams there are, repetitions counted.
    pub(crate) fn total(&self) -> usize {
        self.ids.iter().map(Vec::len).sum()
    }

    /// How many different n-grams there are.
    pub(crate) fn distinct(&self) -> usize {
        self.distinct
    }
}

/// Numbers for (number of the first n - 1 tokens, last token).
#[derive(Default)]
struct Numbers(HashMap<(u32, u32), u32>);

impl Numbers {
    fn of(&mut self, prefix: u32, token: u32) -> u32 {
        let next = u32::try_from(self.0.len()).expect("fewer than 2^32 different n-grams");
        *self.0.entry((prefix, token)).or_insert(next)
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Check the length of n-grams.
///
/// # Errors
/// If `n` is 0.
pub(crate) fn check_order(n: usize) -> Result<()> {
    if n == 0 { Err(Error::Range { name: "n", value: 0.0, rule: "at least 1" }) } else { Ok(()) }
}

/// Distinct-n of every group: different n-grams over all n-grams of its completions; n-grams never cross a completion's
/// border (Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", NAACL 2016).
///
/// NaN for a group without n-grams.
///
/// # Errors
/// If `n` is 0.
pub fn distinct(token_ids: &Ragged<'_, u32>, groups: &Offsets<'_>, n: usize) -> Result<Vec<f64>> {
    check_order(n)?;
    let share = |range: Range<usize>| {
        let ngrams = Ngrams::of_order(token_ids.rows(range), n);
        ngrams.distinct() as f64 / ngrams.total() as f64
    };
    Ok(parallel::map(groups.len(), |group| share(groups.range(group))))
}

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
/// If `n` is 0.
pub fn top_ngrams(token_ids: &Ragged<'_, u32>, n: usize, k: usize) -> Result<TopNgrams> {
    check_order(n)?;
    let ngrams = Ngrams::of_order(token_ids.rows(0..token_ids.len()), n);
    let mut counts = vec![0i64; ngrams.distinct()];
    let mut starts = Vec::with_capacity(ngrams.distinct());
    for (i, ids) in ngrams.rows().enumerate() {
        for (t, &id) in ids.iter().enumerate() {
            if counts[id as usize] == 0 {
                starts.push((token_ids.start(i) + t) as i64);
            }
            counts[id as usize] += 1;
        }
    }
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|&id| std::cmp::Reverse(counts[id]));
    order.truncate(k);
    Ok(TopNgrams {
        starts: order.iter().map(|&id| starts[id]).collect(),
        counts: order.iter().map(|&id| counts[id]).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: [u32; 9] = [7, 7, 7, 5, 7, 7, 9, 7, 7];
    const OFFSETS: [i64; 5] = [0, 5, 5, 8, 9];

    fn rows() -> Ragged<'static, u32> {
        Ragged::new("offsets", &TOKENS, &OFFSETS).unwrap()
    }

    #[test]
    fn ngrams_do_not_cross_borders() {
        // Rows 77757, (empty), 797, 7: bigrams 77 77 75 57 | 79 97.
        let groups = Offsets::new("groups", &[0, 4], 4).unwrap();
        assert_eq!(distinct(&rows(), &groups, 2), Ok(vec![5.0 / 6.0]));
        assert_eq!(distinct(&rows(), &groups, 1), Ok(vec![3.0 / 9.0]));
    }

    #[test]
    fn no_ngrams_is_nan() {
        let groups = Offsets::new("groups", &[0, 1, 4, 4], 4).unwrap();
        let got = distinct(&rows(), &groups, 4).unwrap();
        assert_eq!(got[0], 1.0);
        assert!(got[1].is_nan() && got[2].is_nan());
        assert!(distinct(&rows(), &groups, 0).is_err());
    }

    #[test]
    fn most_frequent_first() {
        let got = top_ngrams(&rows(), 2, 2).unwrap();
        assert_eq!(got, TopNgrams { starts: vec![0, 2], counts: vec![2, 1] });
    }
}
