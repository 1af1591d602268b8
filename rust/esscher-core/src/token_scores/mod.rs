//! From logits over a vocabulary to what is asked of each token: its log-prob, the entropy, the exact KL.

use crate::{
    Bf16, Error, Real, Result, parallel,
    ragged::check_length,
    simd::{self, Kernel, Machine, exp_f32},
    vectors::{each, each_pair, load_f32},
};

/// What one model's logits say of each token, and how two models' differ; in nats.
///
/// Log-probs and entropies are within 1e-6 absolute or relative, whichever is more; a KL is within 5e-6 of 1 more than the
/// entropy and the cross-entropy that it is the difference of.
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

/// A number that logits are made of, which f32 holds exactly.
pub trait Logit: Real {}

impl Logit for f32 {}
impl Logit for Bf16 {}

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
/// If there is not one row of logits a token, a token is outside the vocabulary, a logit is NaN or `+inf`, or all logits
/// of a row are `-inf`.
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
            let rows: Vec<([f32; 2], [f32; 2])> = rows.into_iter().collect::<Result<_>>()?;
            Ok(TokenScores {
                logprobs: rows.iter().map(|row| row.0[0]).collect(),
                entropy: rows.iter().map(|row| row.0[1]).collect(),
                prior: Some(PriorScores {
                    logprobs: rows.iter().map(|row| row.1[0]).collect(),
                    kl: rows.iter().map(|row| row.1[1]).collect(),
                }),
            })
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

fn both_rows<T: Logit>(logits: &[T], prior: &[T], i: usize, token: usize) -> Result<([f32; 2], [f32; 2])> {
    let mut state = Pair::EMPTY;
    for (policy, prior) in logits.chunks(BLOCK).zip(prior.chunks(BLOCK)) {
        state = state.merge(&simd::dispatch(Both { policy, prior }));
    }
    state.policy.check("logits", i, logits)?;
    state.prior.check("prior_logits", i, prior)?;
    let policy = [state.policy.logprob(logits[token]), state.policy.entropy()];
    Ok((policy, [state.prior.logprob(prior[token]), state.kl(logits, prior)]))
}

/// Logits that the first-level cache holds, with the prior's: they are read twice, first for their maximum. Meanwhile
/// the next block is fetched.
const BLOCK: usize = 2048;
/// Below the maximum by so much, the exponential in f32 is 0, or as good as.
const LOWEST: f32 = -87.0;
/// Stands for a difference of `-inf` where that would make NaN of a product with 0.
const IMPOSSIBLE: f32 = f32::MIN;

/// Sums over a part of the vocabulary.
#[derive(Debug, Clone, Copy)]
struct Softmax {
    /// The largest logit.
    max: f32,
    /// Of `exp(logit - max)`.
    sum: f64,
    /// Of `exp(logit - max) (logit - max)`.
    weighted: f64,
}

impl Softmax {
    const EMPTY: Self = Self { max: f32::NEG_INFINITY, sum: 0.0, weighted: 0.0 };

    /// The same sums, relative to a maximum at least as large.
    fn relative_to(&self, max: f32) -> Self {
        if self.max == f32::NEG_INFINITY {
            // Nothing but traces of what is impossible, and of NaN, which stays.
            return Self { max, sum: 0.0 * self.sum, weighted: 0.0 * self.weighted };
        }
        let down = f64::from(self.max) - f64::from(max);
        let scale = down.exp();
        Self { max, sum: scale * self.sum, weighted: scale * (self.weighted + down * self.sum) }
    }

    fn merge(&self, other: &Self) -> Self {
        let max = self.max.max(other.max);
        let (left, right) = (self.relative_to(max), other.relative_to(max));
        Self { max, sum: left.sum + right.sum, weighted: left.weighted + right.weighted }
    }

    fn logprob<T: Logit>(&self, logit: T) -> f32 {
        ((logit.to_f64() - f64::from(self.max)) - self.sum.ln()) as f32
    }

    /// Rounding may leave a little less than 0 where one token has all the mass.
    fn entropy(&self) -> f32 {
        (self.sum.ln() - self.weighted / self.sum).max(0.0) as f32
    }

    fn check<T: Logit>(&self, name: &'static str, row: usize, logits: &[T]) -> Result<()> {
        if self.sum.is_finite() && self.max.abs() < f32::INFINITY {
            return Ok(());
        }
        let broken =
            logits.iter().map(|logit| logit.to_f64()).position(|logit| logit.is_nan() || logit == f64::INFINITY);
        Err(match broken {
            Some(column) => Error::Logit { name, row, column, value: logits[column].to_f64() },
            None => Error::NoToken { name, row },
        })
    }
}

/// Sums over a part of the vocabulary, for two models.
#[derive(Debug, Clone, Copy)]
struct Pair {
    policy: Softmax,
    prior: Softmax,
    /// Of `exp(policy logit - its max)` times the difference of the logits, each relative to its maximum.
    difference: f64,
    /// Whether a logit of the prior is `-inf`.
    prior_gone: bool,
}

impl Pair {
    const EMPTY: Self = Self { policy: Softmax::EMPTY, prior: Softmax::EMPTY, difference: 0.0, prior_gone: false };

    fn relative_to(&self, max: f32, prior_max: f32) -> Self {
        let (policy, prior) = (self.policy.relative_to(max), self.prior.relative_to(prior_max));
        if self.policy.max == f32::NEG_INFINITY {
            return Self { policy, prior, difference: 0.0 * self.difference, ..*self };
        }
        let down = f64::from(self.policy.max) - f64::from(max);
        let prior_possible = self.prior.max > f32::NEG_INFINITY;
        let prior_down = if prior_possible { f64::from(self.prior.max) - f64::from(prior_max) } else { 0.0 };
        let difference = down.exp() * (self.difference + (down - prior_down) * self.policy.sum);
        Self { policy, prior, difference, ..*self }
    }

    fn merge(&self, other: &Self) -> Self {
        let (max, prior_max) = (self.policy.max.max(other.policy.max), self.prior.max.max(other.prior.max));
        let (left, right) = (self.relative_to(max, prior_max), other.relative_to(max, prior_max));
        Self {
            policy: left.policy.merge(&right.policy),
            prior: left.prior.merge(&right.prior),
            difference: left.difference + right.difference,
            prior_gone: left.prior_gone || right.prior_gone,
        }
    }

    /// Infinite if the policy can produce what the prior cannot; else rounding alone could make it negative.
    fn kl<T: Logit>(&self, logits: &[T], prior: &[T]) -> f32 {
        let gone = |logit: &T| logit.to_f64() == f64::NEG_INFINITY;
        if self.prior_gone && logits.iter().zip(prior).any(|(l, l0)| gone(l0) && !gone(l)) {
            return f32::INFINITY;
        }
        (self.difference / self.policy.sum - self.policy.sum.ln() + self.prior.sum.ln()).max(0.0) as f32
    }
}

/// The largest of some logits, and the smallest.
#[inline(always)]
fn range<M: Machine, T: Logit>(m: M, logits: &[T]) -> (f32, f32) {
    let mut max = m.splat_f32s(f32::NEG_INFINITY);
    let mut min = m.splat_f32s(f32::INFINITY);
    let first = logits[0].to_f64() as f32;
    each(
        m,
        logits,
        #[inline(always)]
        |chunk| {
            let values = load_f32(m, chunk, first);
            max = m.max_f32s(values, max);
            min = m.min_f32s(values, min);
        },
    );
    (m.reduce_max_f32s(max), m.reduce_min_f32s(min))
}

/// What logits are relative to: their maximum, unless none is possible.
#[inline(always)]
fn reference(max: f32) -> f32 {
    if max == f32::NEG_INFINITY { 0.0 } else { max }
}

/// `x`, but at least `lowest`; NaN stays.
#[inline(always)]
fn at_least<M: Machine>(m: M, x: M::f32s, lowest: f32) -> M::f32s {
    let lowest = m.splat_f32s(lowest);
    m.select_f32s(m.less_than_f32s(x, lowest), lowest, x)
}

/// [`Softmax`] over a block.
struct Policy<'a, T>(&'a [T]);

impl<T: Logit> Kernel for Policy<'_, T> {
    type Output = Softmax;

    #[inline(always)]
    fn run<M: Machine>(self, m: M) -> Softmax {
        let (max, _) = range(m, self.0);
        let reference = m.splat_f32s(reference(max));
        let mut sums = [m.splat_f32s(0.0); 2];
        each(
            m,
            self.0,
            #[inline(always)]
            |logits| {
                simd::prefetch(logits, BLOCK);
                let x = at_least(m, m.sub_f32s(load_f32(m, logits, f32::NEG_INFINITY), reference), LOWEST);
                let exp = exp_f32(m, x);
                sums = [m.add_f32s(sums[0], exp), m.fma_f32(exp, x, sums[1])];
            },
        );
        Softmax { max, sum: total(m, sums[0]), weighted: total(m, sums[1]) }
    }
}

#[inline(always)]
fn total<M: Machine>(m: M, lanes: M::f32s) -> f64 {
    let [low, high] = m.widen(lanes);
    m.reduce_sum_f64s(m.add_f64s(low, high))
}

/// [`Pair`] over a block.
struct Both<'a, T> {
    policy: &'a [T],
    prior: &'a [T],
}

impl<T: Logit> Kernel for Both<'_, T> {
    type Output = Pair;

    #[inline(always)]
    fn run<M: Machine>(self, m: M) -> Pair {
        let ((max, _), (prior_max, prior_min)) = (range(m, self.policy), range(m, self.prior));
        let references = [m.splat_f32s(reference(max)), m.splat_f32s(reference(prior_max))];
        let mut sums = [m.splat_f32s(0.0); 4];
        each_pair(
            m,
            self.policy,
            self.prior,
            #[inline(always)]
            |policy, prior| {
                simd::prefetch(policy, BLOCK);
                simd::prefetch(prior, BLOCK);
                let x = load_f32(m, policy, f32::NEG_INFINITY);
                let y = load_f32(m, prior, f32::NEG_INFINITY);
                let x = at_least(m, m.sub_f32s(x, references[0]), LOWEST);
                let y = at_least(m, m.sub_f32s(y, references[1]), IMPOSSIBLE);
                let (exp, prior_exp) = (exp_f32(m, x), exp_f32(m, at_least(m, y, LOWEST)));
                // However small, it must not meet a difference as large as that of the impossible.
                let possible = m.select_f32s(m.equal_f32s(x, m.splat_f32s(LOWEST)), m.splat_f32s(0.0), exp);
                sums = [
                    m.add_f32s(sums[0], exp),
                    m.fma_f32(exp, x, sums[1]),
                    m.add_f32s(sums[2], prior_exp),
                    m.fma_f32(possible, m.sub_f32s(x, y), sums[3]),
                ];
            },
        );
        let [sum, weighted, prior_sum, difference] = sums;
        Pair {
            policy: Softmax { max, sum: total(m, sum), weighted: total(m, weighted) },
            prior: Softmax { max: prior_max, sum: total(m, prior_sum), weighted: 0.0 },
            difference: total(m, difference),
            prior_gone: prior_min == f32::NEG_INFINITY,
        }
    }
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
