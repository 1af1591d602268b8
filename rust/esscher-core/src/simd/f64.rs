//! Exponentials and logarithms: no branch, no table, no call.
//!
//! An exponential that the compiler was left to vectorise was 3 to 5 times slower than one in vector instructions.

use super::machine::Machine;

const LN2_HI: f64 = 6.931_471_803_691_238e-1;
const LN2_LO: f64 = 1.908_214_929_270_587_7e-10;
/// Added to a number below 2^51, it leaves the nearest integer in the low bits.
const TO_INTEGER: f64 = 6_755_399_441_055_744.0;
/// Above it, the exponential overflows.
const OVERFLOW: f64 = 709.782_712_893_384;
/// Below it, the exponential is (almost) no longer a normal number.
const UNDERFLOW: f64 = -708.0;

/// `(exp(r) - 1 - r) / r^2` on `|r| <= ln(2) / 2`, within 3e-16 relative: interpolated at Chebyshev's points.
const TAIL: [f64; 10] = [
    0.500_000_000_000_000_1,
    0.166_666_666_666_666_7,
    0.041_666_666_666_623_99,
    0.008_333_333_333_330_051,
    0.001_388_888_891_728_179_4,
    0.000_198_412_698_631_059_7,
    2.480_152_119_021_773e-5,
    2.755_726_837_868_419_2e-6,
    2.762_013_871_973_399_4e-7,
    2.510_042_415_700_506_7e-8,
];

/// `exp(x) = 2^k exp(r)`: the steps that all functions of the exponential share.
struct Reduced<M: Machine> {
    k: M::f64s,
    r: M::f64s,
    /// `exp(r) - 1 - r`.
    tail: M::f64s,
    /// `2^(k - 1)`: `2^k` itself may overflow where the exponential does not.
    half_scale: M::f64s,
}

impl<M: Machine> Reduced<M> {
    #[inline(always)]
    fn expm1(&self, m: M) -> M::f64s {
        let below_one = m.sub_f64s(self.half_scale, m.splat_f64s(0.5));
        let half = m.fma(self.half_scale, m.add_f64s(self.r, self.tail), below_one);
        m.add_f64s(half, half)
    }
}

#[inline(always)]
fn reduce<M: Machine>(m: M, x: M::f64s) -> Reduced<M> {
    let (k, r, shifted) = round(m, x);
    let exponent = m.add_u64s(m.transmute_u64s_f64s(shifted), m.splat_u64s(1022));
    let half_scale = m.transmute_f64s_u64s(m.shift_into_exponent(exponent));
    let r2 = m.mul_f64s(r, r);
    Reduced { k, r, tail: m.mul_f64s(r2, tail_polynomial(m, r, r2)), half_scale }
}

/// `x = k ln(2) + r` with an integer `k`, which the low bits of the third number hold.
#[inline(always)]
fn round<M: Machine>(m: M, x: M::f64s) -> (M::f64s, M::f64s, M::f64s) {
    let to_integer = m.splat_f64s(TO_INTEGER);
    let shifted = m.fma(x, m.splat_f64s(std::f64::consts::LOG2_E), to_integer);
    let k = m.sub_f64s(shifted, to_integer);
    let r = m.fma(k, m.splat_f64s(-LN2_LO), m.fma(k, m.splat_f64s(-LN2_HI), x));
    (k, r, shifted)
}

/// Estrin's scheme: shorter chains than Horner's.
#[inline(always)]
fn tail_polynomial<M: Machine>(m: M, r: M::f64s, r2: M::f64s) -> M::f64s {
    let r4 = m.mul_f64s(r2, r2);
    let low = m.fma(pair(m, r, 2), r2, pair(m, r, 0));
    let middle = m.fma(pair(m, r, 6), r2, pair(m, r, 4));
    m.fma(m.fma(pair(m, r, 8), r4, middle), r4, low)
}

#[inline(always)]
fn pair<M: Machine>(m: M, r: M::f64s, i: usize) -> M::f64s {
    m.fma(m.splat_f64s(TAIL[i + 1]), r, m.splat_f64s(TAIL[i]))
}

/// `exp(x)` within 2 units in the last place, for `x` of at most 0; 0 where it is below 3.4e-308.
#[inline(always)]
pub(crate) fn exp_nonpositive<M: Machine>(m: M, x: M::f64s) -> M::f64s {
    let (_, r, shifted) = round(m, x);
    let exponent = m.add_u64s(m.transmute_u64s_f64s(shifted), m.splat_u64s(1023));
    let scale = m.transmute_f64s_u64s(m.shift_into_exponent(exponent));
    let r2 = m.mul_f64s(r, r);
    let mantissa = m.add_f64s(m.splat_f64s(1.0), m.fma(tail_polynomial(m, r, r2), r2, r));
    let value = m.mul_f64s(mantissa, scale);
    m.select_f64s(m.less_than_f64s(x, m.splat_f64s(UNDERFLOW)), m.splat_f64s(0.0), value)
}

/// `exp(x) - 1` within 4 units in the last place, for `x` that is not subnormal.
#[inline(always)]
pub(crate) fn expm1<M: Machine>(m: M, x: M::f64s) -> M::f64s {
    /// Below it, `exp(x)` is lost beside 1.
    const ALL_GONE: f64 = -40.0;
    let value = reduce(m, x).expm1(m);
    let value = m.select_f64s(m.less_than_f64s(x, m.splat_f64s(ALL_GONE)), m.splat_f64s(-1.0), value);
    m.select_f64s(m.less_than_f64s(m.splat_f64s(OVERFLOW), x), m.splat_f64s(f64::INFINITY), value)
}

/// `exp(-d) - 1 + d`, the estimator k3, within 2e-14 relative; never negative; infinite for `d` below -709.7.
///
/// Where `exp(-d)` is near 1 the closed form cancels; the tail of its series is the answer.
#[inline(always)]
pub(crate) fn k3<M: Machine>(m: M, d: M::f64s) -> M::f64s {
    /// Above it, `exp(-d)` is lost beside 1.
    const ALL_GONE: f64 = 40.0;
    let reduced = reduce(m, m.neg_f64s(d));
    let closed = m.add_f64s(reduced.expm1(m), d);
    let value = m.select_f64s(m.equal_f64s(reduced.k, m.splat_f64s(0.0)), reduced.tail, closed);
    let gone = m.less_than_f64s(m.splat_f64s(ALL_GONE), d);
    let value = m.select_f64s(gone, m.sub_f64s(d, m.splat_f64s(1.0)), value);
    m.select_f64s(m.less_than_f64s(d, m.splat_f64s(-OVERFLOW)), m.splat_f64s(f64::INFINITY), value)
}

/// The mantissa of a positive number between sqrt(1/2) and sqrt(2), and its exponent.
#[inline(always)]
fn split<M: Machine>(m: M, x: M::f64s) -> (M::f64s, M::f64s) {
    /// The bits of sqrt(1/2).
    const LOWEST: u64 = 0x3fe6_a09e_667f_3bcd;
    /// 2^52, whose low bits an integer may replace to become a float.
    const TWO_52: f64 = 4_503_599_627_370_496.0;
    let raised = m.add_u64s(m.transmute_u64s_f64s(x), m.splat_u64s(f64::to_bits(1.0) - LOWEST));
    let biased = m.or_u64s(m.shift_out_of_exponent(raised), m.splat_u64s(TWO_52.to_bits()));
    let exponent = m.sub_f64s(m.transmute_f64s_u64s(biased), m.splat_f64s(TWO_52 + 1023.0));
    let mantissa = m.add_u64s(m.and_u64s(raised, m.splat_u64s((1 << 52) - 1)), m.splat_u64s(LOWEST));
    (m.transmute_f64s_u64s(mantissa), exponent)
}

/// `ln(1 + f) + exponent ln(2)` for `1 + f` between sqrt(1/2) and sqrt(2), by the series of
/// `ln((1 + s) / (1 - s))` in `s = f / (2 + f)`; coefficients of fdlibm's `e_log.c`.
#[inline(always)]
fn ln_of_split<M: Machine>(m: M, f: M::f64s, exponent: M::f64s) -> M::f64s {
    const EVEN: [f64; 3] = [3.999_999_999_940_942e-1, 2.222_219_843_214_978_4e-1, 1.531_383_769_920_937_3e-1];
    const ODD: [f64; 4] =
        [6.666_666_666_666_735e-1, 2.857_142_874_366_239e-1, 1.818_357_216_161_805e-1, 1.479_819_860_511_658_6e-1];
    let s = m.div_f64s(f, m.add_f64s(m.splat_f64s(2.0), f));
    let s2 = m.mul_f64s(s, s);
    let s4 = m.mul_f64s(s2, s2);
    let even = m.fma(m.fma(m.splat_f64s(EVEN[2]), s4, m.splat_f64s(EVEN[1])), s4, m.splat_f64s(EVEN[0]));
    let odd = m.fma(m.splat_f64s(ODD[3]), s4, m.splat_f64s(ODD[2]));
    let odd = m.fma(m.fma(odd, s4, m.splat_f64s(ODD[1])), s4, m.splat_f64s(ODD[0]));
    let half_square = m.mul_f64s(m.mul_f64s(m.splat_f64s(0.5), f), f);
    let series = m.fma(s4, even, m.mul_f64s(s2, odd));
    let low = m.fma(s, m.add_f64s(half_square, series), m.mul_f64s(exponent, m.splat_f64s(LN2_LO)));
    m.fma(exponent, m.splat_f64s(LN2_HI), m.sub_f64s(f, m.sub_f64s(half_square, low)))
}

/// `ln(x)` within 2 units in the last place; NaN below 0.
#[inline(always)]
pub(crate) fn ln<M: Machine>(m: M, x: M::f64s) -> M::f64s {
    const TWO_54: f64 = 18_014_398_509_481_984.0;
    let subnormal = m.less_than_f64s(x, m.splat_f64s(f64::MIN_POSITIVE));
    let (mantissa, exponent) = split(m, m.select_f64s(subnormal, m.mul_f64s(x, m.splat_f64s(TWO_54)), x));
    let exponent = m.select_f64s(subnormal, m.sub_f64s(exponent, m.splat_f64s(54.0)), exponent);
    at_borders(m, x, ln_of_split(m, m.sub_f64s(mantissa, m.splat_f64s(1.0)), exponent))
}

/// `ln(1 + x)` within 4 units in the last place; NaN below -1.
#[inline(always)]
pub(crate) fn ln_1p<M: Machine>(m: M, x: M::f64s) -> M::f64s {
    ln_of_sum(m, x, m.add_f64s(m.splat_f64s(1.0), x))
}

/// `ln((1 + x0) (1 + x1) (1 + x2) (1 + x3))` for `x` of one sign, within 8 units in the last place: one logarithm in
/// the place of four. Infinite or NaN also where the product overflows.
#[inline(always)]
pub(crate) fn ln_1p_of_four<M: Machine>(m: M, x: [M::f64s; 4]) -> M::f64s {
    let one = m.splat_f64s(1.0);
    let pair = [m.fma(x[0], x[1], m.add_f64s(x[0], x[1])), m.fma(x[2], x[3], m.add_f64s(x[2], x[3]))];
    let beyond_one = m.fma(pair[0], pair[1], m.add_f64s(pair[0], pair[1]));
    let left = m.mul_f64s(m.add_f64s(one, x[0]), m.add_f64s(one, x[1]));
    let right = m.mul_f64s(m.add_f64s(one, x[2]), m.add_f64s(one, x[3]));
    ln_of_sum(m, beyond_one, m.mul_f64s(left, right))
}

/// `ln(sum)`, where `sum` is 1 more than `x` but for the rounding.
#[inline(always)]
fn ln_of_sum<M: Machine>(m: M, x: M::f64s, sum: M::f64s) -> M::f64s {
    let (mantissa, exponent) = split(m, sum);
    let near_one = m.equal_f64s(exponent, m.splat_f64s(0.0));
    let f = m.select_f64s(near_one, x, m.sub_f64s(mantissa, m.splat_f64s(1.0)));
    at_borders(m, sum, ln_of_split(m, f, exponent))
}

#[inline(always)]
fn at_borders<M: Machine>(m: M, x: M::f64s, ln: M::f64s) -> M::f64s {
    let zero = m.splat_f64s(0.0);
    let ln = m.select_f64s(m.less_than_f64s(x, m.splat_f64s(f64::INFINITY)), ln, x);
    let ln = m.select_f64s(m.equal_f64s(x, zero), m.splat_f64s(f64::NEG_INFINITY), ln);
    m.select_f64s(m.less_than_f64s(x, zero), m.splat_f64s(f64::NAN), ln)
}
