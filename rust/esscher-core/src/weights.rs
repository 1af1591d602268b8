//! Importance weights by log-sum-exp, group by group.

use std::ops::Range;

use bytemuck::cast_slice;

use crate::{
    Error, Offsets, Result, parallel,
    ragged::check_length,
    real::sealed::Load,
    simd::{self, Kernel, Machine, exp, ln_1p},
    sum::{Sum, filled_rest},
};

/// What the weights of each group say of the target.
#[derive(Debug, Clone, PartialEq)]
pub struct Normaliser {
    /// Log of the mean unnormalised weight, one per group: the estimate of log Z.
    pub log_z: Vec<f64>,
    /// Effective sample size `(sum w)^2 / sum w^2`, one per group.
    pub ess: Vec<f64>,
}

/// Check that every value is finite or `-inf`.
///
/// # Errors
/// Names the first value that is NaN or `+inf`.
pub fn check(name: &'static str, values: &[f64]) -> Result<()> {
    let is_bad = |value: f64| value.is_nan() || value == f64::INFINITY;
    // A fold without a way out early is what the compiler vectorises.
    if !values.iter().fold(false, |bad, &value| bad | is_bad(value)) {
        return Ok(());
    }
    let index = values.iter().position(|&value| is_bad(value)).unwrap_or_default();
    Err(Error::LogWeight { name, index, value: values[index] })
}

/// `log_target - log_proposal`, the log of the unnormalised importance weights.
///
/// # Errors
/// If the lengths differ, `log_target` is NaN or `+inf` somewhere, or `log_proposal` is not finite: a sample that the
/// proposal cannot produce has no weight.
pub fn log_ratios(log_target: &[f64], log_proposal: &[f64]) -> Result<Vec<f64>> {
    check_length("log_proposal", log_proposal.len(), "log_target", log_target.len())?;
    check("log_target", log_target)?;
    if let Some(index) = log_proposal.iter().position(|value| !value.is_finite()) {
        return Err(Error::Proposal { index, value: log_proposal[index] });
    }
    Ok(log_target.iter().zip(log_proposal).map(|(target, proposal)| target - proposal).collect())
}

/// Write the logarithms of the self-normalised weights, whose exponentials sum to 1 in every group.
///
/// A group in which nothing has weight gets `log_z = -inf` and `ess = 0`, and its weights stay `-inf`.
///
/// # Errors
/// If a value is NaN or `+inf`, or the lengths differ.
pub fn normalise(log_ratios: &[f64], groups: &Offsets<'_>, log_weights: &mut [f64]) -> Result<Normaliser> {
    check_length("log_weights", log_weights.len(), "log_ratios", log_ratios.len())?;
    let tilt = Tilt { values: log_ratios, beta: 1.0 };
    weigh("log_ratios", tilt, groups, Out { what: What::LogWeights, values: log_weights })
}

/// Write the self-normalised weights `exp(r / beta)` of samples of the prior, which sum to 1 in every group.
///
/// A group in which nothing has weight gets `log_z = -inf` and `ess = 0`, and its weights are 0.
///
/// # Errors
/// If a reward is NaN or `+inf`, `beta` is not positive and finite, or the lengths differ.
pub fn exponential(rewards: &[f64], beta: f64, groups: &Offsets<'_>, weights: &mut [f64]) -> Result<Normaliser> {
    check_length("weights", weights.len(), "rewards", rewards.len())?;
    weigh("rewards", Tilt::new(rewards, beta)?, groups, Out { what: What::Weights, values: weights })
}

/// As [`exponential`], without the weights themselves.
///
/// # Errors
/// As [`exponential`].
pub fn normaliser(rewards: &[f64], beta: f64, groups: &Offsets<'_>) -> Result<Normaliser> {
    weigh("rewards", Tilt::new(rewards, beta)?, groups, Out { what: What::Nothing, values: &mut [] })
}

/// Log-weights `values / beta`.
#[derive(Clone, Copy)]
struct Tilt<'a> {
    values: &'a [f64],
    beta: f64,
}

impl<'a> Tilt<'a> {
    fn new(rewards: &'a [f64], beta: f64) -> Result<Self> {
        if beta > 0.0 && beta.is_finite() {
            return Ok(Self { values: rewards, beta });
        }
        Err(Error::Range { name: "beta", value: beta, rule: "positive and finite" })
    }

    #[inline(always)]
    fn part(&self, range: Range<usize>) -> Tilt<'a> {
        Tilt { values: &self.values[range], beta: self.beta }
    }
}

/// What is written for each value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Nothing,
    Weights,
    LogWeights,
}

/// Where it is written: nowhere if it is nothing.
struct Out<'a> {
    what: What,
    values: &'a mut [f64],
}

impl<'a> Out<'a> {
    /// Cut off the part for the first `len` values.
    #[inline(always)]
    fn split_off(&mut self, len: usize) -> Out<'a> {
        let len = if self.what == What::Nothing { 0 } else { len };
        let (part, rest) = std::mem::take(&mut self.values).split_at_mut(len);
        self.values = rest;
        Out { what: self.what, values: part }
    }
}

/// Values of one group that are summed at once: what the first-level cache holds, as they are read twice.
const BLOCK: usize = 2048;
/// Values of small groups that are one piece of work for a thread.
const RUN: usize = 16_384;

fn weigh(name: &'static str, tilt: Tilt<'_>, groups: &Offsets<'_>, mut out: Out<'_>) -> Result<Normaliser> {
    let tasks: Vec<_> = runs(groups)
        .into_iter()
        .map(|run| {
            let len = groups.span(&run).len();
            (run, out.split_off(len))
        })
        .collect();
    let done = parallel::map_each(tasks, |(run, out)| {
        let values = groups.span(&run);
        if run.len() == 1 && values.len() > BLOCK {
            big_group(tilt.part(values), out)
        } else {
            small_groups(tilt, groups, run, out)
        }
    });
    let done: Option<Vec<Normaliser>> = done.into_iter().collect();
    let Some(done) = done else {
        return Err(check(name, tilt.values).expect_err("sums are NaN or infinite only if a value is"));
    };
    Ok(Normaliser {
        log_z: done.iter().flat_map(|part| &part.log_z).copied().collect(),
        ess: done.iter().flat_map(|part| &part.ess).copied().collect(),
    })
}

/// Consecutive groups that are worth a task: a big one alone, small ones together.
fn runs(groups: &Offsets<'_>) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut start = 0;
    for i in 0..groups.len() {
        let big = groups.range(i).len() > BLOCK;
        if i > start && (big || groups.span(&(start..i + 1)).len() > RUN) {
            runs.push(start..i);
            start = i;
        }
        if big {
            runs.push(i..i + 1);
            start = i + 1;
        }
    }
    if start < groups.len() {
        runs.push(start..groups.len());
    }
    runs
}

/// Sums over a part of a group of `exp((value - max) / beta)`.
///
/// What equals the maximum is counted, not summed: beside it, the rest may be lost.
#[derive(Debug, Clone, Copy)]
struct LogSum {
    max: f64,
    ties: f64,
    others: f64,
    squares: f64,
}

impl LogSum {
    const EMPTY: Self = Self { max: f64::NEG_INFINITY, ties: 0.0, others: 0.0, squares: 0.0 };

    /// NaN in the values makes the sums NaN.
    fn is_valid(&self) -> bool {
        self.max < f64::INFINITY && !self.others.is_nan()
    }

    fn merge(self, other: Self, beta: f64) -> Self {
        if self.max < other.max {
            return other.merge(self, beta);
        }
        let scale = if self.max == other.max { 1.0 } else { ((other.max - self.max) / beta).exp() };
        let tied = if self.max == other.max { other.ties } else { 0.0 };
        let rest = other.ties - tied;
        Self {
            max: self.max,
            ties: self.ties + tied,
            others: self.others + scale * (rest + other.others),
            squares: self.squares + scale * scale * (rest + other.squares),
        }
    }

    fn ess(&self) -> f64 {
        let sum = self.ties + self.others;
        if self.ties == 0.0 { 0.0 } else { sum * sum / (self.ties + self.squares) }
    }

    /// The sum but for its first term, whose `ln_1p` is the logarithm of the sum: it keeps the digits of a group that
    /// one value dominates. 0 for a group without weight.
    fn beyond_first(&self) -> f64 {
        (self.ties - 1.0).max(0.0) + self.others
    }

    fn log_z(&self, beta: f64, log_sum: f64, log_n: f64) -> f64 {
        if self.ties == 0.0 { f64::NEG_INFINITY } else { self.max / beta + (log_sum - log_n) }
    }
}

fn big_group(tilt: Tilt<'_>, mut out: Out<'_>) -> Option<Normaliser> {
    let len = tilt.values.len();
    let block = |i: usize| tilt.part(i * BLOCK..len.min((i + 1) * BLOCK));
    let blocks = len.div_ceil(BLOCK);
    let sums = parallel::map(blocks, |i| simd::dispatch(BlockSum(block(i))));
    let sum = sums.into_iter().fold(LogSum::EMPTY, |total, sum| total.merge(sum, tilt.beta));
    if !sum.is_valid() {
        return None;
    }
    let log_sum = sum.beyond_first().ln_1p();
    if out.what != What::Nothing {
        let parts = (0..blocks).map(|i| (block(i), out.split_off(block(i).values.len()))).collect();
        parallel::map_each(parts, |(tilt, out)| simd::dispatch(WriteBlock { tilt, sum, log_sum, out }));
    }
    Some(Normaliser { log_z: vec![sum.log_z(tilt.beta, log_sum, (len as f64).ln())], ess: vec![sum.ess()] })
}

fn small_groups(tilt: Tilt<'_>, groups: &Offsets<'_>, run: Range<usize>, out: Out<'_>) -> Option<Normaliser> {
    let sums = simd::dispatch(GroupSums { tilt, groups, run: run.clone() });
    if !sums.iter().all(LogSum::is_valid) {
        return None;
    }
    let mut log_sums: Vec<f64> = sums.iter().map(LogSum::beyond_first).collect();
    simd::dispatch(Ln1p(&mut log_sums));
    let mut log_len = LogLen::default();
    let log_z = |((i, sum), &log_sum): ((usize, &LogSum), &f64)| {
        sum.log_z(tilt.beta, log_sum, log_len.of(groups.range(i).len()))
    };
    let log_z = run.clone().zip(&sums).zip(&log_sums).map(log_z).collect();
    simd::dispatch(WriteGroups { tilt, groups, run, sums: &sums, log_sums: &log_sums, out });
    Some(Normaliser { log_z, ess: sums.iter().map(LogSum::ess).collect() })
}

/// The logarithm of a length, which is mostly that of the group before.
#[derive(Default)]
struct LogLen {
    len: usize,
    log: f64,
}

impl LogLen {
    fn of(&mut self, len: usize) -> f64 {
        if self.len != len {
            *self = Self { len, log: (len as f64).ln() };
        }
        self.log
    }
}

/// [`LogSum`] of one block.
struct BlockSum<'a>(Tilt<'a>);

impl Kernel for BlockSum<'_> {
    type Output = LogSum;

    #[inline(always)]
    fn run<M: Machine>(self, m: M) -> LogSum {
        log_sum(m, self.0)
    }
}

/// [`LogSum`] of each of some small groups.
struct GroupSums<'a> {
    tilt: Tilt<'a>,
    groups: &'a Offsets<'a>,
    run: Range<usize>,
}

impl Kernel for GroupSums<'_> {
    type Output = Vec<LogSum>;

    #[inline(always)]
    fn run<M: Machine>(self, m: M) -> Vec<LogSum> {
        let mut sums = vec![LogSum::EMPTY; self.run.len()];
        for (sum, i) in sums.iter_mut().zip(self.run) {
            *sum = log_sum(m, self.tilt.part(self.groups.range(i)));
        }
        sums
    }
}

/// Replace each value by the logarithm of 1 more.
struct Ln1p<'a>(&'a mut [f64]);

impl Kernel for Ln1p<'_> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, m: M) {
        let (head, tail) = M::as_mut_simd_f64s(self.0);
        for x in head {
            *x = ln_1p(m, *x);
        }
        let rest = ln_1p(m, m.partial_load_f64s(tail));
        m.partial_store_f64s(tail, rest);
    }
}

struct Sums<M: Machine> {
    ties: Sum<M>,
    others: Sum<M>,
    squares: Sum<M>,
}

#[inline(always)]
fn log_sum<M: Machine>(m: M, tilt: Tilt<'_>) -> LogSum {
    let max = max(m, tilt.values);
    if max == f64::NEG_INFINITY {
        // Differences from it would be NaN, and a value that is NaN is lost in the maximum.
        let nothing = tilt.values.iter().all(|&value| value == max);
        return LogSum { others: if nothing { 0.0 } else { f64::NAN }, ..LogSum::EMPTY };
    }
    let mut sums = Sums { ties: Sum::zero(m), others: Sum::zero(m), squares: Sum::zero(m) };
    for chunk in tilt.values.chunks_exact(M::F32_LANES) {
        add(m, &mut sums, max, tilt.beta, chunk);
    }
    if let Some(rest) = filled_rest::<M, f64>(tilt.values, f64::NEG_INFINITY) {
        add(m, &mut sums, max, tilt.beta, &rest[..M::F32_LANES]);
    }
    LogSum { max, ties: sums.ties.total(m), others: sums.others.total(m), squares: sums.squares.total(m) }
}

#[inline(always)]
fn max<M: Machine>(m: M, values: &[f64]) -> f64 {
    let mut max = [m.splat_f64s(f64::NEG_INFINITY); 2];
    for chunk in values.chunks_exact(M::F32_LANES) {
        let x = f64::load(m, chunk);
        max = [m.max_f64s(x[0], max[0]), m.max_f64s(x[1], max[1])];
    }
    if let Some(rest) = filled_rest::<M, f64>(values, f64::NEG_INFINITY) {
        let x = f64::load(m, &rest[..M::F32_LANES]);
        max = [m.max_f64s(x[0], max[0]), m.max_f64s(x[1], max[1])];
    }
    m.reduce_max_f64s(m.max_f64s(max[0], max[1]))
}

#[inline(always)]
fn add<M: Machine>(m: M, sums: &mut Sums<M>, max: f64, beta: f64, chunk: &[f64]) {
    let (zero, one) = (m.splat_f64s(0.0), m.splat_f64s(1.0));
    let d = exponents(m, max, beta, chunk);
    let tied = [m.equal_f64s(d[0], zero), m.equal_f64s(d[1], zero)];
    let others = [m.select_f64s(tied[0], zero, exp(m, d[0])), m.select_f64s(tied[1], zero, exp(m, d[1]))];
    sums.ties.add(m, [m.select_f64s(tied[0], one, zero), m.select_f64s(tied[1], one, zero)]);
    sums.others.add(m, others);
    sums.squares.add_product(m, others, others);
}

/// `(value - max) / beta`, of which the common `beta = 1` is free.
#[inline(always)]
fn exponents<M: Machine>(m: M, max: f64, beta: f64, chunk: &[f64]) -> [M::f64s; 2] {
    let (x, max) = (f64::load(m, chunk), m.splat_f64s(max));
    let d = [m.sub_f64s(x[0], max), m.sub_f64s(x[1], max)];
    if beta == 1.0 {
        return d;
    }
    let beta = m.splat_f64s(beta);
    [m.div_f64s(d[0], beta), m.div_f64s(d[1], beta)]
}

/// Write what is wanted of a block whose group has been summed.
struct WriteBlock<'a, 'o> {
    tilt: Tilt<'a>,
    sum: LogSum,
    log_sum: f64,
    out: Out<'o>,
}

impl Kernel for WriteBlock<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, m: M) {
        write(m, self.tilt, &self.sum, self.log_sum, self.out.what, self.out.values);
    }
}

/// As [`WriteBlock`], for some small groups.
struct WriteGroups<'a, 'o> {
    tilt: Tilt<'a>,
    groups: &'a Offsets<'a>,
    run: Range<usize>,
    sums: &'a [LogSum],
    log_sums: &'a [f64],
    out: Out<'o>,
}

impl Kernel for WriteGroups<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, m: M) {
        let mut out = self.out;
        for ((i, sum), &log_sum) in self.run.zip(self.sums).zip(self.log_sums) {
            let part = self.tilt.part(self.groups.range(i));
            let out = out.split_off(part.values.len());
            write(m, part, sum, log_sum, out.what, out.values);
        }
    }
}

#[inline(always)]
fn write<M: Machine>(m: M, tilt: Tilt<'_>, sum: &LogSum, log_sum: f64, what: What, out: &mut [f64]) {
    match what {
        What::Nothing => (),
        What::Weights if sum.ties == 0.0 => out.fill(0.0),
        What::Weights => {
            let share = 1.0 / (sum.ties + sum.others);
            write_with(
                m,
                tilt,
                sum.max,
                out,
                #[inline(always)]
                |d| m.mul_f64s(exp(m, d), m.splat_f64s(share)),
            );
        }
        What::LogWeights if sum.ties == 0.0 => out.fill(f64::NEG_INFINITY),
        What::LogWeights => write_with(m, tilt, sum.max, out, |d| m.sub_f64s(d, m.splat_f64s(log_sum))),
    }
}

#[inline(always)]
fn write_with<M: Machine>(m: M, tilt: Tilt<'_>, max: f64, out: &mut [f64], f: impl Fn(M::f64s) -> M::f64s) {
    let mut chunks = out.chunks_exact_mut(M::F32_LANES);
    for (chunk, out) in tilt.values.chunks_exact(M::F32_LANES).zip(&mut chunks) {
        let d = exponents(m, max, tilt.beta, chunk);
        out.copy_from_slice(cast_slice(&[f(d[0]), f(d[1])]));
    }
    if let Some(rest) = filled_rest::<M, f64>(tilt.values, f64::NEG_INFINITY) {
        let d = exponents(m, max, tilt.beta, &rest[..M::F32_LANES]);
        let (last, values) = (chunks.into_remainder(), [f(d[0]), f(d[1])]);
        last.copy_from_slice(&cast_slice(&values)[..last.len()]);
    }
}

/// The index of the first largest value.
pub(crate) fn argmax(values: &[f64]) -> Option<usize> {
    (0..values.len()).reduce(|best, i| if values[i] > values[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(log_ratios: &[f64], offsets: &[i64]) -> (Vec<f64>, Normaliser) {
        let mut out = vec![f64::NAN; log_ratios.len()];
        let groups = Offsets::new("groups", offsets, log_ratios.len()).unwrap();
        let got = normalise(log_ratios, &groups, &mut out).unwrap();
        (out, got)
    }

    fn of_one_group(log_ratios: &[f64]) -> (Vec<f64>, Normaliser) {
        weights(log_ratios, &[0, log_ratios.len() as i64])
    }

    #[test]
    fn equal_weights_have_full_ess() {
        simd::paths::each(|| {
            let (log_weights, got) = of_one_group(&[1000.0; 4]);
            assert_eq!(got, Normaliser { log_z: vec![1000.0], ess: vec![4.0] });
            assert!(log_weights.iter().all(|w| (w - 0.25f64.ln()).abs() < 1e-15));
        });
    }

    #[test]
    fn nothing_has_weight() {
        simd::paths::each(|| {
            for len in [0, 3, 5000] {
                let log_ratios = vec![f64::NEG_INFINITY; len];
                let (log_weights, got) = of_one_group(&log_ratios);
                assert_eq!(got, Normaliser { log_z: vec![f64::NEG_INFINITY], ess: vec![0.0] });
                assert_eq!(log_weights, log_ratios);
            }
        });
    }

    #[test]
    fn one_dominates_by_far() {
        simd::paths::each(|| {
            let (log_weights, _) = of_one_group(&[0.0, -60.0]);
            assert_eq!(log_weights, [-(-60f64).exp(), -60.0]);
        });
    }

    #[test]
    fn big_groups_are_like_small_ones() {
        simd::paths::each(|| {
            let n = 3 * BLOCK + 5;
            let rewards: Vec<f64> =
                (0..n).map(|i| ((i * 7919) % 1000) as f64 / 100.0 - if i < BLOCK { 90.0 } else { 0.0 }).collect();
            let groups = [0, n as i64];
            let groups = Offsets::new("groups", &groups, n).unwrap();
            let mut got = vec![f64::NAN; n];
            let normaliser = exponential(&rewards, 0.25, &groups, &mut got).unwrap();
            let max = rewards.iter().copied().fold(f64::MIN, f64::max);
            let expected: Vec<f64> = rewards.iter().map(|r| ((r - max) / 0.25).exp()).collect();
            let (sum, squares) = (expected.iter().sum::<f64>(), expected.iter().map(|w| w * w).sum::<f64>());
            let close = |a: f64, b: f64| assert!((a - b).abs() <= 1e-13 * b.abs(), "{a}, not {b}");
            close(normaliser.log_z[0], max / 0.25 + (sum / n as f64).ln());
            close(normaliser.ess[0], sum * sum / squares);
            got.iter().zip(&expected).for_each(|(w, e)| close(*w, e / sum));
            assert_eq!(super::normaliser(&rewards, 0.25, &groups), Ok(normaliser));
        });
    }

    #[test]
    fn groups_of_all_sizes() {
        simd::paths::each(|| {
            let sizes = [0, 1, 7, 8, 9, 0, 31, 2048, 2049, 16_000, 400, 5000, 3];
            let offsets: Vec<i64> = std::iter::once(0)
                .chain(sizes.iter().scan(0, |end, n| {
                    *end += n;
                    Some(*end)
                }))
                .collect();
            let n = *offsets.last().unwrap() as usize;
            let log_ratios: Vec<f64> = (0..n).map(|i| ((i * 31) % 101) as f64 / 10.0).collect();
            let (log_weights, got) = weights(&log_ratios, &offsets);
            for (g, pair) in offsets.windows(2).enumerate() {
                let (alone, one) = of_one_group(&log_ratios[pair[0] as usize..pair[1] as usize]);
                assert_eq!(log_weights[pair[0] as usize..pair[1] as usize], alone);
                assert_eq!((got.log_z[g], got.ess[g]), (one.log_z[0], one.ess[0]));
                assert!(alone.is_empty() || (alone.iter().map(|w| w.exp()).sum::<f64>() - 1.0).abs() < 1e-12);
            }
        });
    }

    #[test]
    fn bad_values_are_named() {
        simd::paths::each(|| {
            for len in [3usize, 5000] {
                for bad in [f64::NAN, f64::INFINITY] {
                    let mut rewards = vec![f64::NEG_INFINITY; len];
                    rewards[len - 1] = bad;
                    let offsets = [0, len as i64];
                    let groups = Offsets::new("groups", &offsets, len).unwrap();
                    let message = normaliser(&rewards, 1.0, &groups).unwrap_err().to_string();
                    assert!(message.starts_with(&format!("rewards[{}] is ", len - 1)), "{message}");
                }
            }
            let groups = Offsets::new("groups", &[0, 0], 0).unwrap();
            for beta in [0.0, -1.0, f64::NAN, f64::INFINITY] {
                assert!(normaliser(&[], beta, &groups).is_err());
            }
        });
    }

    #[test]
    fn proposals_must_be_able_to_propose() {
        let error = log_ratios(&[0.0, 0.0], &[-1.0, f64::NEG_INFINITY]).unwrap_err().to_string();
        assert!(error.starts_with("log_proposal[1] is -inf"), "{error}");
    }
}
