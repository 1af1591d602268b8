//! What samples of the prior say of its tilts `prior exp(r / beta) / Z`, for many beta at once.

mod block;

use std::ops::Range;

pub use block::{EXCESS, SUMS};

use crate::{Error, Offsets, Result, parallel, ragged::check_length, simd, vectors::largest, weights};
use block::{LOWEST, TiltExcess, TiltSums};

/// The number of values summed for every beta before the next block is read: a block fits in the first-level cache.
const BLOCK: usize = 2048;
/// The number of values in one piece of work for a thread: a part of a big group, or several small groups.
const PIECE: usize = 1 << 15;
/// Write the largest value of each group, `-inf` of an empty one.
///
/// # Errors
/// If a reward is NaN or `+inf`, or the lengths differ.
pub fn maxima(rewards: &[f64], groups: &Offsets<'_>) -> Result<Vec<f64>> {
    groups.check_items("groups", rewards.len())?;
    weights::check("rewards", rewards)?;
    Ok(parallel::map(groups.len(), |i| largest(&rewards[groups.range(i)])))
}

/// For each group and beta, with `d = r - max` and `e = exp(d / beta)`: the sums of `e`, `e d`, `e^2`, `e^2 d` and
/// `(e d)^2` over the group, as `[group][beta][5]`. They give log Z, the tilt's reward, its KL, its effective sample
/// size, and the variances of them all.
///
/// A group without a finite reward gives 0.
///
/// # Errors
/// If a beta is not positive and finite, or the lengths differ. The rewards are those that [`maxima`] has checked.
pub fn sums(rewards: &[f64], betas: &[f64], groups: &Offsets<'_>, maxima: &[f64]) -> Result<Vec<f64>> {
    over_groups(rewards, betas, groups, maxima, SUMS, |d, _, out| {
        simd::dispatch(TiltSums { d, betas, out });
    })
}

/// For each group and beta, with `e` as in [`sums`] and `m` its mean over the group: the sums of `max(e - m, 0)`, its
/// square, and of `e` where it exceeds `m`, as `[group][beta][3]`. They give the total variation between tilt and
/// prior, and its variance.
///
/// # Errors
/// As [`sums`], whose sums `of_tilts` holds.
pub fn excess(
    rewards: &[f64],
    betas: &[f64],
    groups: &Offsets<'_>,
    maxima: &[f64],
    of_tilts: &[f64],
) -> Result<Vec<f64>> {
    check_length("of_tilts", of_tilts.len(), "groups and betas", groups.len() * betas.len() * SUMS)?;
    let means = |group: usize| {
        let of_group = &of_tilts[group * betas.len() * SUMS..];
        let n = groups.range(group).len() as f64;
        of_group.iter().step_by(SUMS).take(betas.len()).map(move |sum| sum / n).collect::<Vec<f64>>()
    };
    over_groups(rewards, betas, groups, maxima, EXCESS, |d, group, out| {
        simd::dispatch(TiltExcess { d, betas, means: &means(group), out });
    })
}

/// Call `add` with each block of differences `r - max`, its group and the sums to add to; the blocks of a piece come in
/// order.
fn over_groups(
    rewards: &[f64],
    betas: &[f64],
    groups: &Offsets<'_>,
    maxima: &[f64],
    sums: usize,
    add: impl Fn(&[f64], usize, &mut [f64]) + Sync + Send,
) -> Result<Vec<f64>> {
    groups.check_items("groups", rewards.len())?;
    check_length("maxima", maxima.len(), "groups", groups.len())?;
    if let Some(&value) = betas.iter().find(|beta| !(**beta > 0.0 && beta.is_finite())) {
        return Err(Error::Range { name: "betas", value, rule: "positive and finite" });
    }
    let width = betas.len() * sums;
    let parts = parallel::map_each(pieces(groups), |piece| {
        let mut out = vec![0.0; width * piece.groups.len()];
        for group in piece.groups.clone() {
            let out = &mut out[(group - piece.groups.start) * width..][..width];
            let of_piece = piece.within(groups.range(group));
            of_group(&rewards[of_piece], maxima[group], |d| add(d, group, out));
        }
        (piece.groups.start, out)
    });
    let mut total = vec![0.0; width * groups.len()];
    for (start, part) in parts {
        total[start * width..].iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    Ok(total)
}

fn of_group(rewards: &[f64], max: f64, mut add: impl FnMut(&[f64])) {
    if max == f64::NEG_INFINITY {
        return;
    }
    let mut buffer = [0.0; BLOCK];
    for block in rewards.chunks(BLOCK) {
        let d = &mut buffer[..block.len()];
        d.iter_mut().zip(block).for_each(|(d, reward)| *d = (reward - max).max(LOWEST));
        add(d);
    }
}

/// A part of one group, or some consecutive groups.
struct Piece {
    groups: Range<usize>,
    values: Range<usize>,
}

impl Piece {
    fn within(&self, group: Range<usize>) -> Range<usize> {
        group.start.max(self.values.start)..group.end.min(self.values.end)
    }
}

fn pieces(groups: &Offsets<'_>) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for i in 0..groups.len() {
        let range = groups.range(i);
        match pieces.last_mut() {
            Some(last) if range.end - last.values.start <= PIECE => {
                last.groups.end = i + 1;
                last.values.end = range.end;
            }
            _ => pieces.extend(
                range
                    .clone()
                    .step_by(PIECE)
                    .map(|start| Piece { groups: i..i + 1, values: start..range.end.min(start + PIECE) }),
            ),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::paths;

    fn rewards(n: usize) -> Vec<f64> {
        let share = |i: usize| f64::from((i as u32).wrapping_mul(2_654_435_769)) / f64::from(u32::MAX);
        (0..n).map(|i| if i % 97 == 5 { f64::NEG_INFINITY } else { 3.0 * share(i) - 1.0 }).collect()
    }

    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() <= 1e-12 * expected.abs().max(1e-3), "{got}, not {expected}");
    }

    #[test]
    fn sums_are_those_of_the_formulas() {
        let borders = [0, 3, 3, 11, 40, 200, 70_000];
        let (r, groups) = (rewards(70_000), Offsets::new("groups", &borders, 70_000).unwrap());
        // Few betas, as many as lanes, and more.
        let betas = [0.05, 0.7, 30.0].map(|beta| (1..8).map(|i| beta * f64::from(i)).collect::<Vec<_>>()).concat();
        let check = |betas: &[f64]| {
            let max = maxima(&r, &groups).unwrap();
            let got = sums(&r, betas, &groups, &max).unwrap();
            let above = excess(&r, betas, &groups, &max, &got).unwrap();
            for (g, &max) in max.iter().enumerate() {
                let r = &r[groups.range(g)];
                for (b, beta) in betas.iter().enumerate() {
                    let pairs = || {
                        let finite = r.iter().filter(|r| r.is_finite());
                        finite.map(|r| (((r - max) / beta).exp(), r - max))
                    };
                    let sum = |f: fn(f64, f64) -> f64| pairs().map(|(e, d)| f(e, d)).sum::<f64>();
                    let got = &got[(g * betas.len() + b) * SUMS..][..SUMS];
                    close(got[0], sum(|e, _| e));
                    close(got[1], sum(|e, d| e * d));
                    close(got[2], sum(|e, _| e * e));
                    close(got[3], sum(|e, d| e * e * d));
                    close(got[4], sum(|e, d| e * e * d * d));
                    let mean = got[0] / r.len() as f64;
                    let above = &above[(g * betas.len() + b) * EXCESS..][..EXCESS];
                    close(above[0], pairs().map(|(e, _)| (e - mean).max(0.0)).sum());
                    close(above[1], pairs().map(|(e, _)| (e - mean).max(0.0).powi(2)).sum());
                    close(above[2], pairs().map(|(e, _)| if e > mean { e } else { 0.0 }).sum());
                }
            }
        };
        paths::each(|| [&betas[..2], &betas[..16], &betas].into_iter().for_each(check));
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let (borders, betas) = ([0, 90_000, 90_500, 200_000], [0.1, 2.0]);
        let (r, groups) = (rewards(200_000), Offsets::new("groups", &borders, 200_000).unwrap());
        let all = || {
            let max = maxima(&r, &groups).unwrap();
            let got = sums(&r, &betas, &groups, &max).unwrap();
            (excess(&r, &betas, &groups, &max, &got).unwrap(), got)
        };
        let pool = |n: usize| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        assert_eq!(all(), pool(8).install(all));
    }

    #[test]
    fn broken_rules_are_named() {
        let (r, groups) = ([1.0, f64::NAN], Offsets::new("groups", &[0, 2], 2).unwrap());
        assert!(maxima(&r, &groups).unwrap_err().to_string().contains("rewards[1] is NaN"));
        let error = sums(&[1.0, 2.0], &[1.0, 0.0], &groups, &[2.0]).unwrap_err();
        assert_eq!(error.to_string(), "betas is 0: it must be positive and finite");
    }
}
