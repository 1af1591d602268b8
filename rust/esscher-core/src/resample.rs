//! Draws from weighted completions (Douc, Cappé, Moulines, "Comparison of resampling schemes for particle filtering",
//! ISPA 2005, arXiv:cs/0507025).

use crate::{Error, Offsets, Result, parallel, ragged::check_length, vectors::largest, weights};

/// For every uniform the index of the completion whose share of its group's weight it falls into.
///
/// `uniforms` holds the same number of values in [0, 1) for every group, in group order; what they are makes the
/// scheme: independent (multinomial), one per stratum (stratified), or equally spaced (systematic). Indices count over
/// all completions. A completion without weight is never drawn.
///
/// # Errors
/// If a log-weight is NaN or `+inf`, a uniform is outside [0, 1), the uniforms do not divide evenly among the groups,
/// or a group has no weight.
pub fn resample(log_weights: &[f64], groups: &Offsets<'_>, uniforms: &[f64]) -> Result<Vec<i64>> {
    groups.check_items("groups", log_weights.len())?;
    weights::check("log_weights", log_weights)?;
    if let Some(index) = uniforms.iter().position(|u| !(0.0..1.0).contains(u)) {
        return Err(Error::Uniform { index, value: uniforms[index] });
    }
    let per_group = uniforms.len() / groups.len().max(1);
    check_length("uniforms", uniforms.len(), "groups times draws", per_group * groups.len())?;
    let draws: Vec<Vec<i64>> = parallel::map(groups.len(), |group| {
        let range = groups.range(group);
        let first = range.start as i64;
        let cumulative = cumulative(&log_weights[range]).ok_or(Error::Weightless { group })?;
        let uniforms = &uniforms[group * per_group..(group + 1) * per_group];
        Ok(uniforms.iter().map(|&u| first + pick(&cumulative, u) as i64).collect())
    })
    .into_iter()
    .collect::<Result<_>>()?;
    Ok(draws.concat())
}

/// Running sums of the weights over the largest; `None` if nothing has weight.
fn cumulative(log_weights: &[f64]) -> Option<Vec<f64>> {
    let max = largest(log_weights);
    (max > f64::NEG_INFINITY).then(|| {
        let mut total = 0.0;
        log_weights
            .iter()
            .map(|w| {
                total += (w - max).exp();
                total
            })
            .collect()
    })
}

/// The first index whose running sum exceeds `u` of the total, hence one with weight.
fn pick(cumulative: &[f64], u: f64) -> usize {
    let total = cumulative[cumulative.len() - 1];
    let drawn = cumulative.partition_point(|&c| c <= u * total);
    // u * total may round up to the total: then it falls to the last completion that adds to it.
    drawn.min(cumulative.partition_point(|&c| c < total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(log_weights: &[f64], uniforms: &[f64]) -> Result<Vec<i64>> {
        let offsets = [0, log_weights.len() as i64];
        resample(log_weights, &Offsets::new("groups", &offsets, log_weights.len()).unwrap(), uniforms)
    }

    #[test]
    fn weightless_completions_are_never_drawn() {
        let gone = f64::NEG_INFINITY;
        let got = draw(&[gone, 0.0, gone, 3f64.ln(), gone], &[0.0, 0.249, 0.251, 1.0 - f64::EPSILON / 2.0]);
        assert_eq!(got, Ok(vec![1, 1, 3, 3]));
        assert_eq!(draw(&[gone], &[0.5]), Err(Error::Weightless { group: 0 }));
    }

    #[test]
    fn groups_are_drawn_from_separately() {
        let groups = Offsets::new("groups", &[0, 1, 3], 3).unwrap();
        assert_eq!(resample(&[-1.0, 0.0, 0.0], &groups, &[0.1, 0.9, 0.1, 0.9]), Ok(vec![0, 0, 1, 2]));
        assert!(resample(&[-1.0, 0.0, 0.0], &groups, &[0.1, 0.9, 0.1]).is_err());
    }
}
