//! Neither how rows are stored nor how many threads there are changes a bit.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;
use rayon::{ThreadPool, ThreadPoolBuilder};

use esscher_core::{
    NgramStatistics, Offsets, Padded, Ragged, Real, Result, Rows, Smoothing, distinct, distinct_without_each,
    kl::{self, Level, Precision},
    logprobs, ngram_statistics,
    padded::Mask,
    pareto::{self, TailRule},
    resample::resample,
    self_bleu,
    token_scores::{Logits, token_scores},
    top_ngrams, top_weighted_ngrams, weights,
};

use crate::{
    inputs::{
        Narrow, Numbers, Said, Tokens, Type, any_type, config, cuts, groups, len, lens, narrow, numbers, offsets,
        tokens, uniforms,
    },
    with_type,
};

static POOLS: LazyLock<Vec<ThreadPool>> = LazyLock::new(|| {
    [1, 2, 3, 16].into_iter().map(|threads| ThreadPoolBuilder::new().num_threads(threads).build().unwrap()).collect()
});

/// The bits of a kernel's result, or its error.
type Bits = std::result::Result<Vec<u64>, String>;

fn bits<R>(result: Result<R>, columns: impl Fn(R) -> Vec<Vec<f64>>) -> Bits {
    let column_bits = |result| columns(result).concat().into_iter().map(f64::to_bits).collect();
    result.map(column_bits).map_err(|error| error.to_string())
}

fn integers(column: &[i64]) -> Vec<f64> {
    column.iter().map(|&x| x as f64).collect()
}

fn singles(column: &[f32]) -> Vec<f64> {
    column.iter().map(|&x| f64::from(x)).collect()
}

/// Sums and KL of rows, however stored.
fn columns<T: Real>(policy: &impl Rows<T>, prior: &impl Rows<T>) -> Vec<Bits> {
    let sums = bits(logprobs::aggregate("logprobs", policy), |got| vec![got.log_prob, got.mean, integers(&got.length)]);
    let kl = |level, precision| {
        bits(kl::estimates(policy, prior, level, precision), |got| vec![got.k1, got.k2, got.k3, got.abs])
    };
    vec![
        sums,
        kl(Level::Token, Precision::F64),
        kl(Level::Token, Precision::Mixed),
        kl(Level::Sequence, Precision::F64),
    ]
}

/// Where a padded row keeps its tokens.
#[derive(Debug, Clone, Copy)]
enum Padding {
    Right,
    Left,
    Both,
    Between,
}

fn padding() -> impl Strategy<Value = Padding> {
    prop::sample::select(&[Padding::Right, Padding::Left, Padding::Both, Padding::Between][..])
}

impl Padding {
    /// The columns that hold the `len` tokens of a row.
    fn places(self, len: usize, width: usize) -> Vec<usize> {
        let place = |t: usize| match self {
            Self::Right => t,
            Self::Left => t + width - len,
            Self::Both => t + (width - len) / 2,
            Self::Between => t * width / len,
        };
        (0..len).map(place).collect()
    }
}

/// Rows as a padded array, with its mask.
fn pad<T: Narrow>(values: &[T], lens: &[usize], width: usize, padding: Padding, filler: f64) -> (Vec<T>, Vec<u8>) {
    let mut padded = vec![T::narrow(filler); lens.len() * width];
    let mut mask = vec![0; padded.len()];
    let mut tokens = values.iter();
    for (i, &len) in lens.iter().enumerate() {
        for (place, &token) in padding.places(len, width).into_iter().zip(&mut tokens) {
            padded[i * width + place] = token;
            mask[i * width + place] = 1;
        }
    }
    (padded, mask)
}

#[derive(Debug, Clone)]
struct Columns {
    policy: Numbers,
    prior: Numbers,
    lens: Vec<usize>,
    kind: Type,
    padding: Padding,
    more: usize,
    filler: f64,
}

fn any_columns() -> impl Strategy<Value = Columns> {
    let filler = prop::sample::select(&[0.0, 1.0, f64::NAN, f64::INFINITY][..]);
    (numbers(), numbers(), lens(), any_type(), padding(), 0..70usize, filler).prop_map(
        |(policy, prior, lens, kind, padding, more, filler)| Columns {
            policy,
            prior,
            lens,
            kind,
            padding,
            more,
            filler,
        },
    )
}

/// Errors name other places where the storage is another.
fn without_place(bits: &[Bits]) -> Vec<Option<&Vec<u64>>> {
    bits.iter().map(|bits| bits.as_ref().ok()).collect()
}

fn check_storage<T: Narrow>(columns_of: &Columns) -> std::result::Result<(), TestCaseError> {
    let Columns { lens, padding, filler, .. } = columns_of;
    let n = lens.iter().sum();
    let [policy, prior] = [&columns_of.policy, &columns_of.prior].map(|numbers| narrow::<T>(&numbers.log_probs(n)));
    let borders = offsets(lens);
    let ragged = |values| Ragged::new("offsets", values, &borders).unwrap();
    let expected = columns(&ragged(&policy), &ragged(&prior));

    let width = lens.iter().max().unwrap_or(&0) + columns_of.more;
    let (policy, mask) = pad(&policy, lens, width, *padding, *filler);
    let (prior, _) = pad(&prior, lens, width, *padding, *filler);
    let wide_mask: Vec<i64> = mask.iter().map(|&m| i64::from(m)).collect();
    let lengths: Vec<i64> = lens.iter().map(|&len| len as i64).collect();
    let mut masks = vec![Mask::Bytes(&mask), Mask::Integers(&wide_mask)];
    if matches!(padding, Padding::Right) {
        masks.push(Mask::Lengths(&lengths));
    }
    for mask in masks {
        let padded = |values| Padded::new("values", values, lens.len(), width, mask).unwrap();
        let run = || columns(&padded(&policy), &padded(&prior));
        let here = run();
        prop_assert_eq!(without_place(&here), without_place(&expected), "{:?}", mask);
        for pool in &*POOLS {
            prop_assert_eq!(&pool.install(run), &here);
        }
    }
    Ok(())
}

/// What the kernels on groups are given.
#[derive(Debug, Clone)]
struct Batch {
    values: Numbers,
    lens: Vec<usize>,
    beta: f64,
    draws: usize,
    tokens: Tokens,
    cuts: Vec<Index>,
    vocabulary: usize,
    seed: u64,
}

fn any_batch() -> impl Strategy<Value = Batch> {
    // The last kind of lengths is divided among threads within a group.
    let lens = prop_oneof![150 => lens(), 1 => prop::collection::vec(0..2500usize, 20..30)];
    let (beta, draws) = (prop::sample::select(&[1.0, 0.25, 30.0][..]), 0..4usize);
    (numbers(), lens, beta, draws, tokens(), cuts(), len(), any::<u64>()).prop_map(
        |(values, lens, beta, draws, tokens, cuts, vocabulary, seed)| {
            let vocabulary = vocabulary + 1;
            Batch { values, lens, beta, draws, tokens, cuts, vocabulary, seed }
        },
    )
}

fn of_weights(values: &[f64], groups: &Offsets<'_>, batch: &Batch) -> Vec<Bits> {
    let out = || vec![f64::NAN; values.len()];
    let (mut weights, mut log_weights, mut smoothed) = (out(), out(), out());
    let mut said = [(); 3].map(|()| Said::of(groups.len()));
    let [exponential, normalised, alone] = said.each_mut().map(Said::room);
    let exponential = weights::exponential(values, batch.beta, groups, &mut weights, exponential);
    let normalised = weights::normalise(values, groups, &mut log_weights, normalised);
    let alone = weights::normalise_only(values, batch.beta, groups, alone);
    let tail = pareto::smooth(values, groups, TailRule::ArvizStats, &mut smoothed);
    let uniforms: Vec<f64> = uniforms(batch.seed).take(batch.draws * groups.len()).collect();
    let said = said.map(|said| vec![said.log_z, said.ess]);
    vec![
        bits(exponential, |()| [said[0].clone(), vec![weights.clone()]].concat()),
        bits(normalised, |()| [said[1].clone(), vec![log_weights.clone()]].concat()),
        bits(alone, |()| said[2].clone()),
        bits(tail, |k| vec![k, smoothed.clone()]),
        bits(resample(values, groups, &uniforms), |drawn| vec![integers(&drawn)]),
    ]
}

fn statistics(said: NgramStatistics) -> Vec<Vec<f64>> {
    vec![said.distinct, said.entropy, said.rarefied.unwrap_or_default()]
}

fn of_tokens(ids: &[u32], weights: &[f64], lens: &[usize], cuts: &[i64]) -> Vec<Bits> {
    let borders = offsets(lens);
    let rows = Ragged::new("offsets", ids, &borders).unwrap();
    let groups = Offsets::new("groups", cuts, rows.len()).unwrap();
    vec![
        bits(distinct(rows, &groups, &[1, 2, 5]), |shares| vec![shares]),
        bits(distinct_without_each(rows, &groups, &[1, 3]), |shares| vec![shares]),
        bits(self_bleu(rows, &groups, 4, Smoothing::Method1), |scores| vec![scores]),
        bits(top_ngrams(rows, 2, 20), |top| vec![integers(&top.starts), integers(&top.counts)]),
        bits(ngram_statistics(rows, &groups, &[3, 1], None, Some(2)), statistics),
        bits(ngram_statistics(rows, &groups, &[3, 1], Some(weights), Some(2)), statistics),
        bits(top_weighted_ngrams(rows, weights, 2, 20), |top| {
            vec![integers(&top.starts), integers(&top.counts), top.weights]
        }),
    ]
}

fn of_logits(logits: &[f32], vocabulary: usize) -> Vec<Bits> {
    let tokens = logits.len() / vocabulary / 2;
    let half = tokens * vocabulary;
    let of = |values| Logits { values, vocabulary };
    let scores = |prior| {
        bits(token_scores(of(&logits[..half]), prior, &vec![0; tokens]), |got| {
            let prior = got.prior.map_or(vec![], |prior| vec![singles(&prior.logprobs), singles(&prior.kl)]);
            [vec![singles(&got.logprobs), singles(&got.entropy)], prior].concat()
        })
    };
    vec![scores(None), scores(Some(of(&logits[half..2 * half])))]
}

fn check_threads(batch: &Batch) -> std::result::Result<(), TestCaseError> {
    let n = batch.lens.iter().sum();
    let (values, ids, borders) = (batch.values.take(n), batch.tokens.take(n), offsets(&batch.lens));
    let (logits, cuts) = (narrow::<f32>(&values), groups(&batch.cuts, batch.lens.len()));
    let grouped = Offsets::new("groups", &borders, n).unwrap();
    let row_weights: Vec<f64> = uniforms(batch.seed).take(batch.lens.len()).collect();
    let run = || {
        [
            of_weights(&values, &grouped, batch),
            of_tokens(&ids, &row_weights, &batch.lens, &cuts),
            of_logits(&logits, batch.vocabulary),
        ]
    };
    let expected = run();
    for pool in &*POOLS {
        prop_assert_eq!(&pool.install(run), &expected, "{} threads", pool.current_num_threads());
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(10_000))]

    #[test]
    fn rows_give_the_same_whatever_their_padding(columns in any_columns()) {
        with_type!(columns.kind, check_storage(&columns))?;
    }

    #[test]
    fn groups_give_the_same_on_any_number_of_threads(batch in any_batch()) {
        check_threads(&batch)?;
    }
}
