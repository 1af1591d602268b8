//! How fast each kernel is, on one thread; sizes are those of a training step, and fit in memory.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use esscher_core::{
    Bf16, Offsets, Padded, Ragged, Result, Smoothing, distinct,
    kl::{self, Level, Precision},
    logprobs,
    padded::Mask,
    pareto::{self, TailRule},
    resample, self_bleu,
    token_scores::{Logit, Logits, token_scores},
    top_ngrams,
    weights::{self, Normaliser},
};

const COMPLETIONS: usize = 1024;
const WIDTH: usize = 1024;

fn uniforms(seed: u64) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(seed), |x| Some(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99)))
        .map(|x| (x >> 11) as f64 / (1u64 << 53) as f64)
        .skip(1)
}

fn log_probs(seed: u64, len: usize) -> Vec<f32> {
    uniforms(seed).map(|u| (1.0 - u).ln() as f32).take(len).collect()
}

/// Exponential tails, so that there is something to fit.
fn rewards(len: usize) -> Vec<f64> {
    uniforms(3).map(|u| -(1.0 - u).ln() / 2.0).take(len).collect()
}

fn token_ids(len: usize, vocabulary: f64) -> Vec<u32> {
    uniforms(4).map(|u| (vocabulary * u * u * u) as u32).take(len).collect()
}

fn evenly(rows: usize, width: usize) -> Vec<i64> {
    (0..=rows).map(|i| (i * width) as i64).collect()
}

/// A group of benchmarks that is done within seconds.
fn group<'c>(c: &'c mut Criterion, name: &str, throughput: Throughput) -> BenchmarkGroup<'c, WallTime> {
    let mut group = c.benchmark_group(name);
    group.throughput(throughput).sample_size(20).measurement_time(Duration::from_secs(3));
    group
}

fn aggregate(c: &mut Criterion) {
    let (values, offsets) = (log_probs(1, COMPLETIONS * WIDTH), evenly(COMPLETIONS, WIDTH));
    let lengths: Vec<i64> = uniforms(5).map(|u| (WIDTH as f64 * u) as i64).take(COMPLETIONS).collect();
    let mask: Vec<u8> = lengths.iter().flat_map(|&len| (0..WIDTH as i64).map(move |t| u8::from(t < len))).collect();
    let ragged = Ragged::new("offsets", &values, &offsets).expect("legal offsets");
    let padded = |mask| Padded::new("logprobs", &values, COMPLETIONS, WIDTH, mask).expect("a legal mask");
    let (by_mask, by_lengths) = (padded(Mask::Bytes(&mask)), padded(Mask::Lengths(&lengths)));
    let mut group = group(c, "aggregate", Throughput::Bytes(size_of_val(&values[..]) as u64));
    group.bench_function("ragged", |b| b.iter(|| logprobs::aggregate("logprobs", black_box(&ragged))));
    group.bench_function("padded, mask", |b| b.iter(|| logprobs::aggregate("logprobs", black_box(&by_mask))));
    group.bench_function("padded, lengths", |b| b.iter(|| logprobs::aggregate("logprobs", black_box(&by_lengths))));
    group.finish();
}

fn kl(c: &mut Criterion) {
    let (policy, prior) = (log_probs(1, COMPLETIONS * WIDTH), log_probs(2, COMPLETIONS * WIDTH));
    let offsets = evenly(COMPLETIONS, WIDTH);
    let rows = |values| Ragged::new("offsets", values, &offsets).expect("legal offsets");
    let (policy, prior) = (rows(&policy), rows(&prior));
    let mut group = group(c, "kl", Throughput::Elements(policy.values().len() as u64));
    for (name, precision) in [("token, f64", Precision::F64), ("token, mixed", Precision::Mixed)] {
        group.bench_function(name, |b| b.iter(|| kl::estimates(black_box(&policy), &prior, Level::Token, precision)));
    }
    group.bench_function("sequence", |b| {
        b.iter(|| kl::estimates(black_box(&policy), &prior, Level::Sequence, Precision::F64));
    });
    group.finish();
}

const TOKENS: usize = 32;
const VOCABULARY: usize = 128_256;

fn scores_of<T: Logit>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, logits: &[T], prior: &[T]) {
    let ids: Vec<i64> = (0..TOKENS as i64).collect();
    let of = |values| Logits { values, vocabulary: VOCABULARY };
    group.throughput(Throughput::Bytes(size_of_val(logits) as u64));
    group.bench_function(format!("{name}, alone"), |b| b.iter(|| token_scores(of(black_box(logits)), None, &ids)));
    group.throughput(Throughput::Bytes(2 * size_of_val(logits) as u64));
    group.bench_function(format!("{name}, with prior"), |b| {
        b.iter(|| token_scores(of(black_box(logits)), Some(of(prior)), &ids));
    });
}

fn token_scores_of_logits(c: &mut Criterion) {
    let logits = |seed| uniforms(seed).map(|u| (12.0 * u - 6.0) as f32).take(TOKENS * VOCABULARY).collect::<Vec<f32>>();
    let (policy, prior) = (logits(6), logits(7));
    let half = |values: &[f32]| values.iter().map(|x| (x.to_bits() >> 16) as u16).collect::<Vec<u16>>();
    let mut group = group(c, "token_scores", Throughput::Elements(0));
    scores_of(&mut group, "f32", &policy, &prior);
    scores_of(&mut group, "bf16", Bf16::from_bits(&half(&policy)), Bf16::from_bits(&half(&prior)));
    group.finish();
}

fn weights_of_rewards(c: &mut Criterion) {
    const N: usize = 1 << 20;
    let (rewards, mut out) = (rewards(N), vec![0.0; N]);
    let (whole, eights) = (evenly(1, N), evenly(N / 8, 8));
    let (mut log_z, mut ess) = (vec![0.0; N / 8], vec![0.0; N / 8]);
    let mut bench = group(c, "weights", Throughput::Elements(N as u64));
    for (name, offsets) in [("one group", &whole), ("groups of 8", &eights)] {
        let groups = Offsets::new("groups", offsets, N).expect("legal offsets");
        let (log_z, ess) = (&mut log_z[..groups.len()], &mut ess[..groups.len()]);
        let mut time = |kernel: &str, work: &mut dyn FnMut(&[f64], Normaliser<'_>) -> Result<()>| {
            bench.bench_function(format!("{kernel}, {name}"), |b| {
                b.iter(|| work(black_box(&rewards), Normaliser { log_z: &mut *log_z, ess: &mut *ess }));
            });
        };
        time("normalise_only", &mut |rewards, into| weights::normalise_only(rewards, 0.5, &groups, into));
        time("exponential", &mut |rewards, into| weights::exponential(rewards, 0.5, &groups, &mut out, into));
        time("normalise", &mut |rewards, into| weights::normalise(rewards, &groups, &mut out, into));
    }
    bench.finish();
}

fn pareto_tails(c: &mut Criterion) {
    for n in [10_000, 100_000] {
        let (log_ratios, mut out, offsets) = (rewards(n), vec![0.0; n], evenly(1, n));
        let groups = Offsets::new("groups", &offsets, n).expect("legal offsets");
        let mut bench = group(c, "pareto", Throughput::Elements(n as u64));
        bench.bench_function(n.to_string(), |b| {
            b.iter(|| pareto::smooth(black_box(&log_ratios), &groups, TailRule::ArvizStats, &mut out));
        });
        bench.finish();
    }
}

fn draws(c: &mut Criterion) {
    const N: usize = 1 << 16;
    let (log_weights, uniforms, offsets) = (rewards(N), uniforms(8).take(N).collect::<Vec<_>>(), evenly(N / 8, 8));
    let groups = Offsets::new("groups", &offsets, N).expect("legal offsets");
    let mut bench = group(c, "resample", Throughput::Elements(N as u64));
    bench.bench_function("groups of 8", |b| {
        b.iter(|| resample::resample(black_box(&log_weights), &groups, &uniforms));
    });
    bench.finish();
}

fn diversity(c: &mut Criterion) {
    const ROWS: usize = 5000;
    const LENGTH: usize = 128;
    let (ids, offsets) = (token_ids(ROWS * LENGTH, 50_000.0), evenly(ROWS, LENGTH));
    let rows = Ragged::new("offsets", &ids, &offsets).expect("legal offsets");
    let (whole, each) = (evenly(1, ROWS), evenly(ROWS, 1));
    let mut bench = group(c, "distinct", Throughput::Elements(ids.len() as u64));
    for (name, groups) in [("all completions", &whole), ("per completion", &each)] {
        let groups = Offsets::new("groups", groups, ROWS).expect("legal offsets");
        bench.bench_function(name, |b| b.iter(|| distinct(black_box(rows), &groups, &[1, 2, 3, 4, 5])));
    }
    bench.bench_function("top 100 of 4-grams", |b| b.iter(|| top_ngrams(black_box(rows), 4, 100)));
    bench.finish();
}

fn self_bleu_of_completions(c: &mut Criterion) {
    const ROWS: usize = 2000;
    const LENGTH: usize = 64;
    let (ids, offsets, whole) = (token_ids(ROWS * LENGTH, 5_000.0), evenly(ROWS, LENGTH), evenly(1, ROWS));
    let rows = Ragged::new("offsets", &ids, &offsets).expect("legal offsets");
    let groups = Offsets::new("groups", &whole, ROWS).expect("legal offsets");
    let mut bench = group(c, "self_bleu", Throughput::Elements(ids.len() as u64));
    bench.bench_function("4-grams", |b| b.iter(|| self_bleu(black_box(rows), &groups, 4, Smoothing::Method1)));
    bench.finish();
}

criterion_group!(
    kernels,
    aggregate,
    kl,
    token_scores_of_logits,
    weights_of_rewards,
    pareto_tails,
    draws,
    diversity,
    self_bleu_of_completions
);
criterion_main!(kernels);
