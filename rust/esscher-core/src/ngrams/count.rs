//! N-grams of all orders, group by group.

use super::{
    buckets,
    census::Census,
    group::{self, Group},
    walk::Walk,
};
use crate::{Error, Masked, Offsets, Result, parallel, ragged::check_length};

/// Groups of at least this many tokens are scattered into buckets.
const LARGE: usize = 1 << 14;
/// Small groups are counted in runs of about this many tokens, which share their memory.
const RUN: usize = 1 << 16;

/// Count the n-grams of orders 1 to `last` of every group, and return the result of `finish` for each.
///
/// # Errors
/// If a group has 2^32 tokens or more, or 2^31 rows.
pub(super) fn count_groups<C: Census, R: Send>(
    token_ids: Masked<'_, u32>,
    groups: &Offsets<'_>,
    weights: Option<&[f64]>,
    last: usize,
    census: impl Fn(&Group<'_>) -> C + Sync + Send,
    finish: impl Fn(&Group<'_>, C) -> R + Sync + Send,
) -> Result<Vec<R>> {
    let rows = token_ids.rows();
    groups.check_items("groups", rows.len())?;
    group::check_sizes(rows, groups)?;
    let runs = group::runs(groups.len(), RUN, |group| group::span(rows, &groups.range(group)).len());
    let counted = parallel::map_each(runs, |run| {
        let (mut group, mut walk) = (Group::default(), Walk::default());
        let count = |i| {
            group.set(token_ids, groups.range(i), weights);
            let mut total = census(&group);
            let last = last.min(group.longest());
            if group.tokens().len() < LARGE {
                walk.group(&group, last, &mut total);
            } else {
                for part in buckets::count(&group, last, || census(&group)) {
                    total.merge(part);
                }
            }
            finish(&group, total)
        };
        run.map(count).collect::<Vec<_>>()
    });
    Ok(counted.into_iter().flatten().collect())
}

/// As [`count_groups`], of all rows together.
///
/// # Errors
/// If there are 2^32 tokens or more, or 2^31 rows.
pub(super) fn count_rows<C: Census, R: Send>(
    token_ids: Masked<'_, u32>,
    weights: Option<&[f64]>,
    last: usize,
    census: impl Fn(&Group<'_>) -> C + Sync + Send,
    finish: impl Fn(&Group<'_>, C) -> Vec<R> + Sync + Send,
) -> Result<Vec<R>> {
    let rows = token_ids.len();
    let all = [0, rows as i64];
    let all = Offsets::new("rows", &all, rows)?;
    Ok(count_groups(token_ids, &all, weights, last, census, finish)?.into_iter().flatten().collect())
}

/// The longest of some orders, 0 without any.
///
/// # Errors
/// If one is 0.
pub(super) fn longest(orders: &[usize]) -> Result<usize> {
    orders.iter().try_fold(0, |longest, &n| check_order(n).map(|()| longest.max(n)))
}

/// Check the length of n-grams.
///
/// # Errors
/// If `n` is 0.
pub(super) fn check_order(n: usize) -> Result<()> {
    if n == 0 { Err(Error::Range { name: "n", value: 0.0, rule: "at least 1" }) } else { Ok(()) }
}

/// Check that there is a weight for each row, finite and at least 0.
///
/// # Errors
/// If there is not.
pub(super) fn check_weights(weights: &[f64], rows: usize) -> Result<()> {
    check_length("weights", weights.len(), "token_ids", rows)?;
    match weights.iter().position(|weight| !(weight.is_finite() && *weight >= 0.0)) {
        Some(index) => Err(Error::Weight { name: "weights", index, value: weights[index] }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ragged;
    use crate::ngrams::census::{Tally, Window};
    use std::collections::HashMap;

    /// How often every n-gram occurs and where first, by order.
    #[derive(Default)]
    struct Counts(Vec<Vec<(u32, u32)>>);

    #[derive(Clone, Default, PartialEq)]
    struct Count(u32, u32);

    impl Tally for Count {
        fn note(&mut self, window: Window, _: &Group<'_>) {
            self.merge(&Self(1, window.start));
        }

        fn merge(&mut self, later: &Self) {
            *self = Self(self.0 + later.0, if self.0 == 0 { later.1 } else { self.1 });
        }

        fn recurs(&self) -> bool {
            self.0 > 1
        }
    }

    impl Census for Counts {
        type Tally = Count;

        fn count(&mut self, order: usize, windows: impl Iterator<Item = Window>, tallies: &[Count]) {
            assert_eq!(windows.count(), tallies.iter().map(|count| count.0 as usize).sum::<usize>());
            self.0.resize(self.0.len().max(order), Vec::new());
            self.0[order - 1].extend(tallies.iter().filter(|count| count.recurs()).map(|count| (count.1, count.0)));
        }

        fn merge(&mut self, other: Self) {
            self.0.resize(self.0.len().max(other.0.len()), Vec::new());
            self.0.iter_mut().zip(other.0).for_each(|(counts, more)| counts.extend(more));
        }
    }

    /// The same by a hash map of slices.
    fn obvious(rows: &Ragged<'_, u32>, mask: &[u8], last: usize) -> Vec<Vec<(u32, u32)>> {
        let of_order = |order: usize| {
            let mut counts: HashMap<&[u32], (u32, u32)> = HashMap::new();
            for row in 0..rows.len() {
                for (i, ngram) in rows.row(row).windows(order).enumerate() {
                    let start = rows.start(row) + i;
                    if mask[start..start + order].iter().all(|&m| m == 1) {
                        counts.entry(ngram).or_insert((start as u32, 0)).1 += 1;
                    }
                }
            }
            let mut counts: Vec<_> = counts.into_values().filter(|&(_, count)| count > 1).collect();
            counts.sort_unstable();
            counts
        };
        (1..=last).map(of_order).collect()
    }

    fn sorted(mut counts: Counts, last: usize) -> Vec<Vec<(u32, u32)>> {
        counts.0.resize(last, Vec::new());
        counts.0.iter_mut().for_each(|counts| counts.sort_unstable());
        counts.0
    }

    fn check_both_ways(tokens: &[u32], offsets: &[i64], last: usize) {
        let rows = Ragged::new("offsets", tokens, offsets).unwrap();
        check_group(rows.into(), &vec![1; tokens.len()], last);
        let mask: Vec<u8> = random(tokens.len() as u64).map(|x| u8::from(x % 5 > 0)).take(tokens.len()).collect();
        check_group(Masked::new("offsets", rows, &mask).unwrap(), &mask, last);
    }

    fn check_group(masked: Masked<'_, u32>, mask: &[u8], last: usize) {
        let rows = masked.rows();
        let (mut group, mut small, mut large) = (Group::default(), Counts::default(), Counts::default());
        group.set(masked, 0..rows.len(), None);
        Walk::default().group(&group, last, &mut small);
        for part in buckets::count(&group, last, Counts::default) {
            large.merge(part);
        }
        let expected = obvious(rows, mask, last);
        assert_eq!(sorted(small, last), expected);
        assert_eq!(sorted(large, last), expected);
    }

    fn random(seed: u64) -> impl Iterator<Item = u64> {
        std::iter::successors(Some(seed), |state| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99)))
            .map(|state| state >> 33)
    }

    #[test]
    fn both_ways_of_counting_equal_the_obvious_one() {
        for (seed, vocabulary, scale, longest) in [
            (1, 3, 1, 9),
            (2, 50, 1, 200),
            (3, 2000, 1, 30),
            (4, 9, u32::MAX / 9, 40),
            (5, 1, 1, 60),
            (6, 20_000, 3, 80),
        ] {
            let tokens: Vec<u32> = random(seed).map(|x| (x % vocabulary) as u32 * scale).take(20_000).collect();
            let mut offsets = vec![0];
            for len in random(seed + 10) {
                let end = offsets[offsets.len() - 1] + (len % longest) as i64;
                offsets.push(end.min(tokens.len() as i64));
                if end >= tokens.len() as i64 {
                    break;
                }
            }
            check_both_ways(&tokens, &offsets, 5);
        }
    }

    #[test]
    fn tables_grow_where_one_bigram_has_most_windows() {
        let tokens: Vec<u32> = (0..90_000).flat_map(|i| [u32::MAX, u32::MAX, i / 2]).collect();
        let offsets: Vec<i64> = (0..=90_000).map(|i| 3 * i).collect();
        check_both_ways(&tokens, &offsets, 3);
    }

    #[test]
    fn one_long_row_of_equal_tokens() {
        check_both_ways(&vec![5; 30_000], &[0, 0, 30_000, 30_000], 4);
    }
}
