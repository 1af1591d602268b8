//! N-grams against hash tables of slices.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use proptest::sample::Index;

use esscher_core::{
    NgramStatistics, Offsets, Ragged, Smoothing, distinct, distinct_without_each, ngram_statistics, self_bleu,
    top_ngrams, top_weighted_ngrams,
};

use crate::inputs::{Tokens, config, cuts, groups, is_near, lens, offsets, sum, tokens, weights};

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
        (0, Smoothing::Exp) => -(total.max(1) as f64).ln(),
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
        let effective = if smoothing == Smoothing::Exp { n.min(len) } else { n };
        let matched: Vec<usize> = counts[..effective].iter().map(|counts| matches(counts, row)).collect();
        let precision = |i: usize| log_precision(matched[i], len.saturating_sub(i), smoothing);
        // The j-th precision of 0 is 2^-j matches.
        let zeros = matched.iter().filter(|&&matches| matches == 0).count();
        let halvings = if smoothing == Smoothing::Exp { (zeros * (zeros + 1) / 2) as f64 * 2f64.ln() } else { 0.0 };
        let brevity = if len >= closest { 0.0 } else { 1.0 - closest as f64 / len as f64 };
        (brevity + ((0..effective).map(precision).sum::<f64>() - halvings) / effective as f64).exp()
    };
    (0..rows.len()).map(score).sum::<f64>() / rows.len() as f64
}

fn check_distinct(rows: &Ragged<'_, u32>, groups: &Offsets<'_>, orders: &[usize]) -> Checked {
    let got = distinct(*rows, groups, orders);
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
    let got = top_ngrams(*rows, n, k);
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

/// 1 - C(rows - of, m) / C(rows, m), by the chances of missing in every draw.
fn inclusion(rows: usize, of: usize, m: usize) -> f64 {
    1.0 - (0..m).map(|j| (rows - of).saturating_sub(j) as f64 / (rows - j) as f64).product::<f64>()
}

/// The sum over all sets of `m` of the product of their weights.
fn of_sets(weights: &[f64], m: usize) -> f64 {
    match (m, weights) {
        (0, _) => 1.0,
        (_, []) => 0.0,
        (_, [first, rest @ ..]) => first * of_sets(rest, m - 1) + of_sets(rest, m),
    }
}

/// The same over the sets in which some row is of `with`: positive terms alone, so that no digit cancels.
fn of_sets_with(weights: &[f64], with: &[bool], m: usize) -> f64 {
    let (Some((&first, weights)), Some((&is_with, with))) = (weights.split_first(), with.split_first()) else {
        return 0.0;
    };
    let rest = |m| if is_with { of_sets(weights, m) } else { of_sets_with(weights, with, m) };
    of_sets_with(weights, with, m) + m.checked_sub(1).map_or(0.0, |m| first * rest(m))
}

/// For each different n-gram, the rows that it occurs in, as often as it does.
fn places<'a>(rows: &'a [&'a [u32]], n: usize) -> Vec<Vec<usize>> {
    let mut places: HashMap<&[u32], Vec<usize>> = HashMap::new();
    for (i, row) in rows.iter().enumerate() {
        row.windows(n).for_each(|ngram| places.entry(ngram).or_default().push(i));
    }
    places.into_values().collect()
}

fn different<T: PartialEq + Copy>(sorted: &[T]) -> Vec<T> {
    let mut different = sorted.to_vec();
    different.dedup();
    different
}

/// Distinct-n, entropy, and rarefied distinct-n of a group without weights.
fn plain_statistics(rows: &[&[u32]], n: usize, m: usize) -> [f64; 3] {
    let places = places(rows, n);
    let total = places.iter().map(Vec::len).sum::<usize>() as f64;
    let product = |places: &Vec<usize>| -> f64 { places.len() as f64 * (total / places.len() as f64).ln() };
    let rarefied = |places: &Vec<usize>| inclusion(rows.len(), different(places).len(), m);
    [
        places.len() as f64 / total,
        sum(places.iter().map(product)) / total,
        if m > rows.len() {
            f64::NAN
        } else {
            sum(places.iter().map(rarefied)) / (m as f64 * total / rows.len() as f64)
        },
    ]
}

/// As [`plain_statistics`], with weights, by enumerating sets.
fn weighted_statistics(rows: &[&[u32]], weights: &[f64], n: usize, m: usize) -> [f64; 3] {
    let ess = sum(weights.iter().copied()).powi(2) / sum(weights.iter().map(|w| w * w));
    let scale = ess / sum(weights.iter().copied());
    let places: Vec<_> = places(rows, n);
    let masses: Vec<f64> = places.iter().map(|places| sum(places.iter().map(|&row| weights[row]))).collect();
    let total = sum(masses.iter().copied());
    if total == 0.0 {
        return [f64::NAN; 3];
    }
    let entropy = |&mass: &f64| if mass > 0.0 { mass / total * (total.ln() - mass.ln()) } else { 0.0 };
    let all = of_sets(weights, m);
    let chance = |with: &[usize]| {
        let is_with: Vec<bool> = (0..rows.len()).map(|row| with.contains(&row)).collect();
        of_sets_with(weights, &is_with, m) / all
    };
    let occurrences = sum((0..rows.len()).map(|row| chance(&[row]) * rows[row].windows(n).count() as f64));
    [
        sum(masses.iter().map(|mass| (mass * scale).min(1.0))) / (total * scale),
        sum(masses.iter().map(entropy)),
        if ess < m as f64 - 1e-9 { f64::NAN } else { sum(places.iter().map(|places| chance(places))) / occurrences },
    ]
}

/// To the last bit, any NaN for any other.
fn are_same(got: &[f64], expected: &[f64]) -> bool {
    let is_same = |(got, expected): (&f64, &f64)| got == expected || got.is_nan() && expected.is_nan();
    got.len() == expected.len() && got.iter().zip(expected).all(is_same)
}

fn check_statistics(got: &NgramStatistics, at: usize, expected: [f64; 3], tolerance: f64) -> Checked {
    let rarefied = got.rarefied.as_ref().map(|rarefied| rarefied[at]);
    prop_assert!(is_near(got.distinct[at], expected[0], tolerance, 1.0), "{:?}, not {:?}", got, expected);
    prop_assert!(is_near(got.entropy[at], expected[1], tolerance, 1.0), "{:?}, not {:?}", got, expected);
    prop_assert!(rarefied.is_none_or(|got| is_near(got, expected[2], tolerance, 1.0)), "{:?}, not {:?}", got, expected);
    Ok(())
}

proptest! {
    #![proptest_config(config(3_000))]

    #[test]
    fn statistics_are_those_of_lists_of_places(
        batch in batch(), orders in prop::collection::vec(order(), 0..4), m in prop::option::of(0..70usize),
    ) {
        let (ids, borders) = (batch.token_ids(), offsets(&batch.lens));
        let rows = Ragged::new("offsets", &ids, &borders).unwrap();
        let cuts = groups(&batch.cuts, rows.len());
        let groups = Offsets::new("groups", &cuts, rows.len()).unwrap();
        let got = ngram_statistics(rows, &groups, &orders, None, m);
        prop_assert_eq!(got.is_ok(), !orders.contains(&0) && m != Some(0));
        let Ok(got) = got else { return Ok(()) };
        prop_assert!(are_same(&got.distinct, &distinct(rows, &groups, &orders).unwrap()));
        for (i, &n) in orders.iter().enumerate() {
            for g in 0..groups.len() {
                let group: Vec<&[u32]> = rows.rows(groups.range(g)).collect();
                check_statistics(&got, i * groups.len() + g, plain_statistics(&group, n, m.unwrap_or(1)), 1e-12)?;
            }
        }
    }

    #[test]
    fn without_each_group_is_distinct_of_the_others(batch in batch(), n in order()) {
        let (ids, borders) = (batch.token_ids(), offsets(&batch.lens));
        let rows = Ragged::new("offsets", &ids, &borders).unwrap();
        let cuts = groups(&batch.cuts, rows.len());
        let groups = Offsets::new("groups", &cuts, rows.len()).unwrap();
        let got = distinct_without_each(rows, &groups, &[n]);
        prop_assert_eq!(got.is_ok(), n > 0);
        let Ok(got) = got else { return Ok(()) };
        for (g, &got) in got.iter().enumerate() {
            let left_out = groups.range(g);
            let others: Vec<_> = (0..rows.len()).filter(|row| !left_out.contains(row)).map(|row| rows.row(row)).collect();
            let different = ngrams(&others, n).collect::<HashSet<_>>().len();
            prop_assert!(are_same(&[got], &[different as f64 / ngrams(&others, n).count() as f64]));
        }
    }

    #[test]
    fn weighted_statistics_are_those_of_all_sets(
        tokens in tokens(), lens in prop::collection::vec(0..30usize, 0..12), drawn in weights(), n in order(),
        m in prop::option::of(1..10usize),
    ) {
        let (borders, drawn) = (offsets(&lens), drawn.positive(lens.len()));
        let ids = tokens.take(lens.iter().sum());
        let rows = Ragged::new("offsets", &ids, &borders).unwrap();
        let whole = [0, lens.len() as i64];
        let got = ngram_statistics(rows, &Offsets::new("groups", &whole, lens.len()).unwrap(), &[n], Some(&drawn), m);
        let legal = drawn.iter().all(|w| w.is_finite() && *w >= 0.0);
        prop_assert_eq!(got.is_ok(), n > 0 && legal && m.is_none_or(|m| m <= 8));
        let Ok(got) = got else { return Ok(()) };
        let group: Vec<&[u32]> = rows.rows(0..lens.len()).collect();
        check_statistics(&got, 0, weighted_statistics(&group, &drawn, n, m.unwrap_or(1)), 1e-9)?;
    }

    #[test]
    fn equal_weights_are_none(batch in batch(), n in order(), weight in 1e-300..1e300f64) {
        let (ids, borders) = (batch.token_ids(), offsets(&batch.lens));
        let rows = Ragged::new("offsets", &ids, &borders).unwrap();
        let cuts = groups(&batch.cuts, rows.len());
        let groups = Offsets::new("groups", &cuts, rows.len()).unwrap();
        let equal = vec![weight; rows.len()];
        let got = ngram_statistics(rows, &groups, &[n], Some(&equal), Some(3));
        prop_assert_eq!(got.is_ok(), n > 0);
        let Ok(got) = got else { return Ok(()) };
        let expected = ngram_statistics(rows, &groups, &[n], None, Some(3)).unwrap();
        prop_assert!(are_same(&got.distinct, &expected.distinct));
        for g in 0..groups.len() {
            let rarefied = expected.rarefied.as_ref().unwrap()[g];
            check_statistics(&got, g, [expected.distinct[g], expected.entropy[g], rarefied], 1e-10)?;
        }
    }

    #[test]
    fn the_heaviest_ngrams_are_those_of_a_hash_map(
        batch in batch(), drawn in weights(), n in order(), k in prop_oneof![9 => 0..50usize, 1 => Just(usize::MAX)],
    ) {
        let (ids, borders) = (batch.token_ids(), offsets(&batch.lens));
        let rows = Ragged::new("offsets", &ids, &borders).unwrap();
        let drawn = drawn.positive(rows.len());
        let got = top_weighted_ngrams(rows, &drawn, n, k);
        prop_assert_eq!(got.is_ok(), n > 0 && drawn.iter().all(|w| w.is_finite() && *w >= 0.0));
        let Ok(got) = got else { return Ok(()) };
        let mut seen: HashMap<&[u32], (i64, i64, f64)> = HashMap::new();
        for (row, &weight) in drawn.iter().enumerate() {
            for (start, ngram) in (rows.start(row) as i64..).zip(rows.row(row).windows(n)) {
                let seen = seen.entry(ngram).or_insert((start, 0, 0.0));
                (seen.1, seen.2) = (seen.1 + 1, seen.2 + weight);
            }
        }
        let most = drawn.iter().copied().fold(0.0, f64::max);
        // What weighs next to nothing beside the heaviest row counts as nothing.
        let heavy = seen.values().filter(|ngram| ngram.2 / most > 1e-290).count();
        prop_assert!(got.starts.len() >= heavy.min(k) && got.starts.len() <= seen.len().min(k));
        let by_start: HashMap<i64, (i64, i64, f64)> = seen.into_values().map(|ngram| (ngram.0, ngram)).collect();
        for i in 0..got.starts.len() {
            let (_, count, weight) = by_start[&got.starts[i]];
            prop_assert!(count == got.counts[i] && is_near(got.weights[i], weight, 1e-12, weight));
            prop_assert!(i == 0 || got.weights[i - 1] >= got.weights[i]);
        }
        let least = got.weights.last().copied().unwrap_or(0.0);
        let heavier = by_start.values().filter(|ngram| ngram.2 > least * (1.0 + 1e-9)).count();
        prop_assert!(k == 0 || heavier <= got.starts.len());
    }

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
        batch in batch(), n in prop_oneof![40 => 1..6usize, 2 => 6..20usize, 1 => Just(0)], smooth in 0..3usize,
    ) {
        let (ids, borders) = (batch.token_ids(), offsets(&batch.lens));
        let rows = Ragged::new("offsets", &ids, &borders).unwrap();
        let cuts = groups(&batch.cuts, rows.len());
        let groups = Offsets::new("groups", &cuts, rows.len()).unwrap();
        let smoothing = [Smoothing::None, Smoothing::Method1, Smoothing::Exp][smooth];
        let got = self_bleu(rows, &groups, n, smoothing);
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
