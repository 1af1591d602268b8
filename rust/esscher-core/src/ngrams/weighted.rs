//! Statistics of the n-grams of weighted completions.
//!
//! Every n-gram is seen, also those that occur once: each adds a term, and exact sums take terms in any order.

use super::{
    census::{Census, Tally, Window},
    count::count_groups,
    exact_sum::ExactSum,
    group::Group,
    subsets::{Polynomials, Subsets, add_all, add_weight, scale},
    summary::Summary,
};
use crate::{Masked, Offsets, Result, sum::sum};

/// The statistics of every group, by order; `M` is 0 where there is no `subsample`.
pub(super) fn count<const M: usize>(
    token_ids: Masked<'_, u32>,
    groups: &Offsets<'_>,
    weights: &[f64],
    orders: &[usize],
    last: usize,
    subsample: Option<usize>,
) -> Result<Vec<Vec<Summary>>> {
    let census = |group: &Group<'_>| Masses::<M>::new(group, orders, subsample);
    let finish = |group: &Group<'_>, masses: Masses<M>| {
        let chances = masses.chances(group);
        let of_order = |&order: &usize| masses.summary(group, order, &chances);
        orders.iter().map(of_order).collect()
    };
    count_groups(token_ids, groups, Some(weights), last, census, finish)
}

/// The weight of an n-gram's occurrences, and the polynomials of the weights of its rows.
#[derive(Clone, PartialEq)]
pub(super) struct Mass<const M: usize> {
    weight: f64,
    rows: Polynomials<M>,
    /// The last row with an occurrence, counted from 1.
    last: u32,
}

impl<const M: usize> Default for Mass<M> {
    fn default() -> Self {
        Self { weight: 0.0, rows: [0.0; M], last: 0 }
    }
}

impl<const M: usize> Tally for Mass<M> {
    fn note(&mut self, window: Window, group: &Group<'_>) {
        let row = window.row();
        let weight = group.weights()[row as usize];
        self.weight += weight;
        if row + 1 != self.last {
            add_weight(&mut self.rows, weight);
            self.last = row + 1;
        }
    }

    fn merge(&mut self, later: &Self) {
        self.weight += later.weight;
        add_all(&mut self.rows, &later.rows);
        self.last = self.last.max(later.last);
    }

    fn recurs(&self) -> bool {
        true
    }
}

/// Sums over the n-grams of one order.
#[derive(Default, Clone)]
struct OfOrder {
    order: usize,
    /// The weight of all occurrences.
    total: f64,
    different: ExactSum,
    entropy: ExactSum,
    included: ExactSum,
}

struct Masses<const M: usize> {
    /// At this scale, weights add up to the effective sample size.
    scale: f64,
    subsets: Option<Subsets>,
    orders: Vec<OfOrder>,
}

impl<const M: usize> Masses<M> {
    fn new(group: &Group<'_>, orders: &[usize], subsample: Option<usize>) -> Self {
        let weights = group.weights();
        let total = |order| sum(group.len(), |row| weights[row] * group.total_of(row, order) as f64);
        let of_order = |&order: &usize| OfOrder { order, total: total(order), ..OfOrder::default() };
        Self {
            scale: scale(weights),
            subsets: subsample.and_then(|m| Subsets::new(weights, m)),
            orders: orders.iter().map(of_order).collect(),
        }
    }

    /// For each row, the chance that it is in a sub-sample.
    fn chances(&self, group: &Group<'_>) -> Vec<f64> {
        let of = |subsets: &Subsets| group.weights().iter().map(|&weight| subsets.inclusion_of(weight)).collect();
        self.subsets.as_ref().map(of).unwrap_or_default()
    }

    fn summary(&self, group: &Group<'_>, order: usize, chances: &[f64]) -> Summary {
        let Some(counted) = self.orders.iter().find(|counted| counted.order == order && counted.total > 0.0) else {
            return Summary::NONE;
        };
        let expected = sum(chances.len(), |row| chances[row] * group.total_of(row, order) as f64);
        let rarefied = || (counted.included.total() / expected).min(1.0);
        Summary {
            distinct: (counted.different.total() / (self.scale * counted.total)).min(1.0),
            entropy: counted.entropy.total(),
            rarefied: if self.subsets.is_some() { rarefied() } else { f64::NAN },
        }
    }
}

impl OfOrder {
    fn add<const M: usize>(&mut self, ngram: &Mass<M>, scale: f64, subsets: Option<&Subsets>) {
        let share = ngram.weight / self.total;
        self.different.add((scale * ngram.weight).min(1.0));
        if share > 0.0 {
            self.entropy.add(share * share.ln().abs());
        }
        if let Some(subsets) = subsets {
            self.included.add(subsets.inclusion(&ngram.rows));
        }
    }
}

impl<const M: usize> Census for Masses<M> {
    type Tally = Mass<M>;

    fn count(&mut self, order: usize, _: impl Iterator<Item = Window>, tallies: &[Mass<M>]) {
        for counted in self.orders.iter_mut().filter(|counted| counted.order == order) {
            for ngram in tallies.iter().filter(|ngram| ngram.weight > 0.0) {
                counted.add(ngram, self.scale, self.subsets.as_ref());
            }
        }
    }

    fn merge(&mut self, other: Self) {
        for (counted, more) in self.orders.iter_mut().zip(&other.orders) {
            counted.different.merge(&more.different);
            counted.entropy.merge(&more.entropy);
            counted.included.merge(&more.included);
        }
    }
}
