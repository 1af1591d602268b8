//! Exponentials in single precision, for what is memory-bound or of single precision anyway.

use super::machine::Machine;

const LN2_HI: f32 = 0.693_145_75;
const LN2_LO: f32 = 1.428_606_8e-6;
/// Added to a number below 2^22, it leaves the nearest integer in the low bits.
const TO_INTEGER: f32 = 12_582_912.0;

/// `x = k ln(2) + r`: gives `r`, and `2^k`.
#[inline(always)]
fn reduce<M: Machine>(m: M, x: M::f32s) -> (M::f32s, M::f32s) {
    let to_integer = m.splat_f32s(TO_INTEGER);
    let shifted = m.fma_f32(x, m.splat_f32s(std::f32::consts::LOG2_E), to_integer);
    let k = m.sub_f32s(shifted, to_integer);
    let r = m.fma_f32(k, m.splat_f32s(-LN2_LO), m.fma_f32(k, m.splat_f32s(-LN2_HI), x));
    let exponent = m.add_u32s(m.transmute_u32s_f32s(shifted), m.splat_u32s(127));
    (r, m.transmute_f32s_u32s(m.wrapping_dyn_shl_u32s(exponent, m.splat_u32s(23))))
}

/// `exp(x)` within 2e-7 relative, for `x` between -87 and 88.
#[inline(always)]
pub(crate) fn exp<M: Machine>(m: M, x: M::f32s) -> M::f32s {
    let (r, scale) = reduce(m, x);
    let r2 = m.mul_f32s(r, r);
    let low = m.fma_f32(m.splat_f32s(0.166_665_76), r, m.splat_f32s(0.5));
    let high = m.fma_f32(m.splat_f32s(0.008_363_203), r, m.splat_f32s(0.041_666_556));
    let tail = m.fma_f32(m.fma_f32(m.splat_f32s(0.001_392_621_3), r2, high), r2, low);
    m.mul_f32s(m.fma_f32(tail, r2, m.add_f32s(m.splat_f32s(1.0), r)), scale)
}

/// `exp(-d) - 1 + d` within 4e-6 relative, for `d` between -87 and 87; never negative.
#[inline(always)]
pub(crate) fn k3<M: Machine>(m: M, d: M::f32s) -> M::f32s {
    let one = m.splat_f32s(1.0);
    let (r, scale) = reduce(m, m.neg_f32s(d));
    let r2 = m.mul_f32s(r, r);
    let low = m.fma_f32(m.splat_f32s(0.166_666_67), r, m.splat_f32s(0.5));
    let middle = m.fma_f32(m.splat_f32s(0.008_333_310_5), r, m.splat_f32s(0.041_666_463));
    let high = m.fma_f32(m.splat_f32s(0.000_198_910_3), r, m.splat_f32s(0.001_393_368_6));
    let tail = m.mul_f32s(r2, m.fma_f32(m.fma_f32(high, r2, middle), r2, low));
    let closed = m.add_f32s(m.fma_f32(scale, m.add_f32s(r, tail), m.sub_f32s(scale, one)), d);
    m.select_f32s(m.equal_f32s(scale, one), tail, closed)
}
