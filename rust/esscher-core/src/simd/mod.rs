//! The instruction set is chosen when the program runs.
//!
//! A kernel is compiled once for each instruction set, from the same source in terms of [`Machine`]; [`dispatch`] runs
//! the best one that the machine has. Another instruction set has other lanes and rounds a product and a sum once or
//! twice, so its results may differ in the last places; on one machine they never do.

mod f32;
mod f64;
mod machine;
mod prefetch;

pub(crate) use f32::{exp as exp_f32, k3 as k3_f32};
pub(crate) use f64::{exp_nonpositive, expm1, k3, ln, ln_1p, ln_1p_of_four};
pub(crate) use machine::Machine;
pub(crate) use prefetch::prefetch;

use pulp::{Arch, Scalar256b};
#[cfg(target_arch = "x86_64")]
use pulp::{Simd, WithSimd};

/// Work that is compiled for each instruction set.
pub(crate) trait Kernel {
    /// The result.
    type Output;

    /// Run it. This and every function and closure that it calls with vectors must be `#[inline(always)]`: what is not
    /// inlined is compiled for the oldest machine.
    fn run<M: Machine>(self, m: M) -> Self::Output;
}

/// Run `kernel` with the best instructions of this machine.
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(test)]
    if let Some(arch) = paths::forced() {
        return dispatch_on(arch, kernel);
    }
    dispatch_on(Arch::new(), kernel)
}

fn dispatch_on<K: Kernel>(arch: Arch, kernel: K) -> K::Output {
    match arch {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(v4) => Simd::vectorize(v4, On(v4, kernel)),
        #[cfg(target_arch = "x86_64")]
        Arch::V3(v3) => Simd::vectorize(v3, On(v3, kernel)),
        _ => kernel.run(Scalar256b),
    }
}

#[cfg(target_arch = "x86_64")]
struct On<M, K>(M, K);

#[cfg(target_arch = "x86_64")]
impl<M: Machine, K: Kernel> WithSimd for On<M, K> {
    type Output = K::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> K::Output {
        self.1.run(self.0)
    }
}

/// The instruction sets of this machine.
#[cfg(test)]
pub(crate) mod paths {
    use std::cell::Cell;

    use pulp::Arch;

    thread_local! {
        static FORCED: Cell<Option<Arch>> = const { Cell::new(None) };
    }

    pub(super) fn forced() -> Option<Arch> {
        FORCED.get()
    }

    pub(super) fn all() -> Vec<(&'static str, Arch)> {
        let mut paths = vec![("baseline", Arch::Scalar)];
        #[cfg(target_arch = "x86_64")]
        {
            paths.extend(pulp::x86::V3::try_new().map(|v3| ("AVX2", Arch::V3(v3))));
            paths.extend(pulp::x86::V4::try_new().map(|v4| ("AVX-512", Arch::V4(v4))));
        }
        paths
    }

    /// Run `check` with each instruction set.
    pub(crate) fn each(check: impl Fn()) {
        for (name, arch) in all() {
            println!("on the path {name}");
            FORCED.set(Some(arch));
            check();
            FORCED.set(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use astro_float::{BigFloat, Consts, RoundingMode};

    use super::*;

    /// Bits of the reference: 50 decimal digits.
    const DIGITS: usize = 192;
    const ROUND: RoundingMode = RoundingMode::ToEven;

    /// A function of one number on a slice, for every instruction set.
    macro_rules! on_all_paths {
        ($function:ident, $real:ty, $as_simd:ident, $partial_load:ident, $inputs:expr) => {{
            struct Map<'a>(&'a [$real]);
            impl Kernel for Map<'_> {
                type Output = Vec<$real>;
                #[inline(always)]
                fn run<M: Machine>(self, m: M) -> Self::Output {
                    let (head, tail) = M::$as_simd(self.0);
                    let mut out = vec![];
                    for &x in head {
                        out.extend_from_slice(bytemuck::cast_slice(&[$function(m, x)]));
                    }
                    let last = [$function(m, m.$partial_load(tail))];
                    out.extend_from_slice(&bytemuck::cast_slice(&last)[..tail.len()]);
                    out
                }
            }
            paths::all().into_iter().map(|(name, arch)| (name, dispatch_on(arch, Map($inputs))))
        }};
        ($function:ident, f64, $inputs:expr) => {
            on_all_paths!($function, f64, as_simd_f64s, partial_load_f64s, $inputs)
        };
        ($function:ident, f32, $inputs:expr) => {
            on_all_paths!($function, f32, as_simd_f32s, partial_load_f32s, $inputs)
        };
    }

    /// Numbers spread over `low..high`, evenly in value and in magnitude.
    fn spread(low: f64, high: f64) -> Vec<f64> {
        let share = |i: u32| f64::from(i.wrapping_mul(2_654_435_769)) / f64::from(u32::MAX);
        let even = (0..4_000).map(|i| low + (high - low) * share(i));
        let small = (0..4_000).map(|i| 10f64.powf(-17.0 * share(i)) * if i % 2 == 0 { 1.0 } else { -1.0 });
        even.chain(small).filter(|x| (low..=high).contains(x)).collect()
    }

    fn big(x: f64) -> BigFloat {
        BigFloat::from_f64(x, DIGITS)
    }

    fn to_f64(x: &BigFloat) -> f64 {
        x.to_string().parse().unwrap()
    }

    fn exact_exp(x: f64, consts: &mut Consts) -> f64 {
        to_f64(&big(x).exp(DIGITS, ROUND, consts))
    }

    fn exact_expm1(x: f64, consts: &mut Consts) -> f64 {
        to_f64(&big(x).exp(DIGITS, ROUND, consts).sub(&big(1.0), DIGITS, ROUND))
    }

    fn exact_k3(d: f64, consts: &mut Consts) -> f64 {
        let exp = big(-d).exp(DIGITS, ROUND, consts);
        to_f64(&exp.sub(&big(1.0), DIGITS, ROUND).add(&big(d), DIGITS, ROUND))
    }

    fn exact_ln_1p(x: f64, consts: &mut Consts) -> f64 {
        to_f64(&big(x).add(&big(1.0), DIGITS, ROUND).ln(DIGITS, ROUND, consts))
    }

    fn exact_ln(x: f64, consts: &mut Consts) -> f64 {
        to_f64(&big(x).ln(DIGITS, ROUND, consts))
    }

    fn worst(inputs: &[f64], got: &[f64], exact: impl Fn(f64, &mut Consts) -> f64) -> (f64, f64) {
        let mut consts = Consts::new().unwrap();
        let error = |x: f64, y: f64, consts: &mut Consts| match exact(x, consts) {
            0.0 => y.abs(),
            exact => (y / exact - 1.0).abs(),
        };
        inputs
            .iter()
            .zip(got)
            .map(|(&x, &y)| (error(x, y, &mut consts), x))
            .fold((0.0, 0.0), |a, b| if b.0 > a.0 { b } else { a })
    }

    #[test]
    fn exponentials_to_fifty_digits() {
        let inputs = spread(-707.9, 0.0);
        for (path, got) in on_all_paths!(exp_nonpositive, f64, &inputs) {
            let (error, at) = worst(&inputs, &got, exact_exp);
            assert!(error < 2.0 * f64::EPSILON, "{path}: exp({at}) is off by {error:e}");
        }
    }

    #[test]
    fn expm1_to_fifty_digits() {
        let inputs: Vec<f64> = spread(-800.0, 709.7).into_iter().filter(|x| x.abs() >= 1e-17).collect();
        for (path, got) in on_all_paths!(expm1, f64, &inputs) {
            let (error, at) = worst(&inputs, &got, exact_expm1);
            assert!(error < 4.0 * f64::EPSILON, "{path}: expm1({at}) is off by {error:e}");
        }
    }

    #[test]
    fn k3_to_fifty_digits() {
        let inputs: Vec<f64> = spread(-709.0, 1e4).into_iter().filter(|d| d.abs() >= 1e-16).collect();
        for (path, got) in on_all_paths!(k3, f64, &inputs) {
            let (error, at) = worst(&inputs, &got, exact_k3);
            assert!(error < 2e-14, "{path}: k3({at}) is off by {error:e}");
        }
    }

    #[test]
    fn logarithms_to_fifty_digits() {
        let above = |low: f64, inputs: Vec<f64>| inputs.into_iter().filter(|&x| x > low).collect::<Vec<_>>();
        let magnitudes: Vec<f64> = above(0.0, spread(-700.0, 700.0).iter().map(|x| x.exp()).collect());
        for (path, got) in on_all_paths!(ln, f64, &magnitudes) {
            let (error, at) = worst(&magnitudes, &got, exact_ln);
            assert!(error < 2.0 * f64::EPSILON, "{path}: ln({at}) is off by {error:e}");
        }
        let inputs = above(-1.0, [spread(-1.0, 10.0), above(1e-17, magnitudes)].concat());
        for (path, got) in on_all_paths!(ln_1p, f64, &inputs) {
            let (error, at) = worst(&inputs, &got, exact_ln_1p);
            assert!(error < 4.0 * f64::EPSILON, "{path}: ln_1p({at}) is off by {error:e}");
        }
    }

    /// Of `x`, `x / 2`, `x / 4` and `x / 8`, which are exact.
    #[inline(always)]
    fn ln_1p_of_halves<M: Machine>(m: M, x: M::f64s) -> M::f64s {
        let part = |share: f64| m.mul_f64s(x, m.splat_f64s(share));
        ln_1p_of_four(m, [x, part(0.5), part(0.25), part(0.125)])
    }

    #[test]
    fn a_logarithm_of_four_to_fifty_digits() {
        let exact = |x: f64, consts: &mut Consts| {
            let factor = |share: f64| big(x * share).add(&big(1.0), DIGITS, ROUND);
            let product = [0.5, 0.25, 0.125].map(factor).iter().fold(factor(1.0), |p, f| p.mul(f, DIGITS, ROUND));
            to_f64(&product.ln(DIGITS, ROUND, consts))
        };
        let large = (0..4_000).map(|i| 10f64.powf(f64::from(i) / 55.0));
        let inputs: Vec<f64> =
            spread(-1.0, 10.0).into_iter().chain(large).filter(|x| x.abs() >= 1e-17 && *x > -1.0).collect();
        for (path, got) in on_all_paths!(ln_1p_of_halves, f64, &inputs) {
            let (error, at) = worst(&inputs, &got, exact);
            assert!(error < 8.0 * f64::EPSILON, "{path}: the logarithm at {at} is off by {error:e}");
        }
    }

    #[test]
    fn single_precision_to_its_bound() {
        let inputs: Vec<f32> = spread(-86.9, 87.9).into_iter().map(|x| x as f32).filter(|x| x.abs() > 1e-15).collect();
        let wide: Vec<f64> = inputs.iter().map(|&x| f64::from(x)).collect();
        let widen = |got: Vec<f32>| got.into_iter().map(f64::from).collect::<Vec<_>>();
        for (path, got) in on_all_paths!(exp_f32, f32, &inputs) {
            let (error, at) = worst(&wide, &widen(got), exact_exp);
            assert!(error < 2e-7, "{path}: exp({at}) is off by {error:e}");
        }
        for (path, got) in on_all_paths!(k3_f32, f32, &inputs) {
            let (error, at) = worst(&wide, &widen(got), exact_k3);
            assert!(error < 4e-6, "{path}: k3({at}) is off by {error:e}");
        }
    }

    #[test]
    fn special_values() {
        let (inf, nan, tiny) = (f64::INFINITY, f64::NAN, 5e-324);
        let check = |name: &str, got: Vec<f64>, expected: &[f64]| {
            for (y, z) in got.iter().zip(expected) {
                assert!(y == z || (y.is_nan() && z.is_nan()), "{name}: {got:?}, not {expected:?}");
            }
        };
        for (path, got) in on_all_paths!(exp_nonpositive, f64, &[0.0, -0.0, -inf, nan, -1e300, -745.0, -tiny]) {
            check(path, got, &[1.0, 1.0, 0.0, nan, 0.0, 0.0, 1.0]);
        }
        for (path, got) in on_all_paths!(expm1, f64, &[0.0, -inf, inf, nan, -1e300, 1e300, f64::MIN_POSITIVE]) {
            check(path, got, &[0.0, -1.0, inf, nan, -1.0, inf, f64::MIN_POSITIVE]);
        }
        for (path, got) in on_all_paths!(k3, f64, &[0.0, -0.0, -inf, inf, nan, -1e300, 1e300, tiny]) {
            check(path, got, &[0.0, 0.0, inf, inf, nan, inf, 1e300, 0.0]);
        }
        for (path, got) in on_all_paths!(ln, f64, &[1.0, 0.0, -0.0, -1.0, inf, nan, -inf, tiny]) {
            check(path, got, &[0.0, -inf, -inf, nan, inf, nan, nan, tiny.ln()]);
        }
        for (path, got) in on_all_paths!(ln_1p, f64, &[0.0, -1.0, -2.0, inf, nan, -inf, tiny]) {
            check(path, got, &[0.0, -inf, nan, inf, nan, nan, tiny]);
        }
    }
}
