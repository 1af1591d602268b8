use super::*;
use crate::simd;

/// log Z and ESS of each group.
type Got = (Vec<f64>, Vec<f64>);

fn got<T>(groups: &Offsets<'_>, work: impl FnOnce(Normaliser<'_>) -> Result<T>) -> Result<Got> {
    let (mut log_z, mut ess) = (vec![f64::NAN; groups.len()], vec![f64::NAN; groups.len()]);
    work(Normaliser { log_z: &mut log_z, ess: &mut ess }).map(|_| (log_z, ess))
}

fn weights(log_ratios: &[f64], offsets: &[i64]) -> (Vec<f64>, Got) {
    let mut out = vec![f64::NAN; log_ratios.len()];
    let groups = Offsets::new("groups", offsets, log_ratios.len()).unwrap();
    let got = got(&groups, |normaliser| normalise(log_ratios, &groups, &mut out, normaliser)).unwrap();
    (out, got)
}

fn of_one_group(log_ratios: &[f64]) -> (Vec<f64>, Got) {
    weights(log_ratios, &[0, log_ratios.len() as i64])
}

#[test]
fn many_equal_weights_keep_their_digits() {
    simd::paths::each(|| {
        let n = 1_000_003;
        let mut rewards = vec![-1.7; n];
        rewards[n / 3] = 0.0;
        let (mut weights, mut log_z, mut ess) = (vec![0.0; n], [0.0], [0.0]);
        let groups = [0, n as i64];
        let groups = Offsets::new("groups", &groups, n).unwrap();
        exponential(&rewards, 1.0, &groups, &mut weights, Normaliser { log_z: &mut log_z, ess: &mut ess }).unwrap();
        let (others, e) = ((n - 1) as f64, (-1.7f64).exp());
        let (sum, squares) = (1.0 + others * e, 1.0 + others * e * e);
        assert!((weights[n / 3] * sum - 1.0).abs() < 2e-15);
        assert!((ess[0] * squares / (sum * sum) - 1.0).abs() < 2e-15);
    });
}

#[test]
fn equal_weights_have_full_ess() {
    simd::paths::each(|| {
        let (log_weights, got) = of_one_group(&[1000.0; 4]);
        assert_eq!(got, (vec![1000.0], vec![4.0]));
        assert!(log_weights.iter().all(|w| (w - 0.25f64.ln()).abs() < 1e-15));
    });
}

#[test]
fn nothing_has_weight() {
    simd::paths::each(|| {
        for len in [0, 3, 5000] {
            let log_ratios = vec![f64::NEG_INFINITY; len];
            let (log_weights, got) = of_one_group(&log_ratios);
            assert_eq!(got, (vec![f64::NEG_INFINITY], vec![0.0]));
            assert_eq!(log_weights, log_ratios);
        }
    });
}

#[test]
fn one_dominates_by_far() {
    simd::paths::each(|| {
        let (log_weights, _) = of_one_group(&[0.0, -60.0]);
        assert_eq!(log_weights, [-(-60f64).exp(), -60.0]);
    });
}

#[test]
fn big_groups_are_like_small_ones() {
    simd::paths::each(|| {
        let n = 3 * BLOCK + 5;
        let rewards: Vec<f64> =
            (0..n).map(|i| ((i * 7919) % 1000) as f64 / 100.0 - if i < BLOCK { 90.0 } else { 0.0 }).collect();
        let groups = [0, n as i64];
        let groups = Offsets::new("groups", &groups, n).unwrap();
        let mut weights = vec![f64::NAN; n];
        let (log_z, ess) =
            got(&groups, |normaliser| exponential(&rewards, 0.25, &groups, &mut weights, normaliser)).unwrap();
        let max = rewards.iter().copied().fold(f64::MIN, f64::max);
        let expected: Vec<f64> = rewards.iter().map(|r| ((r - max) / 0.25).exp()).collect();
        let (sum, squares) = (expected.iter().sum::<f64>(), expected.iter().map(|w| w * w).sum::<f64>());
        let close = |a: f64, b: f64| assert!((a - b).abs() <= 1e-13 * b.abs(), "{a}, not {b}");
        close(log_z[0], max / 0.25 + (sum / n as f64).ln());
        close(ess[0], sum * sum / squares);
        weights.iter().zip(&expected).for_each(|(w, e)| close(*w, e / sum));
        let alone = got(&groups, |normaliser| normalise_only(&rewards, 0.25, &groups, normaliser));
        assert_eq!(alone, Ok((log_z, ess)));
    });
}

#[test]
fn groups_of_all_sizes() {
    simd::paths::each(|| {
        let sizes = [0, 1, 7, 8, 9, 0, 31, 2048, 2049, 16_000, 400, 5000, 3];
        let offsets: Vec<i64> = std::iter::once(0)
            .chain(sizes.iter().scan(0, |end, n| {
                *end += n;
                Some(*end)
            }))
            .collect();
        let n = *offsets.last().unwrap() as usize;
        let log_ratios: Vec<f64> = (0..n).map(|i| ((i * 31) % 101) as f64 / 10.0).collect();
        let (log_weights, got) = weights(&log_ratios, &offsets);
        for (g, pair) in offsets.windows(2).enumerate() {
            let (alone, one) = of_one_group(&log_ratios[pair[0] as usize..pair[1] as usize]);
            assert_eq!(log_weights[pair[0] as usize..pair[1] as usize], alone);
            assert_eq!((got.0[g], got.1[g]), (one.0[0], one.1[0]));
            assert!(alone.is_empty() || (alone.iter().map(|w| w.exp()).sum::<f64>() - 1.0).abs() < 1e-12);
        }
    });
}

#[test]
fn bad_values_are_named() {
    simd::paths::each(|| {
        for len in [3usize, 5000] {
            for bad in [f64::NAN, f64::INFINITY] {
                let mut rewards = vec![f64::NEG_INFINITY; len];
                rewards[len - 1] = bad;
                let offsets = [0, len as i64];
                let groups = Offsets::new("groups", &offsets, len).unwrap();
                let message = got(&groups, |normaliser| normalise_only(&rewards, 1.0, &groups, normaliser))
                    .unwrap_err()
                    .to_string();
                assert!(message.starts_with(&format!("rewards[{}] is ", len - 1)), "{message}");
            }
        }
        let groups = Offsets::new("groups", &[0, 0], 0).unwrap();
        for beta in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(got(&groups, |normaliser| normalise_only(&[], beta, &groups, normaliser)).is_err());
        }
    });
}

#[test]
fn proposals_must_be_able_to_propose() {
    let error = log_ratios(&[0.0, 0.0], &[-1.0, f64::NEG_INFINITY]).unwrap_err().to_string();
    assert!(error.starts_with("log_proposal[1] is -inf"), "{error}");
}
