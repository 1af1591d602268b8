//! Statistics of n-grams without weights, from histograms of their counts, in integers.

use super::{
    census::{Census, Tally, Window},
    count::count_groups,
    group::Group,
    histogram::Histogram,
    subsets::inclusion,
    summary::Summary,
};
use crate::{Masked, Offsets, Result};

/// The statistics of every group, by order.
pub(super) fn count(
    token_ids: Masked<'_, u32>,
    groups: &Offsets<'_>,
    orders: &[usize],
    last: usize,
    subsample: Option<usize>,
) -> Result<Vec<Vec<Summary>>> {
    let finish = |group: &Group<'_>, counted: Spreads| {
        orders.iter().map(|&order| counted.summary(group, order, subsample)).collect()
    };
    count_groups(token_ids, groups, None, last, |_| Spreads::default(), finish)
}

/// How often an n-gram occurs, and in how many rows.
#[derive(Clone, Default, PartialEq)]
struct Spread {
    count: u32,
    rows: u32,
    /// The last row with an occurrence, counted from 1.
    last: u32,
}

impl Tally for Spread {
    fn note(&mut self, window: Window, _: &Group<'_>) {
        let row = window.row() + 1;
        self.count += 1;
        self.rows += u32::from(row != self.last);
        self.last = row;
    }

    fn merge(&mut self, later: &Self) {
        self.count += later.count;
        self.rows += later.rows;
    }

    fn recurs(&self) -> bool {
        self.count > 1
    }
}

/// Of the n-grams of one order that recur: how many have which count, and are in how many rows.
#[derive(Default)]
struct OfOrder {
    counts: Histogram,
    rows: Histogram,
}

/// By order from 1.
#[derive(Default)]
struct Spreads(Vec<OfOrder>);

impl Spreads {
    fn at(&mut self, order: usize) -> &mut OfOrder {
        if self.0.len() < order {
            self.0.resize_with(order, OfOrder::default);
        }
        &mut self.0[order - 1]
    }

    fn summary(&self, group: &Group<'_>, order: usize, subsample: Option<usize>) -> Summary {
        let total = group.total(order) as f64;
        if total == 0.0 {
            return Summary::NONE;
        }
        let none = OfOrder::default();
        let counted = self.0.get(order - 1).unwrap_or(&none);
        let counts = counted.counts.sorted();
        let recurring: u64 = counts.iter().map(|&(_, ngrams)| ngrams).sum();
        let occurrences: u64 = counts.iter().map(|&(count, ngrams)| u64::from(count) * ngrams).sum();
        let once = total - occurrences as f64;
        let product = |&(count, ngrams): &(u32, u64)| ngrams as f64 * f64::from(count) * f64::from(count).ln();
        let rarefied = |m| counted.rarefied(group.len(), m, once, total);
        Summary {
            distinct: (recurring as f64 + once) / total,
            entropy: (total.ln() - counts.iter().map(product).sum::<f64>() / total).max(0.0),
            rarefied: subsample.map_or(f64::NAN, rarefied),
        }
    }
}

impl OfOrder {
    /// Distinct-n of `m` of `rows` completions; `once` n-grams occur once, and `total` in all.
    fn rarefied(&self, rows: usize, m: usize, once: f64, total: f64) -> f64 {
        if m > rows {
            return f64::NAN;
        }
        let expected = |&(of, ngrams): &(u32, u64)| ngrams as f64 * inclusion(rows, of as usize, m);
        let different = self.rows.sorted().iter().map(expected).sum::<f64>() + once * inclusion(rows, 1, m);
        (different / (inclusion(rows, 1, m) * total)).min(1.0)
    }
}

impl Census for Spreads {
    type Tally = Spread;

    fn count(&mut self, order: usize, _: impl Iterator<Item = Window>, tallies: &[Spread]) {
        let counted = self.at(order);
        for spread in tallies.iter().filter(|spread| spread.recurs()) {
            counted.counts.add(spread.count);
            counted.rows.add(spread.rows);
        }
    }

    fn merge(&mut self, other: Self) {
        for (order, more) in (1..).zip(&other.0) {
            let counted = self.at(order);
            counted.counts.merge(&more.counts);
            counted.rows.merge(&more.rows);
        }
    }
}
