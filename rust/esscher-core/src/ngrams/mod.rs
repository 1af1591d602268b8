//! Exact n-grams of all orders in one pass over the tokens, in linear time.
//!
//! An n-gram recurs only where a shorter one does: orders are counted one after the other, and of each only those
//! n-grams go on that may yet recur. What is kept of an n-gram is a tally, what is read off the tallies a census.
//! Fingerprints in the place of exact n-grams were no faster.

mod buckets;
mod census;
mod count;
mod distinct;
mod exact_sum;
mod group;
mod histogram;
mod numbers;
mod plain;
mod self_bleu;
mod statistics;
mod subsets;
mod summary;
mod top;
mod walk;
mod weighted;
mod without;

pub use distinct::distinct;
pub use self_bleu::{Smoothing, self_bleu};
pub use statistics::{NgramStatistics, ngram_statistics};
pub use top::{TopNgrams, TopWeightedNgrams, top_ngrams, top_weighted_ngrams};
pub use without::distinct_without_each;
