//! From logits over a vocabulary to what is asked of each token: its log-prob, the entropy, the exact KL.

mod softmax;

pub use softmax::Logit;

use crate::{Error, Result, parallel, ragged::check_length, simd};
use softmax::{BLOCK, Both, Pair, Policy, Softmax};

/// Log-prob and entropy of each token under one model and, with the prior's logits, the KL between the two; in nats.
///
/// Log-probs and entropies are within 1e-6 absolute or relative, whichever is more; a KL is within 5e-6 of 1 more than
/// the entropy and the cross-entropy that it is the difference of.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenScores {
    /// The log-prob of the token.
    pub logprobs: Vec<f32>,
    /// The entropy of the distribution that the token was drawn from.
    pub entropy: Vec<f32>,
    /// The log-prob of the token under the prior, and KL(policy || prior) over the vocabulary.
    pub prior: Option<PriorScores>,
}

/// What the prior's logits add to [`TokenScores`].
#[derive(Debug, Clone, PartialEq)]
pub struct PriorScores {
    /// The log-prob of the token under the prior.
    pub logprobs: Vec<f32>,
    /// `sum_v policy(v) (log policy(v) - log prior(v))`.
    pub kl: Vec<f32>,
}

/// Logits of one model, one row of the vocabulary's size per token.
#[derive(Debug, Clone, Copy)]
pub struct Logits<'a, T> {
    /// All rows, one after the other.
    pub values: &'a [T],
    /// The vocabulary's size.
    pub vocabulary: usize,
}

impl<'a, T> Logits<'a, T> {
    fn row(&self, i: usize) -> &'a [T] {
        &self.values[i * self.vocabulary..(i + 1) * self.vocabulary]
    }
}

/// Score every token, reading each logit once.
///
/// # Errors
/// If there is not one row of logits a token, a token is outside the vocabulary, a logit is NaN or `+inf`, or all
/// logits of a row are `-inf`.
pub fn token_scores<T: Logit>(
    logits: Logits<'_, T>,
    prior_logits: Option<Logits<'_, T>>,
    token_ids: &[i64],
) -> Result<TokenScores> {
    check_length(
        "logits",
        logits.values.len(),
        "token_ids times vocabulary",
        token_ids.len().saturating_mul(logits.vocabulary),
    )?;
    if let Some(prior) = prior_logits {
        check_length("the vocabulary of prior_logits", prior.vocabulary, "that of logits", logits.vocabulary)?;
        check_length("prior_logits", prior.values.len(), "logits", logits.values.len())?;
    }
    if let Some(index) = token_ids.iter().position(|id| !(0..logits.vocabulary as i64).contains(id)) {
        return Err(Error::TokenId { index, value: token_ids[index], vocabulary: logits.vocabulary });
    }
    match prior_logits {
        None => {
            let rows = parallel::map(token_ids.len(), |i| policy_row(logits.row(i), i, token_ids[i] as usize));
            let (logprobs, entropy) = rows.into_iter().collect::<Result<_>>()?;
            Ok(TokenScores { logprobs, entropy, prior: None })
        }
        Some(prior) => {
            let rows =
                parallel::map(token_ids.len(), |i| both_rows(logits.row(i), prior.row(i), i, token_ids[i] as usize));
            let ((logprobs, entropy), (of_prior, kl)) = rows.into_iter().collect::<Result<_>>()?;
            Ok(TokenScores { logprobs, entropy, prior: Some(PriorScores { logprobs: of_prior, kl }) })
        }
    }
}

fn policy_row<T: Logit>(logits: &[T], i: usize, token: usize) -> Result<(f32, f32)> {
    let mut state = Softmax::EMPTY;
    for block in logits.chunks(BLOCK) {
        state = state.merge(&simd::dispatch(Policy(block)));
    }
    state.check("logits", i, logits)?;
    Ok((state.logprob(logits[token]), state.entropy()))
}

fn both_rows<T: Logit>(logits: &[T], prior: &[T], i: usize, token: usize) -> Result<((f32, f32), (f32, f32))> {
    let mut state = Pair::EMPTY;
    for (policy, prior) in logits.chunks(BLOCK).zip(prior.chunks(BLOCK)) {
        state = state.merge(&simd::dispatch(Both { policy, prior }));
    }
    state.policy.check("logits", i, logits)?;
    state.prior.check("prior_logits", i, prior)?;
    let policy = (state.policy.logprob(logits[token]), state.policy.entropy());
    Ok((policy, (state.prior.logprob(prior[token]), state.kl(logits, prior))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCABULARY: usize = 5003;

    fn logits(rows: usize, scale: f64, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        std::iter::repeat_with(uniform).map(|u| (scale * (u - 0.5)) as f32 + 3.0).take(rows * VOCABULARY).collect()
    }

    fn exact(logits: &[f32]) -> Vec<f64> {
        let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let log_sum = logits.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln();
        logits.iter().map(|&x| f64::from(x) - max - log_sum).collect()
    }

    /// With 0 log 0 = 0.
    fn expectation(log_probs: &[f64], f: impl Fn(usize) -> f64) -> f64 {
        (0..log_probs.len()).filter(|&v| log_probs[v] > f64::NEG_INFINITY).map(|v| log_probs[v].exp() * f(v)).sum()
    }

    fn score<T: Logit>(policy: &[T], prior: &[T], ids: &[i64]) -> Result<TokenScores> {
        let of = |values| Logits { values, vocabulary: VOCABULARY };
        token_scores(of(policy), Some(of(prior)), ids)
    }

    #[test]
    fn scores_are_those_of_log_softmax() {
        simd::paths::each(|| {
            for scale in [0.01, 3.0, 60.0, 2000.0] {
                let (policy, mut prior) = (logits(2, scale, 1), logits(2, scale, 2));
                prior.iter_mut().zip(&policy).for_each(|(y, x)| *y = 0.9 * x + 0.1 * *y);
                let ids = [0, (VOCABULARY - 1) as i64];
                let got = score(&policy, &prior, &ids).unwrap();
                let prior_got = got.prior.unwrap();
                for (i, &id) in ids.iter().enumerate() {
                    let row = i * VOCABULARY..(i + 1) * VOCABULARY;
                    let (l, l0) = (exact(&policy[row.clone()]), exact(&prior[row]));
                    let near = |got: f32, exact: f64, what: &str| {
                        let error = (f64::from(got) - exact).abs();
                        assert!(error <= 1e-6 * exact.abs().max(1.0), "{what} at scale {scale}: {got}, not {exact}");
                    };
                    near(got.logprobs[i], l[id as usize], "log-prob");
                    near(prior_got.logprobs[i], l0[id as usize], "prior log-prob");
                    near(got.entropy[i], -expectation(&l, |v| l[v]), "entropy");
                    near(prior_got.kl[i], expectation(&l, |v| l[v] - l0[v]), "KL");
                }
            }
        });
    }

    #[test]
    fn impossible_tokens() {
        simd::paths::each(|| {
            let gone = f32::NEG_INFINITY;
            let mut policy = logits(1, 3.0, 1);
            let mut prior = policy.clone();
            policy[..4000].fill(gone);
            prior[..3000].fill(gone);
            let got = score(&policy, &prior, &[7]).unwrap();
            let kl = got.prior.unwrap().kl[0];
            assert_eq!(got.logprobs, [gone]);
            let (l, l0) = (exact(&policy), exact(&prior));
            assert!((f64::from(kl) - expectation(&l, |v| l[v] - l0[v])).abs() < 1e-6);
            // The other way round the policy can produce what the prior cannot.
            assert_eq!(score(&prior, &policy, &[7]).unwrap().prior.unwrap().kl, [f32::INFINITY]);
        });
    }

    #[test]
    fn one_model_alone_scores_the_same() {
        simd::paths::each(|| {
            let (policy, prior) = (logits(3, 8.0, 1), logits(3, 8.0, 2));
            let alone = token_scores(Logits { values: &policy, vocabulary: VOCABULARY }, None, &[1, 2, 3]).unwrap();
            let both = score(&policy, &prior, &[1, 2, 3]).unwrap();
            assert_eq!((alone.logprobs, alone.entropy), (both.logprobs, both.entropy));
        });
    }

    #[test]
    fn masks_of_very_low_logits_are_like_minus_infinity() {
        simd::paths::each(|| {
            let mut policy = logits(1, 3.0, 1);
            let mut prior = logits(1, 3.0, 2);
            policy[100..4900].fill(f32::MIN);
            prior[100..4900].fill(f32::MIN);
            let low = score(&policy, &prior, &[7]).unwrap();
            policy[100..4900].fill(f32::NEG_INFINITY);
            prior[100..4900].fill(f32::NEG_INFINITY);
            assert_eq!(score(&policy, &prior, &[7]).unwrap(), low);
        });
    }

    #[test]
    fn nan_is_found_where_the_policy_has_nothing() {
        simd::paths::each(|| {
            let mut policy = logits(1, 3.0, 1);
            policy[BLOCK..2 * BLOCK].fill(f32::NEG_INFINITY);
            let mut broken = logits(1, 3.0, 2);
            broken[BLOCK + 7] = f32::NAN;
            let message = score(&policy, &broken, &[0]).unwrap_err().to_string();
            assert!(message.starts_with("prior_logits[0, 2055] is NaN"), "{message}");
            policy[BLOCK + 7] = f32::NAN;
            let message = score(&policy, &policy, &[0]).unwrap_err().to_string();
            assert!(message.starts_with("logits[0, 2055] is NaN"), "{message}");
        });
    }

    #[test]
    fn bad_logits_are_named() {
        simd::paths::each(|| {
            let good = logits(2, 3.0, 1);
            for bad in [f32::NAN, f32::INFINITY] {
                let mut logits = good.clone();
                logits[VOCABULARY + 4999] = bad;
                let message = score(&logits, &good, &[0, 0]).unwrap_err().to_string();
                assert!(message.starts_with("logits[1, 4999] is "), "{message}");
                let message = score(&good, &logits, &[0, 0]).unwrap_err().to_string();
                assert!(message.starts_with("prior_logits[1, 4999] is "), "{message}");
            }
            let none = vec![f32::NEG_INFINITY; 2 * VOCABULARY];
            assert_eq!(score(&good, &none, &[0, 0]), Err(Error::NoToken { name: "prior_logits", row: 0 }));
            let id = VOCABULARY as i64;
            assert_eq!(
                score(&good, &good, &[0, id]),
                Err(Error::TokenId { index: 1, value: id, vocabulary: VOCABULARY })
            );
            assert!(score(&good, &good[..VOCABULARY], &[0, 0]).is_err());
        });
    }
}
