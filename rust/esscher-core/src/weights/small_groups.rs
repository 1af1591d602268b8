//! Small groups, in flat passes over all of them: within one group alone, each step would wait for the last.

use std::ops::Range;

use super::{
    log_sum::{LogSum, total_and_squares},
    tilt::{Out, Tilt, scale},
};
use crate::{
    Offsets,
    simd::{self, Kernel, Machine, exp_nonpositive, ln_1p},
    vectors::{map, max},
};

/// Consecutive groups and the slices for their results.
pub(super) struct Task<'o> {
    pub(super) run: Range<usize>,
    pub(super) out: Out<'o>,
    pub(super) log_z: &'o mut [f64],
    pub(super) ess: &'o mut [f64],
}

/// Weigh the groups of a task; `false` if a value is not legal.
pub(super) fn weigh(tilt: Tilt<'_>, groups: &Offsets<'_>, task: Task<'_>) -> bool {
    let Task { run, mut out, log_z, ess } = task;
    let first = groups.range(run.start).start;
    let parts = || run.clone().map(|i| groups.range(i));
    let mut scratch = Vec::new();
    let exps = if let Out::Weights(values) = &mut out {
        &mut **values
    } else {
        scratch.resize(groups.span(&run).len(), 0.0);
        &mut scratch[..]
    };
    let mut sums = vec![LogSum::EMPTY; run.len()];
    simd::dispatch(SumGroups { tilt, parts: parts(), first, exps, sums: &mut sums });
    if !sums.iter().all(LogSum::is_valid) {
        return false;
    }
    // Until the logarithm of the length is taken off, the place of log Z holds that of the sum.
    log_z.iter_mut().zip(&sums).for_each(|(log_sum, sum)| *log_sum = sum.others);
    simd::dispatch(WriteGroups { tilt, parts: parts(), sums: &sums, log_sums: log_z, out });
    let mut log_len = LogLen::default();
    for (((log_z, ess), sum), part) in log_z.iter_mut().zip(ess).zip(&sums).zip(parts()) {
        *log_z = sum.log_z(tilt.beta, *log_z, log_len.of(part.len()));
        *ess = sum.ess();
    }
    true
}

/// A cache for the logarithm of a group's length: most groups are as long as the one before.
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

/// The sums of small groups, and the exponentials that they are of.
struct SumGroups<'a, P> {
    tilt: Tilt<'a>,
    parts: P,
    /// Where the first of the groups starts.
    first: usize,
    exps: &'a mut [f64],
    sums: &'a mut [LogSum],
}

impl<P: Iterator<Item = Range<usize>> + Clone> Kernel for SumGroups<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, m: M) {
        let Self { tilt, parts, first, exps, sums } = self;
        for (sum, part) in sums.iter_mut().zip(parts.clone()) {
            let out = &mut exps[part.start - first..part.end - first];
            let tilt = tilt.part(part);
            sum.max = max(m, tilt.values);
            if sum.has_weight() {
                tilt.write_exponents(m, sum.max, 0.0, out);
            } else {
                // Differences from the maximum would be NaN, and a value that is NaN is lost in it.
                out.copy_from_slice(tilt.values);
            }
        }
        map!(m, exps, |x| exp_nonpositive(m, x));
        for (sum, part) in sums.iter_mut().zip(parts) {
            let exps = &exps[part.start - first..part.end - first];
            let all = sums_below(m, exps, f64::INFINITY);
            *sum = if sum.has_weight() {
                LogSum::new(
                    sum.max,
                    all,
                    #[inline(always)]
                    || sums_below(m, exps, 1.0),
                )
            } else {
                LogSum { others: all.0, squares: all.1, ..*sum }
            };
        }
    }
}

#[inline(always)]
fn sums_below<M: Machine>(m: M, exps: &[f64], limit: f64) -> (f64, f64) {
    total_and_squares(
        m,
        exps,
        0.0,
        limit,
        #[inline(always)]
        |exps| exps,
    )
}

/// Write the weights or log-weights of small groups from their sums. Weights are scaled in place: the output holds
/// exponentials relative to the largest.
struct WriteGroups<'a, 'o, P> {
    tilt: Tilt<'a>,
    parts: P,
    sums: &'a [LogSum],
    /// `others` of each group; replaced by `ln(1 + others)`.
    log_sums: &'a mut [f64],
    out: Out<'o>,
}

impl<P: Iterator<Item = Range<usize>>> Kernel for WriteGroups<'_, '_, P> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, m: M) {
        map!(m, self.log_sums, |x| ln_1p(m, x));
        let mut out = self.out;
        for ((part, sum), &mut log_sum) in self.parts.zip(self.sums).zip(self.log_sums) {
            match out.split_off(part.len()) {
                Out::Nothing => return,
                Out::Weights(out) => scale(m, sum.share(), out),
                Out::LogWeights(out) => self.tilt.part(part).write_log_weights(m, sum, log_sum, out),
            }
        }
    }
}
