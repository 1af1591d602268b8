//! Large groups: windows are scattered once, by their first two tokens, into buckets that fit a cache.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    census::{Census, NEAR_END, Tally, Window},
    group::Group,
    numbers::Numbers,
    walk::{Walk, windows},
};
use crate::parallel;

/// About how many windows share a bucket, and the logarithm of the most buckets: each has a cache line being written.
const BUCKET: usize = 1 << 11;
const MOST_BUCKETS_LOG2: u32 = 12;
/// The fewest and the most tokens of a chunk that is scattered on its own; in between, a group is divided into 16
/// chunks.
const CHUNK: (usize, usize) = (1 << 12, 1 << 20);
/// Token ids are renumbered if they may exceed this, or the number of tokens.
const VOCABULARY: usize = 1 << 18;
/// The number of parts that the buckets are divided into for the threads.
const PARTS: usize = 64;

/// Count the n-grams of orders 1 to `last`; every census that is made sees some of them.
pub(super) fn count<C: Census>(group: &Group<'_>, last: usize, census: impl Fn() -> C + Sync) -> Vec<C> {
    let vocabulary = group.tokens().iter().max().map_or(0, |&most| most as usize + 1);
    if vocabulary > VOCABULARY.min(group.tokens().len()) {
        let (renamed, vocabulary) = rename(group.tokens());
        return count_named(&group.with_tokens(&renamed), vocabulary, last, census);
    }
    count_named(group, vocabulary, last, census)
}

/// Tokens by order of appearance, and how many different ones there are.
fn rename(tokens: &[u32]) -> (Vec<u32>, usize) {
    let mut names = Numbers::default();
    names.clear(tokens.len());
    let mut renamed = vec![0; tokens.len()];
    names.replace(&mut renamed, tokens);
    (renamed, names.len())
}

fn count_named<C: Census>(group: &Group<'_>, vocabulary: usize, last: usize, census: impl Fn() -> C + Sync) -> Vec<C> {
    let mut unigrams = census();
    let all_windows =
        (0..group.len()).flat_map(|row| group.pieces(row).flat_map(move |piece| windows(group, row, piece)));
    unigrams.count(1, all_windows, &tally_unigrams(group, vocabulary));
    let mut counted = if last > 1 { count_longer(group, vocabulary, last, census) } else { Vec::new() };
    counted.push(unigrams);
    counted
}

/// A tally for every token that there is.
fn tally_unigrams<T: Tally>(group: &Group<'_>, vocabulary: usize) -> Vec<T> {
    let parts = (group.tokens().len() / (4 * vocabulary)).clamp(1, 16);
    let chunks = group.chunks(group.tokens().len().div_ceil(parts));
    let tally_chunk = |rows: Range<usize>| {
        let mut tallies = vec![T::default(); vocabulary];
        for row in rows {
            let note = |window: Window| tallies[window.key as usize].note(window, group);
            group.pieces(row).flat_map(|piece| windows(group, row, piece)).for_each(note);
        }
        tallies
    };
    let mut tallies = vec![T::default(); vocabulary];
    for chunk in parallel::map_each(chunks, tally_chunk) {
        tallies.iter_mut().zip(&chunk).for_each(|(tally, later)| tally.merge(later));
    }
    tallies.retain(|tally| *tally != T::default());
    tallies
}

fn count_longer<C: Census>(group: &Group<'_>, vocabulary: usize, last: usize, census: impl Fn() -> C + Sync) -> Vec<C> {
    let tokens = group.tokens().len();
    let split = Split::new(vocabulary, tokens);
    let chunks = group.chunks((tokens / 16).clamp(CHUNK.0, CHUNK.1).max(split.buckets()));
    let scattered = parallel::map_each(chunks, |rows| Scattered::new(group, rows, last, split));
    let next = AtomicUsize::new(0);
    let part = |_| {
        let mut counted = None;
        let mut walk = Walk::default();
        loop {
            let bucket = next.fetch_add(1, Ordering::Relaxed);
            if bucket >= split.buckets() {
                return counted;
            }
            let windows = scattered.iter().map(|chunk| chunk.bucket(bucket));
            walk.bucket(windows, group, last, counted.get_or_insert_with(&census));
        }
    };
    parallel::map(PARTS, part).into_iter().flatten().collect()
}

/// Bigrams as a bucket and a 32-bit key: together they are the bigram, so in a bucket the key alone tells them apart.
///
/// A product with an odd number modulo a power of two is a permutation, and its high bits are well mixed.
#[derive(Clone, Copy)]
struct Split {
    token_bits: u32,
    bucket_bits: u32,
}

impl Split {
    fn new(vocabulary: usize, windows: usize) -> Self {
        let token_bits = (vocabulary - 1).checked_ilog2().map_or(1, |log| log + 1);
        let wanted = (windows / BUCKET).checked_ilog2().unwrap_or(0).min(MOST_BUCKETS_LOG2);
        let bucket_bits = wanted.clamp((2 * token_bits).saturating_sub(32).max(1), 2 * token_bits - 1);
        Self { token_bits, bucket_bits }
    }

    fn buckets(self) -> usize {
        1 << self.bucket_bits
    }

    fn of(self, first: u32, second: u32) -> (usize, u32) {
        let bigram = u64::from(first) << self.token_bits | u64::from(second);
        let mixed = bigram.wrapping_mul(0x9E37_79B9_7F4A_7C15) << (64 - 2 * self.token_bits);
        let key = (mixed << self.bucket_bits) >> (64 + self.bucket_bits - 2 * self.token_bits);
        ((mixed >> (64 - self.bucket_bits)) as usize, key as u32)
    }
}

/// The windows of some rows, bucket after bucket.
struct Scattered {
    windows: Vec<Window>,
    /// Where each bucket ends.
    ends: Vec<u32>,
}

impl Scattered {
    fn new(group: &Group<'_>, rows: Range<usize>, last: usize, split: Split) -> Self {
        let mut ends = vec![0; split.buckets()];
        for row in rows.clone() {
            for piece in group.pieces(row) {
                group.piece(piece).windows(2).for_each(|pair| ends[split.of(pair[0], pair[1]).0] += 1);
            }
        }
        let mut sum = 0;
        for end in &mut ends {
            (*end, sum) = (sum, sum + *end);
        }
        let mut windows = vec![Window::default(); sum as usize];
        for (row, piece) in rows.flat_map(|row| group.pieces(row).map(move |piece| (row, piece))) {
            let near_end = (piece.end as usize + 1).saturating_sub(last) as u32;
            for (pair, start) in group.piece(piece).windows(2).zip(piece.start..) {
                let (bucket, key) = split.of(pair[0], pair[1]);
                let flag = if start < near_end { 0 } else { NEAR_END };
                windows[ends[bucket] as usize] = Window { key, start, row: row as u32 | flag };
                ends[bucket] += 1;
            }
        }
        Self { windows, ends }
    }

    fn bucket(&self, bucket: usize) -> &[Window] {
        let start = if bucket == 0 { 0 } else { self.ends[bucket - 1] };
        &self.windows[start as usize..self.ends[bucket] as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn bucket_and_key_are_the_bigram() {
        for (vocabulary, windows) in [(1, 1 << 20), (2, 0), (37, 1 << 14), (200, 1 << 30)] {
            let split = Split::new(vocabulary, windows);
            let tokens = || 0..vocabulary as u32;
            let different: HashSet<_> = tokens().flat_map(|a| tokens().map(move |b| split.of(a, b))).collect();
            assert_eq!(different.len(), vocabulary * vocabulary);
            assert!(different.iter().all(|&(bucket, _)| bucket < split.buckets()));
        }
    }

    #[test]
    fn every_vocabulary_leaves_a_key_of_32_bits() {
        for bits in 0..=32 {
            let split = Split::new(1 << bits, 1 << 31);
            assert!(2 * split.token_bits - split.bucket_bits <= 32, "{bits}");
            let most = ((1u64 << bits) - 1) as u32;
            assert!(bits == 0 || split.of(most, most) != split.of(most, most - 1));
            assert!(bits == 0 || split.of(most, most) != split.of(most - 1, most));
        }
    }
}
