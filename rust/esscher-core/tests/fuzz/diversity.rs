//! N-grams against hash tables of slices.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use proptest::sample::Index;

use esscher_core::{Offsets, Ragged, Smoothing, distinct, self_bleu, top_ngrams};

use crate::inputs::{Tokens, config, cuts, groups, is_near, lens, offsets, tokens};

type Checked = std::result::Result<(), TestCaseError>;

/// Completions, some of which repeat one another.
#[derive(Debug, Clone)]
struct Batch {
    tokens: Tokens,
    lens: Vec<usize>,
    /// The tokens begin again after so many.
    period: usize,
    cuts: Vec<Index>,
}

impl Batch {
    fn token_ids(&self) -> Vec<u32> {
        let len = self.lens.iter().sum();
        self.tokens.take(self.period.min(len)).into_iter().cycle().take(len).collect()
    }
}

fn batch() -> impl Strategy<Value = Batch> {
    // The last kind of lengths makes groups that are counted bucket by bucket.
    let lens = prop_oneof![80 => lens(), 1 => prop::collection::vec(0..600usize, 50..60)];
    let period = prop_oneof![2 => Just(usize::MAX), 1 => 1..200usize];
    (tokens(), lens, period, cuts()).prop_map(|(tokens, lens, period, cuts)| Batch { tokens, lens, period, cuts })
}

fn order() -> impl Strategy<Value = usize> {
    prop_oneof![40 => 1..8usize, 4 => 8..70usize, 1 => Just(0), 1 => Just(usize::MAX)]
}

fn ngrams<'a>(rows: &'a [&'a [u32]], n: usize) -> impl Iterator<Item = &'a [u32]> {
    rows.iter().flat_map(move |row| row.windows(n))
}

fn counts(row: &[u32], n: usize) -> HashMap<&[u32], usize> {
    let mut counts = HashMap::new();
    row.windows(n).for_each(|ngram| *counts.entry(ngram).or_default() += 1);
    counts
}

fn log_precision(matches: usize, total: usize, smoothing: Smoothing) -> f64 {
    match (matches, smoothing) {
        (0, Smoothing::None) => f64::MIN_POSITIVE.ln(),
        (0, Smoothing::Method1) => (0.1 / total.max(1) as f64).ln(),
        _ => (matches as f64 / total as f64).ln(),
    }
}

/// Matches of a row among the others, each n-gram clipped at its largest count elsewhere.
fn matches(counts: &[HashMap<&[u32], usize>], row: usize) -> usize {
    let elsewhere = |ngram: &[u32]| {
        let others = (0..counts.len()).filter(|&other| other != row);
        others.filter_map(|other| counts[other].get(ngram)).max().copied().unwrap_or(0)
    };
    counts[row].iter().map(|(ngram, &count)| count.min(elsewhere(ngram))).sum()
}

fn plain_self_bleu(rows: &[&[u32]], n: usize, smoothing: Smoothing) -> f64 {
    let counts: Vec<Vec<HashMap<&[u32], usize>>> =
        (1..=n).map(|order| rows.iter().map(|row| counts(row, order)).collect()).collect();
    let score = |row: usize| {
        let len = rows[row].len();
        let others = (0..rows.len()).filter(|&other| other != row).map(|other| rows[other].len());
        let closest = others.min_by_key(|&other| (other.abs_diff(len), other)).unwrap_or(0);
        if matches(&counts[0], row) == 0 {
            return 0.0;
        }
        let precision = |i: usize| log_precision(matches(&counts[i], row), len.saturating_sub(i), smoothing);
        let brevity = if len >= closest { 0.0 } else { 1.0 - closest as f64 / len as f64 };
        (brevity + (0..n).map(precision).sum::<f64>() / n as f64).exp()
    };
    (0..rows.len()).map(score).sum::<f64>() / rows.len() as f64
}

fn check_distinct(rows: &Ragged<'_, u32>, groups: &Offsets<'_>, orders: &[usize]) -> Checked {
    let got = distinct(rows, groups, orders);
    prop_assert_eq!(got.is_ok(), !orders.contains(&0));
    let Ok(got) = got else { return Ok(()) };
    for (i, &n) in orders.iter().enumerate() {
        for g in 0..groups.len() {
            let group: Vec<&[u32]> = rows.rows(groups.range(g)).collect();
            let different = ngrams(&group, n).collect::<HashSet<_>>().len();
            let expected = different as f64 / ngrams(&group, n).count() as f64;
            let got = got[i * groups.len() + g];
            prop_assert!(got == expected || got.is_nan() && expected.is_nan(), "{}, not {}", got, expected);
            prop_assert!(got.is_nan() || got > 0.0 && got <= 1.0);
        }
    }
    Ok(())
}

fn check_top(rows: &Ragged<'_, u32>, n: usize, k: usize) -> Checked {
    let got = top_ngrams(rows, n, k);
    prop_assert_eq!(got.is_ok(), n > 0);
    let Ok(got) = got else { return Ok(()) };
    let mut seen: HashMap<&[u32], (i64, i64)> = HashMap::new();
    for row in 0..rows.len() {
        for (start, ngram) in (rows.start(row) as i64..).zip(rows.row(row).windows(n)) {
            seen.entry(ngram).or_insert((start, 0)).1 += 1;
        }
    }
    let mut expected: Vec<(i64, i64)> = seen.into_values().collect();
    expected.sort_unstable_by_key(|&(first, count)| (Reverse(count), first));
    expected.truncate(k);
    prop_assert_eq!(got.starts.into_iter().zip(got.counts).collect::<Vec<_>>(), expected);
    Ok(())
}

proptest! {
    #![proptest_config(config(3_000))]

    #[test]
    fn distinct_ngrams_are_those_of_a_hash_set(batch in batch(), orders in prop::collection::vec(order(), 0..4)) {
        let (ids, borders) = (batch.token_ids(), offsets(&batch.lens));
        let rows = Ragged::new("offsets", &ids, &borders).unwrap();
        let cuts = groups(&batch.cuts, rows.len());
        check_distinct(&rows, &Offsets::new("groups", &cuts, rows.len()).unwrap(), &orders)?;
    }

    #[test]
    fn the_most_frequent_ngrams_are_those_of_a_hash_map(
        batch in batch(), n in order(), k in prop_oneof![9 => 0..50usize, 1 => Just(usize::MAX)],
    ) {
        let (ids, borders) = (batch.token_ids(), offsets(&batch.lens));
        check_top(&Ragged::new("offsets", &ids, &borders).unwrap(), n, k)?;
    }

    #[test]
    fn self_bleu_is_that_of_each_against_all_others(
        batch in batch(), n in prop_oneof![40 => 1..6usize, 2 => 6..20usize, 1 => Just(0)], smooth in any::<bool>(),
    ) {
        let (ids, borders) = (batch.token_ids(), offsets(&batch.lens));
        let rows = Ragged::new("offsets", &ids, &borders).unwrap();
        let cuts = groups(&batch.cuts, rows.len());
        let groups = Offsets::new("groups", &cuts, rows.len()).unwrap();
        let smoothing = if smooth { Smoothing::Method1 } else { Smoothing::None };
        let got = self_bleu(&rows, &groups, n, smoothing);
        prop_assert_eq!(got.is_ok(), n > 0);
        for (g, &got) in got.iter().flatten().enumerate() {
            let group: Vec<&[u32]> = rows.rows(groups.range(g)).collect();
            if group.len() < 2 {
                prop_assert!(got.is_nan());
                continue;
            }
            let expected = plain_self_bleu(&group, n, smoothing);
            prop_assert!((0.0..=1.0).contains(&got) && is_near(got, expected, 1e-12, 1.0), "{}, not {}", got, expected);
        }
    }
}
