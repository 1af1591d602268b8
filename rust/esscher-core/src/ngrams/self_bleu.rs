//! Exact self-BLEU in linear time. BLEU is that of Papineni, Roukos, Ward, Zhu, "BLEU: a method for automatic
//! evaluation of machine translation" (ACL 2002, section 2.3, doi:10.3115/1073083.1073135).
//!
//! BLEU of one completion against all the others clips the count of every n-gram at its largest count in any other
//! completion. Over all completions only two numbers an n-gram are needed for that: the largest count, with its holder,
//! and the largest count of anyone else.

use std::f64::consts::LN_2;
use std::str::FromStr;

use super::{
    census::{Census, Tally, Window},
    count::{check_order, count_groups},
    group::Group,
};
use crate::{Error, Masked, Offsets, Result, error, parallel, sum::sum};

/// The number of scores that are summed in one block, whatever the number of threads.
const BLOCK: usize = 4096;

/// The replacement for a precision of 0, whose logarithm is infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Smoothing {
    /// The smallest normal f64 stands for a precision of 0 (NLTK's method0).
    None,
    /// A count of 0 becomes 0.1 (NLTK's method1; Chen and Cherry, WMT 2014, doi:10.3115/v1/W14-3346).
    Method1,
    /// The first count of 0 becomes 1/2, the next 1/4, and so on; orders that a row is too short for are left out
    /// (mteval-v13a's, with sacreBLEU's effective order; Post, WMT 2018, arXiv:1804.08771).
    Exp,
}

impl FromStr for Smoothing {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self> {
        error::choose("smoothing", value, &[("none", Self::None), ("method1", Self::Method1), ("exp", Self::Exp)])
    }
}

impl Smoothing {
    /// The logarithm of a precision; `zeros` shorter orders have had no matches.
    fn log_precision(self, matches: usize, total: usize, zeros: i32) -> f64 {
        let total = total.max(1) as f64;
        match (matches, self) {
            (0, Self::None) => f64::MIN_POSITIVE.ln(),
            (0, Self::Method1) => (0.1 / total).ln(),
            (0, Self::Exp) => -f64::from(zeros + 1) * LN_2 - total.ln(),
            _ => (matches as f64 / total).ln(),
        }
    }

    /// The mean of the logarithms of a row's precisions of orders 1 to `n`; its longest n-grams have length `longest`.
    fn mean_log_precision(self, longest: usize, counts: impl Fn(usize) -> (usize, usize), n: usize) -> f64 {
        let mut zeros = 0;
        let mut log_precision = |i: usize| {
            let (matches, total) = counts(i + 1);
            let log_precision = self.log_precision(matches, total, zeros);
            zeros += i32::from(matches == 0);
            log_precision
        };
        // Orders that the row is too short for are all the same.
        let (within, beyond) = (n.min(longest), n.saturating_sub(longest));
        let sum = (0..within).map(&mut log_precision).sum::<f64>();
        match self {
            Self::Exp => sum / within as f64,
            _ => (sum + beyond as f64 * self.log_precision(0, 0, 0)) / n as f64,
        }
    }
}

/// Self-BLEU of every group: the mean over its completions of BLEU-n against all the others (Zhu et al., "Texygen",
/// SIGIR 2018, arXiv:1802.01886), with the closest other length as reference length, ties to the shorter.
///
/// NaN for a group of fewer than two completions.
///
/// # Errors
/// If `n` is 0, or a group has 2^32 tokens or more.
pub fn self_bleu<'a>(
    token_ids: impl Into<Masked<'a, u32>>,
    groups: &Offsets<'_>,
    n: usize,
    smoothing: Smoothing,
) -> Result<Vec<f64>> {
    check_order(n)?;
    let matches = |group: &Group<'_>| Matches::new(group.len(), n.min(group.longest()));
    count_groups(token_ids.into(), groups, None, n, matches, |group, matches| mean(group, n, smoothing, &matches))
}

/// The mean BLEU of a group's rows.
fn mean(group: &Group<'_>, n: usize, smoothing: Smoothing, matches: &Matches) -> f64 {
    if group.len() < 2 {
        return f64::NAN;
    }
    let mut lens: Vec<usize> = (0..group.len()).map(|row| group.length(row)).collect();
    lens.sort_unstable();
    let score = |row: usize| score(group, row, matches, n, smoothing, &lens);
    let block = |i: usize| sum(BLOCK.min(group.len() - i * BLOCK), |row| score(i * BLOCK + row));
    let blocks = parallel::map(group.len().div_ceil(BLOCK), block);
    sum(blocks.len(), |i| blocks[i]) / group.len() as f64
}

/// BLEU of a row against the others, whose lengths are among `lens`.
fn score(group: &Group<'_>, row: usize, matches: &Matches, n: usize, smoothing: Smoothing, lens: &[usize]) -> f64 {
    if matches.of(row, 1) == 0 {
        return 0.0;
    }
    let len = group.length(row);
    let counts = |order| (matches.of(row, order), group.total_of(row, order));
    brevity_penalty(len, closest_other(lens, len))
        * smoothing.mean_log_precision(group.longest_of(row), counts, n).exp()
}

/// exp(1 - r / c) for a row of length c whose closest other length is r > c, else 1.
fn brevity_penalty(c: usize, r: usize) -> f64 {
    if c >= r { 1.0 } else { (1.0 - r as f64 / c as f64).exp() }
}

/// How often an n-gram occurs in the row that has it most, and in any other.
#[derive(Clone, Default, PartialEq)]
struct Largest {
    max: u32,
    holder: u32,
    second: u32,
    /// The last row with an occurrence, and how many it has so far.
    row: u32,
    count: u32,
}

impl Largest {
    /// By how much the count in the row that has it most exceeds the largest count elsewhere.
    fn excess(&self) -> u32 {
        self.max - self.second
    }
}

impl Tally for Largest {
    fn note(&mut self, window: Window, _: &Group<'_>) {
        let row = window.row();
        self.count = if self.row == row { self.count + 1 } else { 1 };
        self.row = row;
        if self.holder == row {
            self.max = self.count;
        } else if self.count > self.max {
            (self.second, self.max, self.holder) = (self.max, self.count, row);
        } else if self.count > self.second {
            self.second = self.count;
        }
    }

    fn merge(&mut self, later: &Self) {
        if later.max > self.max {
            (self.second, self.max, self.holder) = (self.max.max(later.second), later.max, later.holder);
        } else {
            self.second = self.second.max(later.max);
        }
    }

    fn recurs(&self) -> bool {
        self.second > 0
    }
}

/// How many n-grams of each row and order match: all of them, but for what exceeds the largest count elsewhere.
struct Matches {
    rows: usize,
    /// All rows at order 1, then all at order 2: windows come by order, and their rows rise.
    counts: Vec<u32>,
}

impl Matches {
    fn new(rows: usize, orders: usize) -> Self {
        Self { rows, counts: vec![0; rows * orders] }
    }

    /// The matches of a row; none at orders that no row is long enough for.
    fn of(&self, row: usize, order: usize) -> usize {
        self.counts.get((order - 1) * self.rows + row).map_or(0, |&count| count as usize)
    }

    /// The matches of all rows at one order.
    fn at(&mut self, order: usize) -> &mut [u32] {
        &mut self.counts[(order - 1) * self.rows..order * self.rows]
    }
}

impl Census for Matches {
    type Tally = Largest;

    fn count(&mut self, order: usize, windows: impl Iterator<Item = Window>, tallies: &[Largest]) {
        let counts = self.at(order);
        windows.for_each(|window| counts[window.row() as usize] += 1);
        for largest in tallies {
            counts[largest.holder as usize] -= largest.excess();
        }
    }

    fn merge(&mut self, other: Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
    }
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
    use crate::Ragged;

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
        let rows = Ragged::new("offsets", &[1, 1, 1, 1, 2, 1, 3, 1], &[0, 3, 6, 8]).unwrap();
        let matches = |_: &Group<'_>, matches: Matches| matches.counts;
        let groups = Offsets::new("groups", &[0, 3], 3).unwrap();
        let got = count_groups(rows.into(), &groups, None, 1, |group| Matches::new(group.len(), 1), matches);
        assert_eq!(got, Ok(vec![vec![2, 2, 1]]));
    }

    #[test]
    fn the_largest_counts_of_parts_are_those_of_the_whole() {
        let rows = [3, 3, 4, 4, 4, 6, 8, 8, 8, 8];
        let largest = |rows: &[usize]| {
            let mut largest = Largest::default();
            for &row in rows {
                largest.note(Window::new(0, 0, row), &Group::default());
            }
            largest
        };
        for cut in [0, 2, 5, 6, 10] {
            let mut merged = largest(&rows[..cut]);
            merged.merge(&largest(&rows[cut..]));
            assert_eq!((merged.max, merged.holder, merged.second), (4, 8, 3), "{cut}");
        }
    }

    #[test]
    fn identical_completions_score_one_and_single_ones_nothing() {
        let rows = Ragged::new("offsets", &[4, 5, 6, 7, 8, 4, 5, 6, 7, 8, 1], &[0, 5, 10, 11]).unwrap();
        let groups = Offsets::new("groups", &[0, 2, 3], 3).unwrap();
        let got = self_bleu(rows, &groups, 4, Smoothing::None).unwrap();
        assert!((got[0] - 1.0).abs() < 1e-15);
        assert!(got[1].is_nan());
    }
}
