//! What samples of the prior say of its tilts `prior exp(r / beta) / Z`, for many beta at once.

use std::ops::Range;

use bytemuck::cast_slice;

use crate::{
    Error, Offsets, Result, parallel,
    ragged::check_length,
    simd::{self, Kernel, Machine, exp_nonpositive},
    sum::Sum,
    vectors::{each, largest, load},
    weights,
};

/// How many sums [`sums`] gives for each beta and group.
pub const SUMS: usize = 5;
/// How many sums [`excess`] gives for each beta and group.
pub const EXCESS: usize = 3;
/// Values that are summed at once, for every beta in turn: the first-level cache holds them.
const BLOCK: usize = 2048;
/// Values that are one piece of work for a thread: a part of a big group, or several small ones.
const PIECE: usize = 1 << 15;
/// Up to so many values the lanes of a vector are betas, where that is less work, and not values: what small groups would
/// spend on adding up lanes.
const FEW: usize = 256;
/// What adding up the lanes of all sums takes, in exponentials of vectors.
const LANES_SUMMED: usize = 2;
/// Stands for a difference of `-inf`: its exponential is 0, and the product with it too, where `0 * inf` is not.
const LOWEST: f64 = f64::MIN;

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
/// square, and of `e` where it exceeds `m`, as `[group][beta][3]`. They give the total variation between tilt and prior,
/// and its variance.
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

/// Add what `add` gives of each block of differences, block after block.
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

/// `1 / beta`, finite: times the difference of the largest reward, 0, it must be 0.
#[inline(always)]
fn rate(beta: f64) -> f64 {
    beta.recip().min(f64::MAX)
}

#[inline(always)]
fn exps<M: Machine>(m: M, d: [M::f64s; 2], rate: M::f64s) -> [M::f64s; 2] {
    [exp_nonpositive(m, m.mul_f64s(d[0], rate)), exp_nonpositive(m, m.mul_f64s(d[1], rate))]
}

#[inline(always)]
fn times<M: Machine>(m: M, a: [M::f64s; 2], b: [M::f64s; 2]) -> [M::f64s; 2] {
    [m.mul_f64s(a[0], b[0]), m.mul_f64s(a[1], b[1])]
}

/// Whether vectors of betas are fewer than vectors of values, for every beta in turn.
#[inline(always)]
fn over_betas<M: Machine>(values: usize, betas: usize) -> bool {
    let vectors = |n: usize| n.div_ceil(M::F32_LANES);
    values <= FEW && values * vectors(betas) <= betas * (vectors(values) + LANES_SUMMED)
}

/// As many numbers as two vectors hold; what is missing is 1.
#[inline(always)]
fn lanes<M: Machine>(numbers: impl Iterator<Item = f64>) -> [M::f64s; 2] {
    let mut filled = [1.0; crate::real::MAX_LANES];
    filled.iter_mut().zip(numbers).for_each(|(lane, number)| *lane = number);
    bytemuck::pod_read_unaligned(cast_slice(&filled[..M::F32_LANES]))
}

/// Add sums, whose lanes are betas, to what is known of each beta.
#[inline(always)]
fn add_lanes<M: Machine, const K: usize>(out: &mut [f64], sums: [[M::f64s; 2]; K]) {
    for (k, sum) in sums.iter().enumerate() {
        let lanes: &[f64] = cast_slice(sum);
        out[k..].iter_mut().step_by(K).zip(lanes).for_each(|(out, lane)| *out += lane);
    }
}

#[inline(always)]
fn plus<M: Machine>(m: M, a: [M::f64s; 2], b: [M::f64s; 2]) -> [M::f64s; 2] {
    [m.add_f64s(a[0], b[0]), m.add_f64s(a[1], b[1])]
}

struct TiltSums<'a, 'o> {
    d: &'a [f64],
    betas: &'a [f64],
    out: &'o mut [f64],
}

impl Kernel for TiltSums<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, m: M) {
        if over_betas::<M>(self.d.len(), self.betas.len()) {
            return self.run_over_betas(m);
        }
        for (&beta, out) in self.betas.iter().zip(self.out.chunks_exact_mut(SUMS)) {
            let rate = m.splat_f64s(rate(beta));
            let mut sums: [Sum<M>; SUMS] = std::array::from_fn(
                #[inline(always)]
                |_| Sum::zero(m),
            );
            each(
                m,
                self.d,
                #[inline(always)]
                |chunk| {
                    let d = load(m, chunk, LOWEST);
                    let e = exps(m, d, rate);
                    let ed = times(m, e, d);
                    sums[0].add(m, e);
                    sums[1].add(m, ed);
                    sums[2].add_product(m, e, e);
                    sums[3].add_product(m, e, ed);
                    sums[4].add_product(m, ed, ed);
                },
            );
            for (out, sum) in out.iter_mut().zip(sums) {
                *out += sum.total(m);
            }
        }
    }
}

impl TiltSums<'_, '_> {
    #[inline(always)]
    fn run_over_betas<M: Machine>(self, m: M) {
        let chunks = self.betas.chunks(M::F32_LANES).zip(self.out.chunks_mut(SUMS * M::F32_LANES));
        for (betas, out) in chunks {
            let rates = lanes::<M>(betas.iter().map(|&beta| rate(beta)));
            let mut sums = [[m.splat_f64s(0.0); 2]; SUMS];
            for &d in self.d {
                let d = [m.splat_f64s(d); 2];
                let e = times(m, d, rates).map(
                    #[inline(always)]
                    |x| exp_nonpositive(m, x),
                );
                let ed = times(m, e, d);
                let terms = [e, ed, times(m, e, e), times(m, e, ed), times(m, ed, ed)];
                for (sum, term) in sums.iter_mut().zip(terms) {
                    *sum = plus(m, *sum, term);
                }
            }
            add_lanes::<M, SUMS>(out, sums);
        }
    }
}

struct TiltExcess<'a, 'o> {
    d: &'a [f64],
    betas: &'a [f64],
    means: &'a [f64],
    out: &'o mut [f64],
}

impl Kernel for TiltExcess<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, m: M) {
        if over_betas::<M>(self.d.len(), self.betas.len()) {
            return self.run_over_betas(m);
        }
        let zero = m.splat_f64s(0.0);
        for ((&beta, &mean), out) in self.betas.iter().zip(self.means).zip(self.out.chunks_exact_mut(EXCESS)) {
            let (rate, mean) = (m.splat_f64s(rate(beta)), m.splat_f64s(mean));
            let mut sums: [Sum<M>; EXCESS] = std::array::from_fn(
                #[inline(always)]
                |_| Sum::zero(m),
            );
            each(
                m,
                self.d,
                #[inline(always)]
                |chunk| {
                    let d = load(m, chunk, LOWEST);
                    let e = exps(m, d, rate);
                    let above = e.map(
                        #[inline(always)]
                        |e| m.max_f64s(m.sub_f64s(e, mean), zero),
                    );
                    sums[0].add(m, above);
                    sums[1].add_product(m, above, above);
                    sums[2].add(
                        m,
                        e.map(
                            #[inline(always)]
                            |e| m.select_f64s(m.less_than_f64s(mean, e), e, zero),
                        ),
                    );
                },
            );
            for (out, sum) in out.iter_mut().zip(sums) {
                *out += sum.total(m);
            }
        }
    }
}

impl TiltExcess<'_, '_> {
    #[inline(always)]
    fn run_over_betas<M: Machine>(self, m: M) {
        let zero = m.splat_f64s(0.0);
        let parameters = self.betas.chunks(M::F32_LANES).zip(self.means.chunks(M::F32_LANES));
        for ((betas, means), out) in parameters.zip(self.out.chunks_mut(EXCESS * M::F32_LANES)) {
            let rates = lanes::<M>(betas.iter().map(|&beta| rate(beta)));
            let means = lanes::<M>(means.iter().copied());
            let mut sums = [[zero; 2]; EXCESS];
            for &d in self.d {
                let e = times(m, [m.splat_f64s(d); 2], rates).map(
                    #[inline(always)]
                    |x| exp_nonpositive(m, x),
                );
                let mut above = [zero; 2];
                let mut heavy = [zero; 2];
                for (i, (&e, &mean)) in e.iter().zip(&means).enumerate() {
                    above[i] = m.max_f64s(m.sub_f64s(e, mean), zero);
                    heavy[i] = m.select_f64s(m.less_than_f64s(mean, e), e, zero);
                }
                for (sum, term) in sums.iter_mut().zip([above, times(m, above, above), heavy]) {
                    *sum = plus(m, *sum, term);
                }
            }
            add_lanes::<M, EXCESS>(out, sums);
        }
    }
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
