//! Exact self-BLEU in linear time.
//!
//! BLEU of one completion against all the others clips the count of every n-gram at its largest count in any other
//! completion. Over all completions only two numbers an n-gram are needed for that: the largest count, with its holder,
//! and the largest count of anyone else.

use std::str::FromStr;

use crate::{
    Error, Offsets, Ragged, Result,
    ngrams::{Ngrams, check_order},
    parallel,
    sum::sum,
};

/// What stands for the logarithm of a precision that is 0, as in NLTK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Smoothing {
    /// The smallest normal f64 stands for a precision of 0 (NLTK's method0).
    None,
    /// A count of 0 becomes 0.1 (NLTK's method1; Chen and Cherry, WMT 2014).
    Method1,
}

impl FromStr for Smoothing {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self> {
        match value {
            "none" => Ok(Self::None),
            "method1" => Ok(Self::Method1),
            _ => Err(Error::Choice { name: "smoothing", value: value.into(), choices: "none, method1" }),
        }
    }
}

impl Smoothing {
    fn log_precision(self, matches: usize, total: usize) -> f64 {
        let total = total.max(1) as f64;
        match (matches, self) {
            (0, Self::None) => f64::MIN_POSITIVE.ln(),
            (0, Self::Method1) => (0.1 / total).ln(),
            _ => (matches as f64 / total).ln(),
        }
    }
}

/// Self-BLEU of every group: the mean over its completions of BLEU-n against all the others (Zhu et al., "Texygen",
/// SIGIR 2018), with the closest other length as reference length, ties to the shorter.
///
/// NaN for a group of fewer than two completions.
///
/// # Errors
/// If `n` is 0.
pub fn self_bleu(
    token_ids: &Ragged<'_, u32>,
    groups: &Offsets<'_>,
    n: usize,
    smoothing: Smoothing,
) -> Result<Vec<f64>> {
    check_order(n)?;
    let group_mean = |group| {
        let rows: Vec<&[u32]> = token_ids.rows(groups.range(group)).collect();
        if rows.len() < 2 {
            return f64::NAN;
        }
        let scores = scores(&rows, n, smoothing);
        sum(scores.len(), |i| scores[i]) / scores.len() as f64
    };
    Ok(parallel::map(groups.len(), group_mean))
}

/// BLEU of each row against all the others.
fn scores(rows: &[&[u32]], n: usize, smoothing: Smoothing) -> Vec<f64> {
    let mut ngrams = Ngrams::unigrams(rows.iter().copied());
    let unigram_matches = matches(&ngrams);
    let mut log_precisions = log_precisions(&ngrams, &unigram_matches, smoothing);
    for _ in 1..n {
        ngrams = ngrams.extended();
        for (total, log_precision) in
            log_precisions.iter_mut().zip(self::log_precisions(&ngrams, &matches(&ngrams), smoothing))
        {
            *total += log_precision;
        }
    }
    let penalties = brevity_penalties(rows);
    (0..rows.len())
        .map(|i| if unigram_matches[i] == 0 { 0.0 } else { penalties[i] * (log_precisions[i] / n as f64).exp() })
        .collect()
}

fn log_precisions(ngrams: &Ngrams<'_>, matches: &[usize], smoothing: Smoothing) -> Vec<f64> {
    ngrams.rows().zip(matches).map(|(ids, &matches)| smoothing.log_precision(matches, ids.len())).collect()
}

/// How often an n-gram occurs in the completion that has it most, and in any other.
#[derive(Clone, Copy, Default)]
struct Largest {
    max: u32,
    holder: u32,
    second: u32,
    /// The occurrence now being counted: its completion, and its index there, from 1.
    row: u32,
    index: u32,
}

impl Largest {
    /// Count one more occurrence in `row`; returns its index in that row, from 1.
    fn count(&mut self, row: u32) -> u32 {
        self.index = if self.row == row { self.index + 1 } else { 1 };
        self.row = row;
        self.index
    }

    /// Take note that `row` holds the n-gram `count` times.
    fn note(&mut self, row: u32, count: u32) {
        if self.holder == row {
            self.max = count;
        } else if count > self.max {
            (self.second, self.max, self.holder) = (self.max, count, row);
        } else if count > self.second {
            self.second = count;
        }
    }

    /// The largest count in any completion but `row`.
    fn elsewhere(&self, row: u32) -> u32 {
        if self.holder == row { self.second } else { self.max }
    }
}

/// For every row, how many of its n-grams match: an occurrence does if it is not past the largest count elsewhere.
fn matches(ngrams: &Ngrams<'_>) -> Vec<usize> {
    let mut largest = vec![Largest::default(); ngrams.distinct()];
    // Rows count from 1: row 0 stands for "none yet".
    let rows = || (1u32..).zip(ngrams.rows());
    for (row, ids) in rows() {
        for &id in ids {
            let entry = &mut largest[id as usize];
            let count = entry.count(row);
            entry.note(row, count);
        }
    }
    for entry in &mut largest {
        entry.row = 0;
    }
    rows()
        .map(|(row, ids)| {
            let is_match = |&&id: &&u32| {
                let entry = &mut largest[id as usize];
                entry.count(row) <= entry.elsewhere(row)
            };
            ids.iter().filter(is_match).count()
        })
        .collect()
}

/// exp(1 - r / c) for a row of length c whose closest other length is r > c, else 1.
fn brevity_penalties(rows: &[&[u32]]) -> Vec<f64> {
    let mut lens: Vec<usize> = rows.iter().map(|row| row.len()).collect();
    lens.sort_unstable();
    rows.iter()
        .map(|row| {
            let (c, r) = (row.len(), closest_other(&lens, row.len()));
            if c >= r { 1.0 } else { (1.0 - r as f64 / c as f64).exp() }
        })
        .collect()
}

/// The entry of the sorted `lens` closest to `len`, one entry equal to `len` left out, ties to the shorter.
fn closest_other(lens: &[usize], len: usize) -> usize {
    let first = lens.partition_point(|&other| other < len);
    let last = lens.partition_point(|&other| other <= len);
    if last - first > 1 {
        return len;
    }
    match (first.checked_sub(1).map(|i| lens[i]), lens.get(last)) {
        (Some(below), Some(&above)) if above - len < len - below => above,
        (Some(below), _) => below,
        (None, Some(&above)) => above,
        (None, None) => len,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closest_length_leaves_itself_out() {
        let lens = [2, 5, 5, 8, 9];
        let closest: Vec<usize> = lens.iter().map(|&len| closest_other(&lens, len)).collect();
        assert_eq!(closest, [5, 5, 5, 9, 8]);
        assert_eq!(closest_other(&[2, 4, 6], 4), 2);
    }

    #[test]
    fn the_holder_is_clipped_at_the_runner_up() {
        // The token 1 occurs 3, 2 and 1 times: matches are min(own, largest elsewhere).
        let rows: [&[u32]; 3] = [&[1, 1, 1], &[1, 2, 1], &[3, 1]];
        assert_eq!(matches(&Ngrams::unigrams(rows.into_iter())), [2, 2, 1]);
    }

    #[test]
    fn identical_completions_score_one_and_single_ones_nothing() {
        let rows = Ragged::new("offsets", &[4, 5, 6, 7, 8, 4, 5, 6, 7, 8, 1], &[0, 5, 10, 11]).unwrap();
        let groups = Offsets::new("groups", &[0, 2, 3], 3).unwrap();
        let got = self_bleu(&rows, &groups, 4, Smoothing::None).unwrap();
        assert!((got[0] - 1.0).abs() < 1e-15);
        assert!(got[1].is_nan());
    }
}
