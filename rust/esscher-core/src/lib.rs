//! The mathematics of Esscher: what is done to every sequence of a batch.
//!
//! Fine-tuning a language model with a reward and a KL penalty is Bayesian inference: the best policy is the target
//! `prior(x) exp(r(x) / beta) / Z` (Korbak, Perez, Buckley, "RL with KL penalties is better viewed as Bayesian
//! inference", Findings of EMNLP 2022, arXiv:2205.11275). This crate holds the kernels that this view needs, as functions on
//! slices:
//!
//! - [`logprobs`]: per-token log-probs to one log-prob a sequence;
//! - [`kl`]: the estimators k1, k2, k3 and abs of a KL divergence;
//! - [`token_scores`]: log-prob, entropy and exact KL of each token, from logits over the vocabulary;
//! - [`weights`]: importance weights by log-sum-exp, with log Z and effective sample size; [`pareto`]: their tail;
//! - [`tilts`]: what samples of the prior say of its tilts, for many beta at once;
//! - [`resample`]: draws from weighted samples;
//! - [`distinct`], [`ngram_statistics`], [`self_bleu`], [`top_ngrams`]: diversity of token sequences, in time linear in
//!   the tokens;
//! - [`json_lines`]: columns from lines of JSON.
//!
//! Rows of unequal length are [`Ragged`], [`Masked`] where some items are gaps, or [`Padded`] with a mask; every broken rule is an [`Error`] that names the
//! argument and the index. Sums over sequences are taken in f64 in a fixed order, so results do not depend on the
//! number of threads. Kernels work on the thread that calls, or, inside a rayon pool, on the pool's.
//!
//! You can safely ignore: [`Offsets`] (what divides a flat array into rows) and [`Real`] (f32, f64 or [`Bf16`]).

mod error;
pub mod json_lines;
pub mod kl;
pub mod logprobs;
mod masked;
mod ngrams;
pub mod padded;
mod parallel;
pub mod pareto;
mod ragged;
mod real;
pub mod resample;
mod simd;
mod sum;
pub mod tilts;
pub mod token_scores;
mod vectors;
pub mod weights;

pub use error::{Error, Result};
pub use masked::Masked;
pub use ngrams::{
    NgramStatistics, Smoothing, TopNgrams, TopWeightedNgrams, distinct, distinct_without_each, ngram_statistics,
    self_bleu, top_ngrams, top_weighted_ngrams,
};
pub use padded::Padded;
pub use ragged::{Offsets, Ragged, Rows};
pub use real::{Bf16, Real};
