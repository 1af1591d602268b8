//! One block of differences at every beta: the lanes of vectors are values, or betas where the values are few.

use bytemuck::{cast_slice, pod_read_unaligned};

use crate::{
    real::MAX_LANES,
    simd::{Kernel, Machine, exp_nonpositive},
    sum::Sum,
    vectors::{both, each, load},
};

/// How many sums [`super::sums`] gives for each beta and group.
pub const SUMS: usize = 5;
/// How many sums [`super::excess`] gives for each beta and group.
pub const EXCESS: usize = 3;
/// Blocks of at most this many values put betas, not values, in the lanes of a vector where that is less work: it saves
/// small groups the horizontal sums.
const FEW: usize = 256;
/// The cost of the horizontal sums for one beta, in vector exponentials.
const LANES_SUMMED: usize = 2;
/// Replaces a difference of `-inf`: its exponential is 0 and so is the product of both, whereas `0 * -inf` is NaN.
pub(super) const LOWEST: f64 = f64::MIN;

/// `1 / beta`, capped to be finite: the product with the difference of the largest reward, 0, must be 0 and not NaN.
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

/// Whether one pass with betas in the lanes needs fewer vectors than a pass over the values for each beta.
#[inline(always)]
fn over_betas<M: Machine>(values: usize, betas: usize) -> bool {
    let vectors = |n: usize| n.div_ceil(M::F32_LANES);
    values <= FEW && values * vectors(betas) <= betas * (vectors(values) + LANES_SUMMED)
}

/// The first numbers as two vectors; missing lanes are 1.
#[inline(always)]
fn lanes<M: Machine>(numbers: impl Iterator<Item = f64>) -> [M::f64s; 2] {
    let mut filled = [1.0; MAX_LANES];
    filled.iter_mut().zip(numbers).for_each(|(lane, number)| *lane = number);
    pod_read_unaligned(cast_slice(&filled[..M::F32_LANES]))
}

/// Add sums whose lanes are betas to the output of each beta.
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

pub(super) struct TiltSums<'a, 'o> {
    pub(super) d: &'a [f64],
    pub(super) betas: &'a [f64],
    pub(super) out: &'o mut [f64],
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
            let mut sums = [Sum::zero(m); SUMS];
            each!(m, self.d, |chunk| {
                let d = load(m, chunk, LOWEST);
                let e = exps(m, d, rate);
                let ed = times(m, e, d);
                sums[0].add(m, e);
                sums[1].add(m, ed);
                sums[2].add_product(m, e, e);
                sums[3].add_product(m, e, ed);
                sums[4].add_product(m, ed, ed);
            });
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
                let e = both!(times(m, d, rates), |x| exp_nonpositive(m, x));
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

pub(super) struct TiltExcess<'a, 'o> {
    pub(super) d: &'a [f64],
    pub(super) betas: &'a [f64],
    pub(super) means: &'a [f64],
    pub(super) out: &'o mut [f64],
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
            let mut sums = [Sum::zero(m); EXCESS];
            each!(m, self.d, |chunk| {
                let d = load(m, chunk, LOWEST);
                let e = exps(m, d, rate);
                let above = both!(e, |e| m.max_f64s(m.sub_f64s(e, mean), zero));
                sums[0].add(m, above);
                sums[1].add_product(m, above, above);
                sums[2].add(m, both!(e, |e| m.select_f64s(m.less_than_f64s(mean, e), e, zero)));
            });
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
                let e = both!(times(m, [m.splat_f64s(d); 2], rates), |x| exp_nonpositive(m, x));
                let above = both!([0, 1], |i| m.max_f64s(m.sub_f64s(e[i], means[i]), zero));
                let heavy = both!([0, 1], |i| m.select_f64s(m.less_than_f64s(means[i], e[i]), e[i], zero));
                for (sum, term) in sums.iter_mut().zip([above, times(m, above, above), heavy]) {
                    *sum = plus(m, *sum, term);
                }
            }
            add_lanes::<M, EXCESS>(out, sums);
        }
    }
}
