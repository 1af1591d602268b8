//! Log-prob sums and KL estimators, and the columns they are read from.

use proptest::prelude::*;

use esscher_core::{
    Padded, Ragged, Result, Rows,
    kl::{self, Estimates, Level, Precision},
    logprobs,
    padded::Mask,
};

use crate::{
    inputs::{Narrow, Numbers, any_type, config, is_near, lens, narrow, numbers, offsets, sum, wide},
    with_type,
};

fn are_log_probs(values: &[f64]) -> bool {
    values.iter().all(|x| *x <= logprobs::ROUNDING)
}

/// Log-probs as they are read: what rounding left above 0 is 0.
fn as_read<T: Narrow>(values: &[T]) -> Vec<f64> {
    wide(values).into_iter().map(|x| if are_log_probs(&[x]) { x.min(0.0) } else { x }).collect()
}

/// `exp(-d) - 1 + d`: near 0 by its series, elsewhere as it stands.
fn k3(d: f64) -> f64 {
    if d == f64::NEG_INFINITY {
        return f64::INFINITY;
    }
    if d.abs() >= 0.5 {
        return (-d).exp_m1() + d;
    }
    let terms = std::iter::successors(Some((2.0, d * d / 2.0)), |&(n, term)| Some((n + 1.0, -term * d / (n + 1.0))));
    let terms: Vec<f64> = terms.take(25).map(|(_, term)| term).collect();
    terms.iter().rev().sum()
}

fn check_sums<T: Narrow>(values: &[f64], lens: &[usize]) -> std::result::Result<(), TestCaseError> {
    let (values, offsets) = (narrow::<T>(values), offsets(lens));
    let rows = Ragged::new("offsets", &values, &offsets).unwrap();
    let got = logprobs::aggregate("logprobs", &rows);
    prop_assert_eq!(got.is_ok(), are_log_probs(&wide(&values)));
    let Ok(got) = got else { return Ok(()) };
    for (i, &len) in lens.iter().enumerate() {
        let sum = sum(as_read(rows.row(i)));
        prop_assert!(is_near(got.log_prob[i], sum, 1e-12, sum.abs()), "row {}: {:?}, not {}", i, got, sum);
        prop_assert!(is_near(got.mean[i], sum / len as f64, 1e-12, sum.abs()));
        prop_assert_eq!(got.length[i], len as i64);
    }
    Ok(())
}

/// The four estimators of some log-ratios; `None` if they are undefined.
fn plain(d: &[f64]) -> Option<[f64; 4]> {
    let of_all = |f: fn(f64) -> f64| sum(d.iter().map(|&d| f(d)));
    let sums = [of_all(|d| d), of_all(|d| 0.5 * d * d), of_all(k3), of_all(f64::abs)];
    (!sums[0].is_nan()).then_some(sums)
}

fn row_of(estimates: &Estimates, i: usize) -> [f64; 4] {
    [estimates.k1[i], estimates.k2[i], estimates.k3[i], estimates.abs[i]]
}

fn check_row(got: [f64; 4], expected: [f64; 4], tolerances: [f64; 4], floor: f64) -> bool {
    let scales = [expected[3], expected[1], expected[2], expected[3]];
    let near =
        |i: usize| is_near(got[i], expected[i], tolerances[i], scales[i]) || (got[i] - expected[i]).abs() <= floor;
    (0..4).all(near) && got[1..].iter().all(|&x| x >= 0.0)
}

/// Whether finite log-ratios, or their squares, add up to more than f64 holds.
fn overflows(d: &[f64]) -> bool {
    let sum = |f: &dyn Fn(f64) -> f64| d.iter().filter(|d| d.is_finite()).map(|&d| f(d)).sum::<f64>();
    sum(&f64::abs) == f64::INFINITY || (sum(&|d| 0.5 * d * d) < f64::INFINITY && sum(&|d| d * d) == f64::INFINITY)
}

/// At token level, with both precisions.
fn check_tokens<T: Narrow>(policy: &[f64], prior: &[f64], lens: &[usize]) -> std::result::Result<(), TestCaseError> {
    let (policy, prior, offsets) = (narrow::<T>(policy), narrow::<T>(prior), offsets(lens));
    let rows = |values| Ragged::new("offsets", values, &offsets).unwrap();
    let (policy, prior) = (rows(&policy), rows(&prior));
    let by = |precision| kl::estimates(&policy, &prior, Level::Token, precision);
    let log_ratios =
        |i| as_read(policy.row(i)).iter().zip(as_read(prior.row(i))).map(|(l, l0)| l - l0).collect::<Vec<_>>();
    let expected: Option<Vec<[f64; 4]>> = (0..lens.len()).map(|i| plain(&log_ratios(i))).collect();
    let legal = [policy, prior].iter().all(|rows| are_log_probs(&wide(rows.values())));
    // What overflows does so in one order of addition and not in another.
    if legal && (0..lens.len()).any(|i| overflows(&log_ratios(i))) {
        return Ok(());
    }
    let exact = by(Precision::F64);
    prop_assert_eq!(exact.is_ok(), legal && expected.is_some());
    let mixed = by(Precision::Mixed);
    prop_assert_eq!(exact.is_ok(), mixed.is_ok());
    let (Ok(exact), Ok(mixed), Some(expected)) = (exact, mixed, expected) else { return Ok(()) };
    for (i, expected) in expected.iter().enumerate() {
        let (exact, mixed) = (row_of(&exact, i), row_of(&mixed, i));
        prop_assert!(check_row(exact, *expected, [1e-12; 4], 0.0), "row {}: {:?}, not {:?}", i, exact, expected);
        // f32 holds no square of what is below its square root.
        let floor = 1e-37 * lens[i] as f64;
        let bounds = [2e-7, 4e-7, MIXED_K3, 2e-7];
        prop_assert!(check_row(mixed, *expected, bounds, floor), "row {}, mixed: {:?}, not {:?}", i, mixed, expected);
    }
    Ok(())
}

/// What is documented of k3 in mixed precision.
const MIXED_K3: f64 = 4e-6;

fn check_sequences(policy: &[f64], prior: &[f64], lens: &[usize]) -> std::result::Result<(), TestCaseError> {
    let offsets = offsets(lens);
    let rows = |values| Ragged::new("offsets", values, &offsets).unwrap();
    let got = kl::estimates(&rows(policy), &rows(prior), Level::Sequence, Precision::F64);
    let sums = |values| logprobs::aggregate("logprobs", &rows(values)).map(|sums| sums.log_prob);
    let expected = sums(policy)
        .and_then(|l| Ok((l, sums(prior)?)))
        .ok()
        .and_then(|(l, l0)| l.iter().zip(&l0).map(|(l, l0)| plain(&[l - l0])).collect::<Option<Vec<_>>>());
    prop_assert_eq!(got.is_ok(), expected.is_some());
    let (Ok(got), Some(expected)) = (got, expected) else { return Ok(()) };
    for (i, expected) in expected.iter().enumerate() {
        prop_assert!(check_row(row_of(&got, i), *expected, [1e-12; 4], 0.0), "row {}: {:?}", i, got);
    }
    Ok(())
}

/// A prior that often is near the policy.
fn prior_of(policy: &[f64], prior: &[f64], near: Option<f64>) -> Vec<f64> {
    let close = |(l, l0): (&f64, &f64)| near.map_or(*l0, |share| l + share * (l0 - l).clamp(-1.0, 1.0));
    policy.iter().zip(prior).map(close).collect()
}

fn near() -> impl Strategy<Value = Option<f64>> {
    prop::option::of((-12..0).prop_map(|power| 10f64.powi(power)))
}

#[derive(Debug, Clone)]
enum MaskValues {
    Bytes(Vec<u8>),
    Integers(Vec<i64>),
    Lengths(Vec<i64>),
}

fn mask_values() -> impl Strategy<Value = MaskValues> {
    let lengths = prop_oneof![9 => 0..8i64, 1 => any::<i64>()];
    let integers = prop_oneof![40 => 0..2i64, 1 => prop::sample::select(&[-1, 2, 256, 1 << 32, i64::MIN][..])];
    let bytes = prop_oneof![40 => 0..2u8, 1 => 2..=255u8];
    prop_oneof![
        prop::collection::vec(bytes, 0..40).prop_map(MaskValues::Bytes),
        prop::collection::vec(integers, 0..40).prop_map(MaskValues::Integers),
        prop::collection::vec(lengths, 0..8).prop_map(MaskValues::Lengths),
    ]
}

/// What a mask says of each entry, if it says anything.
fn kept(mask: &MaskValues, rows: usize, width: usize) -> Option<Vec<Vec<bool>>> {
    let flags: Vec<i64> = match mask {
        MaskValues::Bytes(mask) => mask.iter().map(|&m| i64::from(m)).collect(),
        MaskValues::Integers(mask) => mask.clone(),
        MaskValues::Lengths(lengths) => {
            let legal = lengths.len() == rows && lengths.iter().all(|&len| (0..=width as i64).contains(&len));
            let row = |&len: &i64| (0..width as i64).map(|t| t < len).collect();
            return legal.then(|| lengths.iter().map(row).collect());
        }
    };
    let legal = flags.len() == rows * width && flags.iter().all(|m| (0..=1).contains(m));
    let row = |i: usize| flags[i * width..(i + 1) * width].iter().map(|&m| m == 1).collect();
    legal.then(|| (0..rows).map(row).collect())
}

fn read(values: &[f32], rows: usize, width: usize, mask: &MaskValues) -> Result<Vec<Vec<f32>>> {
    let mask = match mask {
        MaskValues::Bytes(mask) => Mask::Bytes(mask),
        MaskValues::Integers(mask) => Mask::Integers(mask),
        MaskValues::Lengths(lengths) => Mask::Lengths(lengths),
    };
    let padded = Padded::new("values", values, rows, width, mask)?;
    (0..rows).map(|i| padded.read(i, &mut Vec::new()).map(<[f32]>::to_vec)).collect()
}

proptest! {
    #![proptest_config(config(10_000))]

    #[test]
    fn offsets_are_accepted_if_they_rise_from_0_to_the_end(
        offsets in prop::collection::vec(prop_oneof![9 => 0..6i64, 1 => any::<i64>()], 0..6),
        sorted in any::<bool>(),
        len in 0..6usize,
    ) {
        let mut offsets = offsets;
        if sorted {
            offsets.sort_unstable();
        }
        let legal = offsets.first() == Some(&0) && offsets.is_sorted() && offsets.last() == Some(&(len as i64));
        let values: Vec<usize> = (0..len).collect();
        let rows = Ragged::new("offsets", &values, &offsets);
        prop_assert_eq!(rows.is_ok(), legal);
        if let Ok(rows) = rows {
            prop_assert!(rows.rows(0..rows.len()).flatten().eq(&values));
        }
    }

    #[test]
    fn masks_keep_what_they_say(
        mask in mask_values(), rows in 0..8usize, width in 0..8usize, fits in 0..8u8, huge in 0..50u8,
    ) {
        let fit = match &mask {
            MaskValues::Lengths(lengths) => (lengths.len(), width),
            MaskValues::Bytes(mask) if width > 0 => (mask.len() / width, width),
            MaskValues::Integers(mask) if width > 0 => (mask.len() / width, width),
            _ => (rows, width),
        };
        let (rows, width) = if fits > 0 { fit } else { (rows, width) };
        let values: Vec<f32> = (0..rows * width).map(|i| i as f32).collect();
        let expected = kept(&mask, rows, width).map(|kept| {
            let row = |(i, kept): (usize, &Vec<bool>)| {
                (0..width).filter(|&t| kept[t]).map(|t| values[i * width + t]).collect::<Vec<_>>()
            };
            kept.iter().enumerate().map(row).collect::<Vec<_>>()
        });
        prop_assert_eq!(read(&values, rows, width, &mask).ok(), expected);
        if huge == 0 {
            prop_assert!(read(&values, usize::MAX, width + 1, &mask).is_err());
        }
    }
}

proptest! {
    #![proptest_config(config(4_000))]

    #[test]
    fn log_probs_add_up(values in numbers(), lens in lens(), kind in any_type()) {
        let values = values.log_probs(lens.iter().sum());
        with_type!(kind, check_sums(&values, &lens))?;
    }

    #[test]
    fn estimators_of_tokens(
        policy in numbers(), prior in numbers(), near in near(), lens in lens(), kind in any_type(),
    ) {
        let draw = |numbers: &Numbers| numbers.log_probs(lens.iter().sum());
        let policy = draw(&policy);
        let prior = prior_of(&policy, &draw(&prior), near);
        with_type!(kind, check_tokens(&policy, &prior, &lens))?;
    }

    #[test]
    fn estimators_of_sequences(policy in numbers(), prior in numbers(), near in near(), lens in lens()) {
        let draw = |numbers: &Numbers| numbers.log_probs(lens.iter().sum());
        let policy = draw(&policy);
        let prior = prior_of(&policy, &draw(&prior), near);
        check_sequences(&policy, &prior, &lens)?;
    }

    #[test]
    fn rows_of_other_lengths_are_refused(left in lens(), right in lens(), sequence in any::<bool>()) {
        let level = if sequence { Level::Sequence } else { Level::Token };
        let values = |lens: &[usize]| vec![-1.0f32; lens.iter().sum()];
        let (policy, prior, borders) = (values(&left), values(&right), (offsets(&left), offsets(&right)));
        let policy = Ragged::new("offsets", &policy, &borders.0).unwrap();
        let prior = Ragged::new("offsets", &prior, &borders.1).unwrap();
        let got = kl::estimates(&policy, &prior, level, Precision::Mixed);
        prop_assert_eq!(got.is_ok(), left == right);
    }
}
