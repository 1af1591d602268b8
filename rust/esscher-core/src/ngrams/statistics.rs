//! Statistics of a group's n-grams: distinct-n, entropy, and distinct-n of a sub-sample.

use super::{
    count::{check_weights, longest},
    plain, subsets,
    summary::Summary,
    weighted,
};
use crate::{Error, Masked, Offsets, Result};

/// For each order and group: first come all groups at the first order, then all at the second.
#[derive(Debug, Clone, PartialEq)]
pub struct NgramStatistics {
    /// Different n-grams over all n-grams.
    pub distinct: Vec<f64>,
    /// The entropy of the distribution of n-grams, in nats.
    pub entropy: Vec<f64>,
    /// Different n-grams over all n-grams, both expected, of some completions of the group; where that was asked for.
    pub rarefied: Option<Vec<f64>>,
}

/// Distinct-n, entropy, and, for a `subsample` of m completions, rarefied distinct-n of every group and order.
///
/// With c the count of an n-gram, d the number of completions that contain it, T the sum of c, and N completions:
///
/// - distinct: the number of different n-grams over T;
/// - entropy: `log T - sum c log c / T`;
/// - rarefied: m of the N completions are drawn without replacement; the expected number of different n-grams,
///   `sum 1 - C(N - d, m) / C(N, m)`, over the expected number of n-grams, `m T / N`. NaN if m exceeds N. (Hurlbert,
///   "The nonconcept of species diversity", Ecology 52(4), 1971, doi:10.2307/1934145; of whole samples: Colwell, Mao,
///   Chang, Ecology 85(10), 2004, doi:10.1890/03-0557.)
///
/// `weights`, one a completion, are made relative to their group. With weights w, and `mass = sum w c` of an n-gram:
///
/// - distinct: weights scaled by `sum w / sum w^2` add up to the effective sample size, and equal ones are 1; at that
///   scale, `sum min(1, mass) / sum mass`;
/// - entropy: that of `mass / sum mass`;
/// - rarefied: sets of m completions count by the product of their weights: `C(N - d, m) / C(N, m)` becomes the sum of
///   these products over all sets without the n-gram, over the sum over all sets. NaN if m exceeds the effective sample
///   size.
///
/// Equal weights give `distinct` as without them, to the last bit; completions of weight 0 are as if they were not
/// there. NaN for a group without n-grams, or without weight.
///
/// # Errors
/// If an order or `subsample` is 0, `subsample` exceeds 8 beside weights, a weight is negative or not finite, there is
/// not one for each completion, or a group has 2^32 tokens or more.
pub fn ngram_statistics<'a>(
    token_ids: impl Into<Masked<'a, u32>>,
    groups: &Offsets<'_>,
    orders: &[usize],
    weights: Option<&[f64]>,
    subsample: Option<usize>,
) -> Result<NgramStatistics> {
    let (token_ids, last) = (token_ids.into(), longest(orders)?);
    check_subsample(subsample, weights.is_some())?;
    let counted = match (weights, subsample) {
        (None, _) => plain::count(token_ids, groups, orders, last, subsample)?,
        (Some(weights), _) => {
            check_weights(weights, token_ids.len())?;
            let count = if subsample.is_none() { weighted::count::<0> } else { weighted::count::<{ subsets::MOST }> };
            count(token_ids, groups, weights, orders, last, subsample)?
        }
    };
    let column = |value: fn(&Summary) -> f64| {
        (0..orders.len()).flat_map(|i| counted.iter().map(move |group| value(&group[i]))).collect()
    };
    Ok(NgramStatistics {
        distinct: column(|said| said.distinct),
        entropy: column(|said| said.entropy),
        rarefied: subsample.map(|_| column(|said| said.rarefied)),
    })
}

fn check_subsample(subsample: Option<usize>, weighted: bool) -> Result<()> {
    let error = |m, rule| Err(Error::Range { name: "subsample", value: m as f64, rule });
    match subsample {
        Some(0) => error(0, "at least 1 completion"),
        Some(m) if weighted && m > subsets::MOST => error(m, "at most 8 completions where they have weights"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ragged, distinct};

    const TOKENS: [u32; 12] = [7, 7, 7, 5, 7, 7, 9, 7, 7, 5, 7, 7];
    const OFFSETS: [i64; 6] = [0, 5, 5, 8, 9, 12];

    fn rows() -> Ragged<'static, u32> {
        Ragged::new("offsets", &TOKENS, &OFFSETS).unwrap()
    }

    fn said(weights: Option<&[f64]>, subsample: Option<usize>) -> NgramStatistics {
        let groups = Offsets::new("groups", &[0, 4, 5, 5], 5).unwrap();
        ngram_statistics(rows(), &groups, &[2, 1], weights, subsample).unwrap()
    }

    fn near(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-14, "{got}, not {expected}");
    }

    #[test]
    fn of_a_few_tokens() {
        // Rows 77757, (empty), 797, 7: bigrams 77 77 75 57 | 79 97, tokens 7 seven times, 5 and 9 once.
        let got = said(None, Some(1));
        near(got.distinct[0], 5.0 / 6.0);
        near(got.entropy[0], 6f64.ln() - 2.0 * 2f64.ln() / 6.0);
        near(got.entropy[3], 9f64.ln() - 7.0 * 7f64.ln() / 9.0);
        // Of one completion: 3 + 0 + 2 + 0 different bigrams of 6, and 2 + 0 + 2 + 1 tokens of 9.
        let rarefied = got.rarefied.unwrap();
        near(rarefied[0], 5.0 / 6.0);
        near(rarefied[3], 5.0 / 9.0);
        assert!(got.distinct[2].is_nan() && got.entropy[2].is_nan() && rarefied[2].is_nan());
    }

    #[test]
    fn all_completions_are_no_subsample() {
        let groups = Offsets::new("groups", &[0, 4, 5, 5], 5).unwrap();
        let got = said(None, Some(4)).rarefied.unwrap();
        assert_eq!(got[0], distinct(rows(), &groups, &[2]).unwrap()[0]);
        assert!(got[1].is_nan());
    }

    #[test]
    fn equal_weights_and_none_are_the_same() {
        let (got, expected) = (said(Some(&[0.3; 5]), Some(2)), said(None, Some(2)));
        assert_eq!(got.distinct[..2], expected.distinct[..2]);
        near(got.entropy[3], expected.entropy[3]);
        near(got.rarefied.unwrap()[0], expected.rarefied.unwrap()[0]);
    }

    #[test]
    fn weights_are_relative_and_zero_leaves_out() {
        let got = said(Some(&[3.0, 0.0, 3.0, 0.0, 0.0]), Some(2));
        near(got.distinct[3], 3.0 / 8.0);
        near(got.rarefied.as_ref().unwrap()[3], 3.0 / 8.0);
        assert!(got.distinct[1].is_nan() && got.rarefied.unwrap()[1].is_nan());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let groups = Offsets::new("groups", &[0, 5], 5).unwrap();
        let message = |weights: Option<&[f64]>, subsample| {
            ngram_statistics(rows(), &groups, &[1], weights, subsample).unwrap_err().to_string()
        };
        assert!(message(None, Some(0)).contains("subsample is 0: it must be at least 1"));
        assert!(message(Some(&[1.0; 5]), Some(9)).contains("at most 8 completions where they have weights"));
        assert!(message(Some(&[1.0; 4]), None).contains("weights has 4 entries, token_ids has 5"));
        assert!(message(Some(&[1.0, -1.0, 1.0, 1.0, 1.0]), None).contains("weights[1] is -1"));
        assert!(message(Some(&[1.0, 1.0, f64::NAN, 1.0, 1.0]), None).contains("weights[2] is NaN"));
    }
}
