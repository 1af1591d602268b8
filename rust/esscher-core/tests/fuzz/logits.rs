//! Scores of tokens against a log-softmax in f64.

use proptest::prelude::*;
use proptest::sample::Index;

use esscher_core::{
    Bf16,
    token_scores::{Logit, Logits, TokenScores, token_scores},
};

use crate::inputs::{Narrow, config, is_near, len, narrow, numbers_within, sum, wide};

type Checked = std::result::Result<(), TestCaseError>;

fn are_logits(values: &[f64]) -> bool {
    values.iter().all(|x| !x.is_nan() && *x < f64::INFINITY)
}

/// The log-softmax of a row; `None` if it has none.
fn log_softmax(logits: &[f64]) -> Option<Vec<f64>> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = sum(logits.iter().map(|x| (x - max).exp())).ln();
    let legal = are_logits(logits) && max > f64::NEG_INFINITY;
    legal.then(|| logits.iter().map(|x| (x - max) - log_sum).collect())
}

/// The mean of `f(v)` under the distribution, where what cannot be counts nothing.
fn mean(log_probs: &[f64], f: impl Fn(usize) -> f64) -> f64 {
    sum((0..log_probs.len()).filter(|&v| log_probs[v] > f64::NEG_INFINITY).map(|v| log_probs[v].exp() * f(v)))
}

fn is_close(got: f32, expected: f64) -> bool {
    is_near(f64::from(got), f64::from(expected as f32), 1e-6, 1.0 + expected.abs())
}

/// Of the means of the log-probs, which is less than 1e-6 of the largest log-prob where some token is unlikely.
const KL_TOLERANCE: f64 = 5e-6;

/// Infinite where the policy can produce what the prior cannot, however unlikely it is.
fn plain_kl(l: &[f64], l0: &[f64]) -> f64 {
    let gone = |(l, l0): (&f64, &f64)| *l > f64::NEG_INFINITY && *l0 == f64::NEG_INFINITY;
    if l.iter().zip(l0).any(gone) { f64::INFINITY } else { mean(l, |v| l[v] - l0[v]) }
}

/// Beyond it, a log-prob of the prior is as good as impossible, and KL is only known to be large.
const FARTHEST: f64 = -1e9;

fn check_kl(got: f64, l: &[f64], l0: &[f64]) -> Checked {
    prop_assert!(got >= 0.0);
    if l0.iter().any(|l0| l0.is_finite() && *l0 < FARTHEST) {
        return Ok(());
    }
    let kl = plain_kl(l, l0);
    // A difference of two means keeps the digits of the means, each of which is a sum in f32.
    let scale = if kl.is_finite() { 1.0 - mean(l, |v| l[v]) - mean(l, |v| l0[v]) } else { 0.0 };
    prop_assert!(is_near(got, kl, KL_TOLERANCE, scale), "KL {}, not {}", got, kl);
    Ok(())
}

fn check_row(got: &TokenScores, i: usize, id: usize, l: &[f64], l0: Option<&[f64]>) -> Checked {
    prop_assert!(is_close(got.logprobs[i], l[id]), "log-prob {}, not {}", got.logprobs[i], l[id]);
    let entropy = -mean(l, |v| l[v]);
    prop_assert!(is_close(got.entropy[i], entropy), "entropy {}, not {}", got.entropy[i], entropy);
    prop_assert!(got.entropy[i] >= 0.0 && got.logprobs[i] <= 0.0);
    prop_assert_eq!(got.prior.is_some(), l0.is_some());
    if let (Some(got), Some(l0)) = (&got.prior, l0) {
        prop_assert!(is_close(got.logprobs[i], l0[id]), "prior log-prob {}, not {}", got.logprobs[i], l0[id]);
        check_kl(f64::from(got.kl[i]), l, l0)?;
    }
    Ok(())
}

#[derive(Debug)]
struct Models<'a> {
    policy: &'a [f64],
    prior: Option<&'a [f64]>,
    vocabulary: usize,
}

fn check<T: Narrow + Logit>(models: &Models<'_>, ids: &[i64]) -> Checked {
    let vocabulary = models.vocabulary;
    let (policy, prior) = (narrow::<T>(models.policy), models.prior.map(narrow::<T>));
    let logits = |values| Logits { values, vocabulary };
    let got = token_scores(logits(&policy), prior.as_deref().map(logits), ids);
    let rows = |values: &[T]| -> Option<Vec<_>> {
        (0..ids.len()).map(|i| log_softmax(&wide(&values[i * vocabulary..(i + 1) * vocabulary]))).collect()
    };
    let (l, l0) = (rows(&policy), prior.as_deref().map(rows));
    let ids_legal = ids.iter().all(|id| (0..vocabulary as i64).contains(id));
    prop_assert_eq!(got.is_ok(), ids_legal && l.is_some() && l0.as_ref().is_none_or(Option::is_some));
    let (Ok(got), Some(l)) = (got, l) else { return Ok(()) };
    for (i, &id) in ids.iter().enumerate() {
        check_row(&got, i, id as usize, &l[i], l0.iter().flatten().next().map(|l0| &l0[i][..]))?;
    }
    Ok(())
}

/// A prior that often is near the policy.
fn prior_of(policy: &[f64], prior: &[f64], near: Option<f64>) -> Vec<f64> {
    let close = |(x, y): (&f64, &f64)| near.map_or(*y, |share| x + share * (y - x).clamp(-1e9, 1e9));
    policy.iter().zip(prior).map(close).collect()
}

fn id() -> impl Strategy<Value = (Index, Option<i64>)> {
    let outside = prop::sample::select(&[-1, i64::MIN, i64::MAX, 1 << 32][..]);
    (any::<Index>(), prop_oneof![40 => Just(None), 1 => outside.prop_map(Some)])
}

proptest! {
    #![proptest_config(config(6_000))]

    #[test]
    fn scores_of_tokens(
        policy in numbers_within(-30.0, 8.0), prior in numbers_within(-30.0, 8.0),
        near in prop::option::of((-9..0).prop_map(|power| 10f64.powi(power))),
        vocabulary in len(), ids in prop::collection::vec(id(), 0..4), alone in any::<bool>(), halves in any::<bool>(),
    ) {
        let n = ids.len() * vocabulary;
        let (policy, prior) = (policy.take(n), prior.take(n));
        let prior = prior_of(&policy, &prior, near);
        let ids: Vec<i64> = ids.iter().map(|(at, outside)| outside.unwrap_or(at.index(vocabulary.max(1)) as i64)).collect();
        let models = Models { policy: &policy, prior: (!alone).then_some(&prior), vocabulary };
        // Logits are f32 or bfloat16.
        if halves { check::<Bf16>(&models, &ids)? } else { check::<f32>(&models, &ids)? }
    }

    #[test]
    fn logits_of_other_shapes_are_refused(
        rows in 0..4usize, vocabulary in 0..6usize, values in 0..12usize, prior in prop::option::of((0..12usize, 0..6usize)),
    ) {
        let policy = vec![0.5f32; values];
        let of = |values, vocabulary| Logits { values, vocabulary };
        let other = prior.map(|(len, vocabulary)| (vec![0.5f32; len], vocabulary));
        let got = token_scores(of(&policy, vocabulary), other.as_ref().map(|(v, n)| of(v, *n)), &vec![0; rows]);
        let fits = |len, n| len == rows * vocabulary && n == vocabulary;
        let legal = fits(values, vocabulary) && prior.is_none_or(|(len, n)| fits(len, n));
        prop_assert_eq!(got.is_ok(), legal && (rows == 0 || vocabulary > 0));
    }
}
