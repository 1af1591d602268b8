//! One big group, block by block: each block is relative to its own maximum, so that each exponential is taken once.

use super::{
    log_sum::{BLOCK, LogSum, total_and_squares},
    tilt::{Out, Tilt, scale},
};
use crate::{
    parallel,
    simd::{self, Kernel, Machine},
    sum::Sum,
    vectors::max,
};

/// Weigh the group, and return its log Z and effective sample size; `None` if a value is not legal.
pub(super) fn weigh(tilt: Tilt<'_>, mut out: Out<'_>) -> Option<(f64, f64)> {
    let len = tilt.values.len();
    let blocks = (0..len)
        .step_by(BLOCK)
        .map(|start| tilt.part(start..len.min(start + BLOCK)))
        .map(|tilt| (tilt, out.split_off(tilt.values.len())))
        .collect();
    let blocks = parallel::map_each(blocks, |(tilt, mut out)| (simd::dispatch(BlockSum(tilt, &mut out)), tilt, out));
    let sums: Vec<LogSum> = blocks.iter().map(|(of_block, ..)| *of_block).collect();
    let sum = LogSum::merge_all(&sums, tilt.beta);
    if !sum.is_valid() {
        return None;
    }
    let log_sum = sum.others.ln_1p();
    if !matches!(out, Out::Nothing) {
        parallel::map_each(blocks, |(of_block, tilt, out)| {
            simd::dispatch(WriteBlock { tilt, of_block, sum, log_sum, out });
        });
    }
    Some((sum.log_z(tilt.beta, log_sum, (len as f64).ln()), sum.ess()))
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
            // A value that is NaN is lost in the maximum.
            let nothing = tilt.values.iter().all(|&value| value == max);
            return LogSum { others: if nothing { 0.0 } else { f64::NAN }, ..LogSum::EMPTY };
        }
        let all = if let Out::Weights(out) = out {
            write_exps(m, tilt, max, out)
        } else {
            sums_below(m, tilt, max, f64::INFINITY)
        };
        LogSum::new(
            max,
            all,
            #[inline(always)]
            || sums_below(m, tilt, max, 1.0),
        )
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
        |values| tilt.exps(m, max, values),
    )
}

/// Write the exponentials relative to `max`; returns their sum and that of their squares.
#[inline(always)]
fn write_exps<M: Machine>(m: M, tilt: Tilt<'_>, max: f64, out: &mut [f64]) -> (f64, f64) {
    let (mut sum, mut squares) = (Sum::zero(m), Sum::zero(m));
    tilt.write(
        m,
        BLOCK,
        out,
        #[inline(always)]
        |values| {
            let exps = tilt.exps(m, max, values);
            sum.add(m, exps);
            squares.add_product(m, exps, exps);
            exps
        },
    );
    (sum.total(m), squares.total(m))
}

/// Write the weights or log-weights of a block from the sums of its group. Weights are scaled in place: the output
/// holds exponentials relative to the block's largest.
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
        match out {
            Out::Nothing => (),
            Out::Weights(out) if of_block.has_weight() => {
                scale(m, ((of_block.max - sum.max) / tilt.beta).exp() * sum.share(), out);
            }
            Out::Weights(out) => out.fill(0.0),
            Out::LogWeights(out) => tilt.write_log_weights(m, &sum, log_sum, out),
        }
    }
}
