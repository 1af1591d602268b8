//! Importance weights by log-sum-exp, group by group.

use std::ops::Range;

use bytemuck::cast_slice;

use crate::{
    Error, Offsets, Result, parallel,
    ragged::check_length,
    real::sealed::Load,
    simd::{self, Kernel, Machine, exp_nonpositive, ln_1p},
    sum::Sum,
};

/// Where it is written what the weights of each group say of the target.
#[derive(Debug)]
pub struct Normaliser<'a> {
    /// Log of the mean unnormalised weight, one per group: the estimate of log Z.
    pub log_z: &'a mut [f64],
    /// Effective sample size `(sum w)^2 / sum w^2`, one per group.
    pub ess: &'a mut [f64],
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
pub fn normalise(
    log_ratios: &[f64],
    groups: &Offsets<'_>,
    log_weights: &mut [f64],
    normaliser: Normaliser<'_>,
) -> Result<()> {
    check_length("log_weights", log_weights.len(), "log_ratios", log_ratios.len())?;
    let tilt = Tilt { values: log_ratios, beta: 1.0 };
    weigh("log_ratios", tilt, groups, Out { what: What::LogWeights, values: log_weights }, normaliser)
}

/// Write the self-normalised weights `exp(r / beta)` of samples of the prior, which sum to 1 in every group.
///
/// A group in which nothing has weight gets `log_z = -inf` and `ess = 0`, and its weights are 0.
///
/// # Errors
/// If a reward is NaN or `+inf`, `beta` is not positive and finite, or the lengths differ.
pub fn exponential(
    rewards: &[f64],
    beta: f64,
    groups: &Offsets<'_>,
    weights: &mut [f64],
    normaliser: Normaliser<'_>,
) -> Result<()> {
    check_length("weights", weights.len(), "rewards", rewards.len())?;
    weigh("rewards", Tilt::new(rewards, beta)?, groups, Out { what: What::Weights, values: weights }, normaliser)
}

/// As [`exponential`], without the weights themselves.
///
/// # Errors
/// As [`exponential`].
pub fn normalise_only(rewards: &[f64], beta: f64, groups: &Offsets<'_>, normaliser: Normaliser<'_>) -> Result<()> {
    weigh("rewards", Tilt::new(rewards, beta)?, groups, Out { what: What::Nothing, values: &mut [] }, normaliser)
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
        Out { what: self.what, values: self.values.split_off_mut(..len).unwrap_or_default() }
    }
}

/// Values of one group that are summed at once: what the first-level cache holds, as they are read twice.
const BLOCK: usize = 2048;
/// Values of small groups that are one piece of work for a thread, and stay in the caches while it lasts.
const RUN: usize = 4096;

fn weigh(
    name: &'static str,
    tilt: Tilt<'_>,
    groups: &Offsets<'_>,
    mut out: Out<'_>,
    normaliser: Normaliser<'_>,
) -> Result<()> {
    let Normaliser { mut log_z, mut ess } = normaliser;
    groups.check_items("groups", tilt.values.len())?;
    check_length("log_z", log_z.len(), "groups", groups.len())?;
    check_length("ess", ess.len(), "groups", groups.len())?;
    let mut tasks = Vec::new();
    for run in runs(groups) {
        let (out, of_run) = (out.split_off(groups.span(&run).len()), run.len());
        tasks.push(Task {
            run,
            out,
            log_z: log_z.split_off_mut(..of_run).unwrap_or_default(),
            ess: ess.split_off_mut(..of_run).unwrap_or_default(),
        });
    }
    let valid = parallel::map_each(tasks, |task| {
        let values = groups.span(&task.run);
        if task.run.len() == 1 && values.len() > BLOCK {
            big_group(tilt.part(values), task)
        } else {
            small_groups(tilt, groups, task)
        }
    });
    if valid.contains(&false) { check(name, tilt.values) } else { Ok(()) }
}

/// Some consecutive groups, and where their results go.
struct Task<'o> {
    run: Range<usize>,
    out: Out<'o>,
    log_z: &'o mut [f64],
    ess: &'o mut [f64],
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

/// Sums over a part of a group of `exp((value - max) / beta)`, but for the first that equals the maximum.
///
/// That one is 1: left out, it does not cost the digits of the rest, of a group that one value dominates.
#[derive(Debug, Clone, Copy)]
struct LogSum {
    max: f64,
    others: f64,
    squares: f64,
}

impl LogSum {
    const EMPTY: Self = Self { max: f64::NEG_INFINITY, others: 0.0, squares: 0.0 };

    /// NaN in the values makes the sums NaN.
    fn is_valid(&self) -> bool {
        self.max < f64::INFINITY && !self.others.is_nan()
    }

    fn has_weight(&self) -> bool {
        self.max > f64::NEG_INFINITY
    }

    fn merge(self, other: Self, beta: f64) -> Self {
        if self.max < other.max {
            return other.merge(self, beta);
        }
        let scale = if self.max == other.max { 1.0 } else { ((other.max - self.max) / beta).exp() };
        let first = if other.has_weight() { 1.0 } else { 0.0 };
        Self {
            max: self.max,
            others: self.others + scale * (first + other.others),
            squares: self.squares + scale * scale * (first + other.squares),
        }
    }

    /// By halves: the error of a sum of many equal terms grows with the depth only.
    fn merge_all(sums: &[Self], beta: f64) -> Self {
        match sums {
            [] => Self::EMPTY,
            [one] => *one,
            many => {
                let (left, right) = many.split_at(many.len() / 2);
                Self::merge_all(left, beta).merge(Self::merge_all(right, beta), beta)
            }
        }
    }

    fn share(&self) -> f64 {
        if self.has_weight() { 1.0 / (1.0 + self.others) } else { 0.0 }
    }

    fn ess(&self) -> f64 {
        let sum = 1.0 + self.others;
        if self.has_weight() { sum * sum / (1.0 + self.squares) } else { 0.0 }
    }

    fn log_z(&self, beta: f64, log_sum: f64, log_n: f64) -> f64 {
        if self.has_weight() { self.max / beta + (log_sum - log_n) } else { f64::NEG_INFINITY }
    }
}

/// Whether all values were legal.
///
/// The weights of a block are first relative to its own maximum, so that each exponential is taken once.
fn big_group(tilt: Tilt<'_>, task: Task<'_>) -> bool {
    let (len, what, mut out) = (tilt.values.len(), task.out.what, task.out);
    let blocks = (0..len)
        .step_by(BLOCK)
        .map(|start| tilt.part(start..len.min(start + BLOCK)))
        .map(|tilt| (tilt, out.split_off(tilt.values.len())))
        .collect();
    let blocks = parallel::map_each(blocks, |(tilt, mut out)| (simd::dispatch(BlockSum(tilt, &mut out)), tilt, out));
    let sums: Vec<LogSum> = blocks.iter().map(|(of_block, ..)| *of_block).collect();
    let sum = LogSum::merge_all(&sums, tilt.beta);
    let log_sum = sum.others.ln_1p();
    if sum.is_valid() && what != What::Nothing {
        parallel::map_each(blocks, |(of_block, tilt, out)| {
            simd::dispatch(WriteBlock { tilt, of_block, sum, log_sum, out });
        });
    }
    task.log_z[0] = sum.log_z(tilt.beta, log_sum, (len as f64).ln());
    task.ess[0] = sum.ess();
    sum.is_valid()
}

/// Whether all values were legal.
///
/// Small groups are summed in flat passes over all of them: within one, each step would wait for the last.
fn small_groups(tilt: Tilt<'_>, groups: &Offsets<'_>, task: Task<'_>) -> bool {
    let Task { run, out, log_z, ess } = task;
    let first = groups.range(run.start).start;
    let parts = || run.clone().map(|i| groups.range(i));
    let mut scratch = Vec::new();
    let exps = if out.what == What::Weights {
        &mut *out.values
    } else {
        scratch.resize(groups.span(&run).len(), 0.0);
        &mut scratch[..]
    };
    let mut sums = vec![LogSum::EMPTY; run.len()];
    simd::dispatch(Exponents { tilt, parts: parts(), first, sums: &mut sums, out: exps });
    simd::dispatch(ExpInPlace(exps));
    simd::dispatch(GroupSums { parts: parts(), first, exps, sums: &mut sums });
    if !sums.iter().all(LogSum::is_valid) {
        return false;
    }
    // Until the logarithm of the length is taken off, the place of log Z holds that of the sum.
    log_z.iter_mut().zip(&sums).for_each(|(log_sum, sum)| *log_sum = sum.others);
    simd::dispatch(Ln1pInPlace(log_z));
    simd::dispatch(WriteGroups { tilt, parts: parts(), sums: &sums, log_sums: log_z, out });
    let mut log_len = LogLen::default();
    for (((log_z, ess), sum), part) in log_z.iter_mut().zip(ess).zip(&sums).zip(parts()) {
        *log_z = sum.log_z(tilt.beta, *log_z, log_len.of(part.len()));
        *ess = sum.ess();
    }
    true
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

/// [`LogSum`] of one block, and where weights are wanted its exponentials.
struct BlockSum<'a, 'o, 'w>(Tilt<'a>, &'w mut Out<'o>);

impl Kernel for BlockSum<'_, '_, '_> {
    type Output = LogSum;

    #[inline(always)]
    fn run<M: Machine>(self, m: M) -> LogSum {
        let Self(tilt, out) = self;
        let max = max(m, tilt.values);
        if max == f64::NEG_INFINITY {
            // As in `Exponents`.
            let nothing = tilt.values.iter().all(|&value| value == max);
            return LogSum { others: if nothing { 0.0 } else { f64::NAN }, ..LogSum::EMPTY };
        }
        let (sum, squares) = if out.what == What::Weights {
            write_exps(m, tilt, max, out.values)
        } else {
            sums_below(m, tilt, max, f64::INFINITY)
        };
        if sum < 1.0 + DOMINATED {
            let (others, squares) = sums_below(m, tilt, max, 1.0);
            return LogSum { max, others, squares };
        }
        LogSum { max, others: sum - 1.0, squares: squares - 1.0 }
    }
}

/// The exponents of small groups, and of each the maximum that they are relative to.
struct Exponents<'a, P> {
    tilt: Tilt<'a>,
    parts: P,
    /// Where the first of the groups starts.
    first: usize,
    sums: &'a mut [LogSum],
    out: &'a mut [f64],
}

impl<P: Iterator<Item = Range<usize>>> Kernel for Exponents<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, m: M) {
        for (sum, part) in self.sums.iter_mut().zip(self.parts) {
            let out = &mut self.out[part.start - self.first..part.end - self.first];
            let tilt = self.tilt.part(part);
            sum.max = max(m, tilt.values);
            if sum.has_weight() {
                write_exponents(m, tilt, sum.max, 0.0, out);
            } else {
                // Differences from the maximum would be NaN, and a value that is NaN is lost in it.
                out.copy_from_slice(tilt.values);
            }
        }
    }
}

/// Replace each value, of at most 0, by its exponential.
struct ExpInPlace<'a>(&'a mut [f64]);

impl Kernel for ExpInPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, m: M) {
        let (head, tail) = M::as_mut_simd_f64s(self.0);
        for x in head {
            *x = exp_nonpositive(m, *x);
        }
        let rest = exp_nonpositive(m, m.partial_load_f64s(tail));
        m.partial_store_f64s(tail, rest);
    }
}

/// The sums of small groups whose exponentials are there.
struct GroupSums<'a, P> {
    parts: P,
    first: usize,
    exps: &'a [f64],
    sums: &'a mut [LogSum],
}

impl<P: Iterator<Item = Range<usize>>> Kernel for GroupSums<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, m: M) {
        for (sum, part) in self.sums.iter_mut().zip(self.parts) {
            let exps = &self.exps[part.start - self.first..part.end - self.first];
            let (total, squares) = total_and_squares(
                m,
                exps,
                0.0,
                f64::INFINITY,
                #[inline(always)]
                |exps| exps,
            );
            let (others, squares) = if !sum.has_weight() {
                (total, squares)
            } else if total < 1.0 + DOMINATED {
                total_and_squares(
                    m,
                    exps,
                    0.0,
                    1.0,
                    #[inline(always)]
                    |exps| exps,
                )
            } else {
                (total - 1.0, squares - 1.0)
            };
            *sum = LogSum { others, squares, ..*sum };
        }
    }
}

/// What is left of `values` after whole vectors of f32 lanes, filled up; `None` if nothing is.
#[inline(always)]
fn filled_rest<M: Machine>(m: M, values: &[f64], fill: f64) -> Option<[M::f64s; 2]> {
    let rest = values.chunks_exact(M::F32_LANES).remainder();
    if rest.is_empty() {
        return None;
    }
    let [low, high] = f64::load_part(m, rest);
    let len = rest.len() as u64;
    let there = |from: u64| m.mask_between_m64s(0, len.saturating_sub(from)).mask();
    let fill = m.splat_f64s(fill);
    Some([m.select_f64s(there(0), low, fill), m.select_f64s(there(M::F64_LANES as u64), high, fill)])
}

/// Store as many of the values as there is room for.
#[inline(always)]
fn store_part<M: Machine>(m: M, out: &mut [f64], values: [M::f64s; 2]) {
    let (low, high) = out.split_at_mut(out.len().min(M::F64_LANES));
    m.partial_store_f64s(low, values[0]);
    m.partial_store_f64s(high, values[1]);
}

/// The sum of `exp` of all values, and of its squares, what reaches `limit` left out; NaN counts. `exp(fill)` is 0.
#[inline(always)]
fn total_and_squares<M: Machine>(
    m: M,
    values: &[f64],
    fill: f64,
    limit: f64,
    exp: impl Fn([M::f64s; 2]) -> [M::f64s; 2],
) -> (f64, f64) {
    let (mut sum, mut squares) = (Sum::zero(m), Sum::zero(m));
    for chunk in values.chunks_exact(M::F32_LANES) {
        simd::prefetch(chunk, BLOCK);
        let exps = exp(f64::load(m, chunk)).map(
            #[inline(always)]
            |exp| below(m, exp, limit),
        );
        sum.add(m, exps);
        squares.add_product(m, exps, exps);
    }
    if let Some(rest) = filled_rest(m, values, fill) {
        let exps = exp(rest).map(
            #[inline(always)]
            |exp| below(m, exp, limit),
        );
        sum.add(m, exps);
        squares.add_product(m, exps, exps);
    }
    (sum.total(m), squares.total(m))
}

#[inline(always)]
fn below<M: Machine>(m: M, exp: M::f64s, limit: f64) -> M::f64s {
    m.select_f64s(m.less_than_or_equal_f64s(m.splat_f64s(limit), exp), m.splat_f64s(0.0), exp)
}

/// Replace each value by the logarithm of 1 more.
struct Ln1pInPlace<'a>(&'a mut [f64]);

impl Kernel for Ln1pInPlace<'_> {
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

#[inline(always)]
fn sums_below<M: Machine>(m: M, tilt: Tilt<'_>, max: f64, limit: f64) -> (f64, f64) {
    total_and_squares(
        m,
        tilt.values,
        f64::NEG_INFINITY,
        limit,
        #[inline(always)]
        |values| exps(m, max, tilt.beta, values),
    )
}

/// Less than that beside the largest value loses digits if they are summed together.
const DOMINATED: f64 = 1e-2;

#[inline(always)]
fn max<M: Machine>(m: M, values: &[f64]) -> f64 {
    let mut max = [m.splat_f64s(f64::NEG_INFINITY); 2];
    for chunk in values.chunks_exact(M::F32_LANES) {
        let x = f64::load(m, chunk);
        max = [m.max_f64s(x[0], max[0]), m.max_f64s(x[1], max[1])];
    }
    if let Some(x) = filled_rest(m, values, f64::NEG_INFINITY) {
        max = [m.max_f64s(x[0], max[0]), m.max_f64s(x[1], max[1])];
    }
    m.reduce_max_f64s(m.max_f64s(max[0], max[1]))
}

#[inline(always)]
fn exps<M: Machine>(m: M, max: f64, beta: f64, x: [M::f64s; 2]) -> [M::f64s; 2] {
    let d = exponents(m, max, beta, x);
    [exp_nonpositive(m, d[0]), exp_nonpositive(m, d[1])]
}

/// `(value - max) / beta`, of which the common `beta = 1` is free.
#[inline(always)]
fn exponents<M: Machine>(m: M, max: f64, beta: f64, x: [M::f64s; 2]) -> [M::f64s; 2] {
    let max = m.splat_f64s(max);
    let d = [m.sub_f64s(x[0], max), m.sub_f64s(x[1], max)];
    if beta == 1.0 {
        return d;
    }
    let beta = m.splat_f64s(beta);
    [m.div_f64s(d[0], beta), m.div_f64s(d[1], beta)]
}

/// Write what is wanted of a block whose group has been summed; of weights, all but the factor is there.
struct WriteBlock<'a, 'o> {
    tilt: Tilt<'a>,
    of_block: LogSum,
    sum: LogSum,
    log_sum: f64,
    out: Out<'o>,
}

impl Kernel for WriteBlock<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, m: M) {
        let Self { tilt, of_block, sum, log_sum, out } = self;
        match out.what {
            What::Nothing => (),
            What::Weights if of_block.has_weight() => {
                scale(m, ((of_block.max - sum.max) / tilt.beta).exp() * sum.share(), out.values);
            }
            What::Weights => out.values.fill(0.0),
            What::LogWeights => write_log_weights(m, tilt, &sum, log_sum, out.values),
        }
    }
}

/// Write what is wanted of some small groups that have been summed; of weights, all but the factor is there.
struct WriteGroups<'a, 'o, P> {
    tilt: Tilt<'a>,
    parts: P,
    sums: &'a [LogSum],
    log_sums: &'a [f64],
    out: Out<'o>,
}

impl<P: Iterator<Item = Range<usize>>> Kernel for WriteGroups<'_, '_, P> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, m: M) {
        let mut out = self.out;
        for ((part, sum), &log_sum) in self.parts.zip(self.sums).zip(self.log_sums) {
            let Out { what, values } = out.split_off(part.len());
            match what {
                What::Nothing => return,
                What::Weights => scale(m, sum.share(), values),
                What::LogWeights => write_log_weights(m, self.tilt.part(part), sum, log_sum, values),
            }
        }
    }
}

#[inline(always)]
fn scale<M: Machine>(m: M, share: f64, values: &mut [f64]) {
    let shares = m.splat_f64s(share);
    let mut chunks = values.chunks_exact_mut(M::F32_LANES);
    for chunk in &mut chunks {
        let x = f64::load(m, chunk);
        chunk.copy_from_slice(cast_slice(&[m.mul_f64s(shares, x[0]), m.mul_f64s(shares, x[1])]));
    }
    let rest = chunks.into_remainder();
    let x = f64::load_part(m, rest);
    store_part(m, rest, [m.mul_f64s(shares, x[0]), m.mul_f64s(shares, x[1])]);
}

/// Write the exponentials relative to `max`; returns their sum and that of their squares.
#[inline(always)]
fn write_exps<M: Machine>(m: M, tilt: Tilt<'_>, max: f64, out: &mut [f64]) -> (f64, f64) {
    let (mut sum, mut squares) = (Sum::zero(m), Sum::zero(m));
    let mut chunks = out.chunks_exact_mut(M::F32_LANES);
    for (chunk, out) in tilt.values.chunks_exact(M::F32_LANES).zip(&mut chunks) {
        simd::prefetch(chunk, BLOCK);
        simd::prefetch(out, BLOCK);
        let exps = exps(m, max, tilt.beta, f64::load(m, chunk));
        sum.add(m, exps);
        squares.add_product(m, exps, exps);
        out.copy_from_slice(cast_slice(&exps));
    }
    if let Some(rest) = filled_rest(m, tilt.values, f64::NEG_INFINITY) {
        let exps = exps(m, max, tilt.beta, rest);
        sum.add(m, exps);
        squares.add_product(m, exps, exps);
        store_part(m, chunks.into_remainder(), exps);
    }
    (sum.total(m), squares.total(m))
}

#[inline(always)]
fn write_log_weights<M: Machine>(m: M, tilt: Tilt<'_>, sum: &LogSum, log_sum: f64, out: &mut [f64]) {
    if sum.has_weight() {
        write_exponents(m, tilt, sum.max, log_sum, out);
    } else {
        out.fill(f64::NEG_INFINITY);
    }
}

/// Write `(value - max) / beta - less`.
#[inline(always)]
fn write_exponents<M: Machine>(m: M, tilt: Tilt<'_>, max: f64, less: f64, out: &mut [f64]) {
    let less = m.splat_f64s(less);
    let mut chunks = out.chunks_exact_mut(M::F32_LANES);
    for (chunk, out) in tilt.values.chunks_exact(M::F32_LANES).zip(&mut chunks) {
        let d = exponents(m, max, tilt.beta, f64::load(m, chunk));
        out.copy_from_slice(cast_slice(&[m.sub_f64s(d[0], less), m.sub_f64s(d[1], less)]));
    }
    let rest = chunks.into_remainder();
    let d = exponents(m, max, tilt.beta, f64::load_part(m, &tilt.values[tilt.values.len() - rest.len()..]));
    store_part(m, rest, [m.sub_f64s(d[0], less), m.sub_f64s(d[1], less)]);
}

/// The index of the first largest value.
pub(crate) fn argmax(values: &[f64]) -> Option<usize> {
    (0..values.len()).reduce(|best, i| if values[i] > values[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// log Z and ESS of each group.
    type Got = (Vec<f64>, Vec<f64>);

    fn got<T>(groups: &Offsets<'_>, work: impl FnOnce(Normaliser<'_>) -> Result<T>) -> Result<Got> {
        let (mut log_z, mut ess) = (vec![f64::NAN; groups.len()], vec![f64::NAN; groups.len()]);
        work(Normaliser { log_z: &mut log_z, ess: &mut ess }).map(|_| (log_z, ess))
    }

    fn weights(log_ratios: &[f64], offsets: &[i64]) -> (Vec<f64>, Got) {
        let mut out = vec![f64::NAN; log_ratios.len()];
        let groups = Offsets::new("groups", offsets, log_ratios.len()).unwrap();
        let got = got(&groups, |normaliser| normalise(log_ratios, &groups, &mut out, normaliser)).unwrap();
        (out, got)
    }

    fn of_one_group(log_ratios: &[f64]) -> (Vec<f64>, Got) {
        weights(log_ratios, &[0, log_ratios.len() as i64])
    }

    #[test]
    fn many_equal_weights_keep_their_digits() {
        simd::paths::each(|| {
            let n = 1_000_003;
            let mut rewards = vec![-1.7; n];
            rewards[n / 3] = 0.0;
            let (mut weights, mut log_z, mut ess) = (vec![0.0; n], [0.0], [0.0]);
            let groups = [0, n as i64];
            let groups = Offsets::new("groups", &groups, n).unwrap();
            exponential(&rewards, 1.0, &groups, &mut weights, Normaliser { log_z: &mut log_z, ess: &mut ess }).unwrap();
            let (others, e) = ((n - 1) as f64, (-1.7f64).exp());
            let (sum, squares) = (1.0 + others * e, 1.0 + others * e * e);
            assert!((weights[n / 3] * sum - 1.0).abs() < 2e-15);
            assert!((ess[0] * squares / (sum * sum) - 1.0).abs() < 2e-15);
        });
    }

    #[test]
    fn equal_weights_have_full_ess() {
        simd::paths::each(|| {
            let (log_weights, got) = of_one_group(&[1000.0; 4]);
            assert_eq!(got, (vec![1000.0], vec![4.0]));
            assert!(log_weights.iter().all(|w| (w - 0.25f64.ln()).abs() < 1e-15));
        });
    }

    #[test]
    fn nothing_has_weight() {
        simd::paths::each(|| {
            for len in [0, 3, 5000] {
                let log_ratios = vec![f64::NEG_INFINITY; len];
                let (log_weights, got) = of_one_group(&log_ratios);
                assert_eq!(got, (vec![f64::NEG_INFINITY], vec![0.0]));
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
            let (log_z, ess) =
                super::tests::got(&groups, |normaliser| exponential(&rewards, 0.25, &groups, &mut got, normaliser))
                    .unwrap();
            let max = rewards.iter().copied().fold(f64::MIN, f64::max);
            let expected: Vec<f64> = rewards.iter().map(|r| ((r - max) / 0.25).exp()).collect();
            let (sum, squares) = (expected.iter().sum::<f64>(), expected.iter().map(|w| w * w).sum::<f64>());
            let close = |a: f64, b: f64| assert!((a - b).abs() <= 1e-13 * b.abs(), "{a}, not {b}");
            close(log_z[0], max / 0.25 + (sum / n as f64).ln());
            close(ess[0], sum * sum / squares);
            got.iter().zip(&expected).for_each(|(w, e)| close(*w, e / sum));
            let alone = super::tests::got(&groups, |normaliser| normalise_only(&rewards, 0.25, &groups, normaliser));
            assert_eq!(alone, Ok((log_z, ess)));
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
                assert_eq!((got.0[g], got.1[g]), (one.0[0], one.1[0]));
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
                    let message = got(&groups, |normaliser| normalise_only(&rewards, 1.0, &groups, normaliser))
                        .unwrap_err()
                        .to_string();
                    assert!(message.starts_with(&format!("rewards[{}] is ", len - 1)), "{message}");
                }
            }
            let groups = Offsets::new("groups", &[0, 0], 0).unwrap();
            for beta in [0.0, -1.0, f64::NAN, f64::INFINITY] {
                assert!(got(&groups, |normaliser| normalise_only(&[], beta, &groups, normaliser)).is_err());
            }
        });
    }

    #[test]
    fn proposals_must_be_able_to_propose() {
        let error = log_ratios(&[0.0, 0.0], &[-1.0, f64::NEG_INFINITY]).unwrap_err().to_string();
        assert!(error.starts_with("log_proposal[1] is -inf"), "{error}");
    }
}
