//! Importance weights, their tails, and draws by them.

use proptest::prelude::*;

use esscher_core::{
    Offsets,
    pareto::{self, TailRule},
    resample::resample,
    weights,
};

use crate::inputs::{Numbers, Said, config, is_near, lens, numbers, offsets, sum, uniforms};

type Checked = std::result::Result<(), TestCaseError>;

fn are_log_weights(values: &[f64]) -> bool {
    values.iter().all(|x| !x.is_nan() && *x < f64::INFINITY)
}

fn beta() -> impl Strategy<Value = f64> {
    prop_oneof![
        3 => Just(1.0),
        6 => (-3.0..3.0f64).prop_map(|power| 10f64.powf(power)),
        1 => prop::sample::select(
            &[0.0, -0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 5e-324, 1e300, 1e-300][..]
        ),
    ]
}

/// The exponents of a group's weights, relative to the largest, the weights, and what these add up to.
struct Plain {
    max: f64,
    exponents: Vec<f64>,
    weights: Vec<f64>,
    sum: f64,
    squares: f64,
}

impl Plain {
    fn new(values: &[f64], beta: f64) -> Self {
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exponents: Vec<f64> = values.iter().map(|x| if *x == max { 0.0 } else { (x - max) / beta }).collect();
        let weight = |(x, d): (&f64, &f64)| d.exp() * (1.0 + lost(*x, max, *d, beta));
        let weights: Vec<f64> = values.iter().zip(&exponents).map(weight).collect();
        let (sum, squares) = (sum(weights.iter().copied()), sum(weights.iter().map(|w| w * w)));
        Self { max, exponents, weights, sum, squares }
    }

    fn is_weightless(&self) -> bool {
        self.max == f64::NEG_INFINITY
    }

    fn check(&self, log_z: f64, ess: f64, beta: f64) -> Checked {
        let n = self.exponents.len() as f64;
        if self.is_weightless() {
            prop_assert_eq!((log_z, ess), (f64::NEG_INFINITY, 0.0));
            return Ok(());
        }
        let (scaled, log_mean) = (self.max / beta, (self.sum / n).ln());
        let scale = scaled.abs() + self.sum.ln() + n.ln() + 1.0;
        prop_assert!(is_near(log_z, scaled + log_mean, 1e-13, scale), "log Z {}, not {}", log_z, scaled + log_mean);
        let expected = self.sum * self.sum / self.squares;
        prop_assert!(is_near(ess, expected, 1e-12, expected), "ESS {}, not {}", ess, expected);
        prop_assert!(ess >= 1.0 - 1e-12 && ess <= n * (1.0 + 1e-12), "ESS {} of {}", ess, n);
        Ok(())
    }

    fn check_weights(&self, weights: &[f64]) -> Checked {
        for (i, ((&weight, relative), d)) in weights.iter().zip(&self.weights).zip(&self.exponents).enumerate() {
            let expected = if self.is_weightless() { 0.0 } else { relative / self.sum };
            // An exponent is rounded as a difference and as a quotient.
            let bound = 5e-14 + f64::EPSILON * d.abs();
            prop_assert!(is_near(weight, expected, bound, expected), "weight {}: {}, not {}", i, weight, expected);
        }
        let total = sum(weights.iter().copied());
        prop_assert!(is_near(total, if self.is_weightless() { 0.0 } else { 1.0 }, 1e-12, 1.0), "sum {}", total);
        Ok(())
    }

    fn check_log_weights(&self, log_weights: &[f64]) -> Checked {
        let others = self.exponents.iter().map(|d| d.exp()).filter(|w| *w < 1.0);
        let beyond_first = (self.sum - 1.0).max(sum(others));
        for (i, (&log_weight, d)) in log_weights.iter().zip(&self.exponents).enumerate() {
            let expected = if self.is_weightless() { f64::NEG_INFINITY } else { d - beyond_first.ln_1p() };
            prop_assert!(log_weight < f64::INFINITY);
            let scale = 1.0 + d.abs();
            prop_assert!(is_near(log_weight, expected, 1e-13, scale), "{}: {}, not {}", i, log_weight, expected);
        }
        Ok(())
    }
}

/// What `d = (x - max) / beta` lacks of the exact exponent.
fn lost(x: f64, max: f64, d: f64, beta: f64) -> f64 {
    if d == 0.0 || d.is_infinite() || !(x - max).is_finite() {
        return 0.0;
    }
    let difference = x - max;
    let back = difference - x;
    let rounded_off = (x - (difference - back)) - (max + back);
    let lost = ((-d).mul_add(beta, difference) + rounded_off) / beta;
    if lost.is_finite() { lost } else { 0.0 }
}

fn check_exponential(rewards: &[f64], beta: f64, borders: &[i64]) -> Checked {
    let groups = Offsets::new("groups", borders, rewards.len()).unwrap();
    let mut out = vec![f64::NAN; rewards.len()];
    let (mut got, mut alone) = (Said::of(groups.len()), Said::of(groups.len()));
    let result = weights::exponential(rewards, beta, &groups, &mut out, got.room());
    prop_assert_eq!(result.is_ok(), beta > 0.0 && beta < f64::INFINITY && are_log_weights(rewards));
    let result_alone = weights::normalise_only(rewards, beta, &groups, alone.room());
    prop_assert_eq!(result.is_ok(), result_alone.is_ok());
    if result.is_err() {
        return Ok(());
    }
    prop_assert_eq!(got.bits(), alone.bits());
    for g in 0..groups.len() {
        let plain = Plain::new(&rewards[groups.range(g)], beta);
        plain.check(got.log_z[g], got.ess[g], beta)?;
        plain.check_weights(&out[groups.range(g)])?;
    }
    Ok(())
}

fn check_normalised(log_ratios: &[f64], borders: &[i64]) -> Checked {
    let groups = Offsets::new("groups", borders, log_ratios.len()).unwrap();
    let mut out = vec![f64::NAN; log_ratios.len()];
    let mut got = Said::of(groups.len());
    let result = weights::normalise(log_ratios, &groups, &mut out, got.room());
    prop_assert_eq!(result.is_ok(), are_log_weights(log_ratios));
    if result.is_err() {
        return Ok(());
    }
    for g in 0..groups.len() {
        let plain = Plain::new(&log_ratios[groups.range(g)], 1.0);
        plain.check(got.log_z[g], got.ess[g], 1.0)?;
        plain.check_log_weights(&out[groups.range(g)])?;
    }
    Ok(())
}

fn check_tail(raw: &[f64], smoothed: &[f64], k: f64) -> Checked {
    prop_assert!(k < f64::INFINITY || k.is_nan(), "k is {}", k);
    let changed = raw.iter().zip(smoothed).filter(|(x, y)| x.to_bits() != y.to_bits()).count();
    prop_assert!(k.is_finite() || changed == 0, "k is {}, and {} are changed", k, changed);
    let n = raw.len() as f64;
    prop_assert!(changed as f64 <= (3.0 * n.sqrt()).min(n / 5.0).ceil(), "{} of {} are changed", changed, n);
    let max = raw.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    prop_assert!(smoothed.iter().all(|y| *y <= max), "above the maximum, {}: {:?}", max, smoothed);
    Ok(())
}

fn check_draws(log_weights: &[f64], draws: &[i64], uniforms: &[f64], first: usize) -> Checked {
    let plain = Plain::new(log_weights, 1.0);
    let weights: Vec<f64> = plain.exponents.iter().map(|d| d.exp() / plain.sum).collect();
    for (&draw, u) in draws.iter().zip(uniforms) {
        let drawn = draw as usize - first;
        prop_assert!(weights[drawn] > 0.0, "{} has no weight", draw);
        let below: f64 = weights[..drawn].iter().sum();
        let inside = below - 1e-12 <= *u && *u <= below + weights[drawn] + 1e-12;
        prop_assert!(inside, "{} of {}..{} is drawn for {}", draw, below, below + weights[drawn], u);
    }
    Ok(())
}

fn are_uniform(values: &[f64]) -> bool {
    values.iter().all(|u| (0.0..1.0).contains(u))
}

/// Uniforms, a few of them at the border or beyond.
fn some_uniforms() -> impl Strategy<Value = (u64, Option<(prop::sample::Index, f64)>)> {
    const BORDER: [f64; 8] = [0.0, -0.0, 5e-324, 1.0 - f64::EPSILON / 2.0, 1.0, -5e-324, f64::NAN, f64::INFINITY];
    (any::<u64>(), prop::option::of((any::<prop::sample::Index>(), prop::sample::select(&BORDER[..]))))
}

fn check_resampled(log_weights: &[f64], borders: &[i64], uniforms: &[f64]) -> Checked {
    let groups = Offsets::new("groups", borders, log_weights.len()).unwrap();
    let got = resample(log_weights, &groups, uniforms);
    let per_group = uniforms.len() / groups.len().max(1);
    let has_weight = |g| log_weights[groups.range(g)].iter().any(|w| *w > f64::NEG_INFINITY);
    let divides = per_group * groups.len() == uniforms.len();
    let legal = divides && are_uniform(uniforms) && are_log_weights(log_weights);
    prop_assert_eq!(got.is_ok(), legal && (0..groups.len()).all(has_weight));
    let Ok(got) = got else { return Ok(()) };
    prop_assert_eq!(got.len(), uniforms.len());
    for g in 0..groups.len() {
        let (range, part) = (groups.range(g), g * per_group..(g + 1) * per_group);
        check_draws(&log_weights[range.clone()], &got[part.clone()], &uniforms[part], range.start)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(4_000))]

    #[test]
    fn exponential_weights(rewards in numbers(), beta in beta(), lens in lens()) {
        check_exponential(&rewards.take(lens.iter().sum()), beta, &offsets(&lens))?;
    }

    #[test]
    fn normalised_weights(log_ratios in numbers(), lens in lens()) {
        check_normalised(&log_ratios.take(lens.iter().sum()), &offsets(&lens))?;
    }

    #[test]
    fn ratios(target in numbers(), proposal in numbers(), lens in (0..40usize, prop::option::of(0..40usize))) {
        let (n, other) = (lens.0, lens.1.unwrap_or(lens.0));
        let (target, proposal) = (target.take(n), proposal.take(other));
        let got = weights::log_ratios(&target, &proposal);
        let legal = are_log_weights(&target) && proposal.iter().all(|x| x.is_finite());
        prop_assert_eq!(got.is_ok(), n == other && legal);
        if let Ok(got) = got {
            prop_assert!((0..n).all(|i| got[i] == target[i] - proposal[i]));
        }
    }

    #[test]
    fn tails(log_ratios in numbers(), lens in lens(), loo in any::<bool>()) {
        let (log_ratios, borders) = (log_ratios.take(lens.iter().sum()), offsets(&lens));
        let groups = Offsets::new("groups", &borders, log_ratios.len()).unwrap();
        let mut smoothed = vec![f64::NAN; log_ratios.len()];
        let rule = if loo { TailRule::Loo } else { TailRule::ArvizStats };
        let got = pareto::smooth(&log_ratios, &groups, rule, &mut smoothed);
        prop_assert_eq!(got.is_ok(), are_log_weights(&log_ratios));
        for (g, &k) in got.iter().flatten().enumerate() {
            check_tail(&log_ratios[groups.range(g)], &smoothed[groups.range(g)], k)?;
        }
    }

    #[test]
    fn draws(
        log_weights in numbers(), lens in lens(), draws in 0..20usize, left in prop_oneof![9 => Just(0), 1 => 0..5usize],
        (seed, border) in some_uniforms(),
    ) {
        let n = lens.len() * draws + left;
        let mut uniforms: Vec<f64> = uniforms(seed).take(n).collect();
        if let Some((at, u)) = border.filter(|_| n > 0) {
            uniforms[at.index(n)] = u;
        }
        check_resampled(&Numbers::take(&log_weights, lens.iter().sum()), &offsets(&lens), &uniforms)?;
    }

    #[test]
    fn outputs_of_other_lengths_are_refused(values in numbers(), n in 0..20usize, other in 0..20usize) {
        let (values, borders) = (values.log_probs(n), [0, n as i64]);
        let legal = n == other && are_log_weights(&values);
        let groups = Offsets::new("groups", &borders, n).unwrap();
        let mut out = vec![0.0; other];
        let mut said = Said::of(1);
        let normalised = weights::normalise(&values, &groups, &mut out, said.room());
        prop_assert_eq!(normalised.is_ok(), legal);
        let exponential = weights::exponential(&values, 1.0, &groups, &mut out, said.room());
        prop_assert_eq!(exponential.is_ok(), legal);
        prop_assert_eq!(pareto::smooth(&values, &groups, TailRule::Loo, &mut out).is_ok(), legal);
    }
}
