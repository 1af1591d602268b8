//! What goes in: legal and illegal, of all magnitudes, in lengths around those of vectors, blocks and parts of work.

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;

use esscher_core::{Bf16, Real, weights::Normaliser};

/// So many cases and always the same ones, so that a failure can be seen again; others if the environment asks.
pub fn config(cases: u32) -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let config = ProptestConfig { failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() };
    if asked { config } else { ProptestConfig { cases, rng_seed: RngSeed::Fixed(0), ..config } }
}

/// The number of values of a row or group.
pub fn len() -> impl Strategy<Value = usize> {
    let around = |unit: usize, times: usize| (1..=times, 0..3usize).prop_map(move |(n, near)| n * unit + near - 1);
    prop_oneof![
        60 => 0..20usize,
        20 => around(8, 10),
        10 => around(16, 20),
        2 => around(2048, 2),
        1 => around(4096, 2),
    ]
}

/// The lengths of some rows or groups.
pub fn lens() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![9 => prop::collection::vec(len(), 0..6), 1 => prop::collection::vec(0..9usize, 0..60)]
}

/// Borders of rows of such lengths.
pub fn offsets(lens: &[usize]) -> Vec<i64> {
    let ends = lens.iter().scan(0, |end, &len| {
        *end += len as i64;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

/// How numbers are spread.
#[derive(Debug, Clone, Copy)]
enum Spread {
    /// Evenly, up to so much on either side of 0.
    Even(f64),
    /// Over all magnitudes that there are, within these powers of ten.
    Magnitudes(f64, f64),
    /// So many different integers, for many ties.
    Integers(u32),
    /// As integers, most of them minus infinity.
    Mostly(u32),
}

/// Numbers drawn from a seed, with a few others put among them: quick to make, and what fails shrinks in length.
#[derive(Debug, Clone)]
pub struct Numbers {
    seed: u64,
    spread: Spread,
    others: Vec<(Index, f64)>,
}

/// Uniforms in [0, 1), by splitmix64.
pub fn uniforms(seed: u64) -> impl Iterator<Item = f64> {
    (1u64..).map(move |i| {
        let mut x = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    })
}

impl Spread {
    fn number(self, u: f64) -> f64 {
        let integer = |n: u32, u: f64| (f64::from(n) * u).floor();
        match self {
            Self::Even(most) => most * (2.0 * u - 1.0),
            Self::Magnitudes(low, high) => {
                let (sign, u) = if u < 0.5 { (-1.0, 2.0 * u) } else { (1.0, 2.0 * u - 1.0) };
                sign * 10f64.powf(low + (high - low) * u)
            }
            Self::Integers(n) => integer(n, u),
            Self::Mostly(_) if u < 0.8 => f64::NEG_INFINITY,
            Self::Mostly(n) => integer(n, 5.0 * u - 4.0),
        }
    }
}

impl Numbers {
    pub fn take(&self, len: usize) -> Vec<f64> {
        self.map(len, |x| x)
    }

    /// None above 0, but for the others.
    pub fn log_probs(&self, len: usize) -> Vec<f64> {
        self.map(len, |x| -x.abs())
    }

    fn map(&self, len: usize, f: impl Fn(f64) -> f64) -> Vec<f64> {
        let mut values: Vec<f64> = uniforms(self.seed).map(|u| f(self.spread.number(u))).take(len).collect();
        for (at, other) in self.others.iter().filter(|_| len > 0) {
            values[at.index(len)] = *other;
        }
        values
    }
}

/// Values at the border of what is legal, and beyond it.
fn other() -> impl Strategy<Value = f64> {
    const LEGAL: [f64; 10] =
        [f64::NEG_INFINITY, -0.0, 0.0, -5e-324, 5e-324, -f64::MIN_POSITIVE, -1e-45, -1e38, -1e300, f64::MIN];
    prop_oneof![
        4 => Just(f64::NEG_INFINITY),
        8 => prop::sample::select(&LEGAL[..]),
        1 => prop::sample::select(&[f64::NAN, f64::INFINITY, 1e-9, 9e-5, 1.1e-4, 1e38, f64::MAX][..]),
    ]
}

/// Numbers whose magnitudes lie within these powers of ten, but for the others.
pub fn numbers_within(low: f64, high: f64) -> impl Strategy<Value = Numbers> {
    let spread = prop_oneof![
        4 => (-2..4).prop_map(|power| Spread::Even(10f64.powi(power))),
        2 => Just(Spread::Magnitudes(low, high)),
        1 => Just(Spread::Magnitudes(-12.0, 2.8)),
        2 => (1..30u32).prop_map(Spread::Integers),
        1 => (1..30u32).prop_map(Spread::Mostly),
    ];
    let others = prop_oneof![1 => Just(Vec::new()), 1 => prop::collection::vec((any::<Index>(), other()), 0..4)];
    (any::<u64>(), spread, others).prop_map(|(seed, spread, others)| Numbers { seed, spread, others })
}

pub fn numbers() -> impl Strategy<Value = Numbers> {
    numbers_within(-320.0, 308.0)
}

/// A type that columns come in.
#[derive(Debug, Clone, Copy)]
pub enum Type {
    F32,
    F64,
    Bf16,
}

pub fn any_type() -> impl Strategy<Value = Type> {
    prop_oneof![Just(Type::F32), Just(Type::F64), Just(Type::Bf16)]
}

/// A type that an f64 can be cut down to.
pub trait Narrow: Real {
    fn narrow(x: f64) -> Self;
}

impl Narrow for f64 {
    fn narrow(x: f64) -> Self {
        x
    }
}

impl Narrow for f32 {
    fn narrow(x: f64) -> Self {
        x as Self
    }
}

impl Narrow for Bf16 {
    fn narrow(x: f64) -> Self {
        Self(((x as f32).to_bits() >> 16) as u16)
    }
}

pub fn narrow<T: Narrow>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&x| T::narrow(x)).collect()
}

pub fn wide<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| x.to_f64()).collect()
}

/// Call a function that is generic over the columns' type.
#[macro_export]
macro_rules! with_type {
    ($kind:expr, $function:ident($($argument:expr),*)) => {
        match $kind {
            $crate::inputs::Type::F32 => $function::<f32>($($argument),*),
            $crate::inputs::Type::F64 => $function::<f64>($($argument),*),
            $crate::inputs::Type::Bf16 => $function::<esscher_core::Bf16>($($argument),*),
        }
    };
}

/// A sum with what rounding took from it added back.
pub fn sum(terms: impl IntoIterator<Item = f64>) -> f64 {
    let (mut sum, mut lost) = (0.0f64, 0.0f64);
    for term in terms {
        let next = sum + term;
        lost += if sum.abs() >= term.abs() { (sum - next) + term } else { (term - next) + sum };
        sum = next;
    }
    if sum.is_finite() { sum + lost } else { sum }
}

/// `got` is `expected` to `tolerance` of `scale`, or both are the same infinity, or both NaN.
pub fn is_near(got: f64, expected: f64, tolerance: f64, scale: f64) -> bool {
    got == expected || (got.is_nan() && expected.is_nan()) || (got - expected).abs() <= tolerance * scale + 1e-300
}

/// Tokens drawn from a seed.
#[derive(Debug, Clone)]
pub struct Tokens {
    seed: u64,
    vocabulary: u32,
    stride: u32,
}

impl Tokens {
    pub fn take(&self, len: usize) -> Vec<u32> {
        let token = |u: f64| (f64::from(self.vocabulary) * u * u) as u32 * self.stride;
        uniforms(self.seed).map(token).take(len).collect()
    }
}

pub fn tokens() -> impl Strategy<Value = Tokens> {
    let vocabulary = prop_oneof![1 => Just(1u32), 4 => 2..6u32, 4 => 6..300u32, 2 => 300..100_000u32];
    (any::<u64>(), vocabulary, any::<bool>()).prop_map(|(seed, vocabulary, wide)| Tokens {
        seed,
        vocabulary,
        stride: if wide { u32::MAX / vocabulary } else { 1 },
    })
}

/// Weights of completions: of like size, of many sizes, small integers, many of them 0, and a few that are illegal.
pub fn weights() -> impl Strategy<Value = Numbers> {
    let spread = prop_oneof![
        4 => Just(Spread::Even(1.0)),
        2 => Just(Spread::Magnitudes(-3.0, 0.0)),
        1 => Just(Spread::Magnitudes(-9.0, 9.0)),
        3 => (1..5u32).prop_map(Spread::Integers),
    ];
    let other = prop::sample::select(&[0.0, -0.0, 0.0, 1e-30, f64::NAN, f64::INFINITY][..]);
    let others = prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec((any::<Index>(), other), 0..3)];
    (any::<u64>(), spread, others).prop_map(|(seed, spread, others)| Numbers { seed, spread, others })
}

impl Numbers {
    /// At least 0, but for the others.
    pub fn positive(&self, len: usize) -> Vec<f64> {
        self.map(len, f64::abs)
    }
}

/// Room for what the weights of each group say.
#[derive(Debug, Clone)]
pub struct Said {
    pub log_z: Vec<f64>,
    pub ess: Vec<f64>,
}

impl Said {
    pub fn of(groups: usize) -> Self {
        Self { log_z: vec![f64::NAN; groups], ess: vec![f64::NAN; groups] }
    }

    pub fn room(&mut self) -> Normaliser<'_> {
        Normaliser { log_z: &mut self.log_z, ess: &mut self.ess }
    }

    pub fn bits(&self) -> Vec<u64> {
        self.log_z.iter().chain(&self.ess).map(|x| x.to_bits()).collect()
    }
}

/// Cut `count` rows into groups at these places.
pub fn groups(cuts: &[Index], count: usize) -> Vec<i64> {
    let mut borders: Vec<i64> = cuts.iter().map(|cut| cut.index(count + 1) as i64).collect();
    borders.extend([0, count as i64]);
    borders.sort_unstable();
    borders
}

pub fn cuts() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 0..5)
}
