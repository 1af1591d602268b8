//! Importance weights by log-sum-exp, group by group.

mod big_group;
mod log_sum;
mod small_groups;
#[cfg(test)]
mod tests;
mod tilt;

use std::ops::Range;

use crate::{Error, Offsets, Result, parallel, ragged::check_length};
use log_sum::BLOCK;
use small_groups::Task;
use tilt::{Out, Tilt};

/// Slices for the results of each group.
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
    weigh("log_ratios", tilt, groups, Out::LogWeights(log_weights), normaliser)
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
    weigh("rewards", Tilt::new(rewards, beta)?, groups, Out::Weights(weights), normaliser)
}

/// As [`exponential`], without the weights themselves.
///
/// # Errors
/// As [`exponential`].
pub fn normalise_only(rewards: &[f64], beta: f64, groups: &Offsets<'_>, normaliser: Normaliser<'_>) -> Result<()> {
    weigh("rewards", Tilt::new(rewards, beta)?, groups, Out::Nothing, normaliser)
}

/// The number of values of small groups in one piece of work for a thread: they stay in the caches between the passes.
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
        if task.run.len() > 1 || values.len() <= BLOCK {
            return small_groups::weigh(tilt, groups, task);
        }
        let got = big_group::weigh(tilt.part(values), task.out);
        (task.log_z[0], task.ess[0]) = got.unwrap_or_default();
        got.is_some()
    });
    if valid.contains(&false) { check(name, tilt.values) } else { Ok(()) }
}

/// Divide the groups into tasks: a big group alone, consecutive small groups together.
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
