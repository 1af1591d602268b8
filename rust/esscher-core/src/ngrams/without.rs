//! Distinct-n of all groups but one, for each.

use super::{
    census::{Census, Tally, Window},
    count::{count_rows, longest},
    group::Group,
};
use crate::{Masked, Offsets, Result};

/// Distinct-n of all rows but those of one group, for each group, in the time that it takes for all rows.
///
/// First come all groups at the first order, then all at the second. NaN where the others have no n-grams.
///
/// # Errors
/// If an order is 0, or there are 2^32 tokens or more.
pub fn distinct_without_each<'a>(
    token_ids: impl Into<Masked<'a, u32>>,
    groups: &Offsets<'_>,
    orders: &[usize],
) -> Result<Vec<f64>> {
    let (token_ids, last) = (token_ids.into(), longest(orders)?);
    groups.check_items("groups", token_ids.len())?;
    let of_row: Vec<u32> = (0..groups.len()).flat_map(|g| groups.range(g).map(move |_| g as u32)).collect();
    let census = |rows: &Group<'_>| Exclusive::new(&of_row, groups.len(), last.min(rows.longest()));
    let finish = |rows: &Group<'_>, exclusive: Exclusive<'_>| {
        orders.iter().flat_map(|&order| exclusive.without_each(rows, groups, order)).collect::<Vec<_>>()
    };
    count_rows(token_ids, None, last, census, finish)
}

/// The first and the last row that an n-gram is in, counted from 1: rows of a group lie side by side.
#[derive(Clone, Default, PartialEq)]
struct Ends {
    first: u32,
    last: u32,
    recurs: bool,
}

impl Tally for Ends {
    fn note(&mut self, window: Window, _: &Group<'_>) {
        let row = window.row() + 1;
        self.merge(&Self { first: row, last: row, recurs: false });
    }

    fn merge(&mut self, later: &Self) {
        if *later == Self::default() {
            return;
        }
        self.recurs = self.first > 0 || later.recurs;
        self.first = if self.first > 0 { self.first } else { later.first };
        self.last = later.last;
    }

    fn recurs(&self) -> bool {
        self.recurs
    }
}

/// How many n-grams occur in one group only.
///
/// N-grams that the census is not shown occur once. So it is enough to know how far those that it is shown fall short
/// of their occurrences.
struct Exclusive<'a> {
    of_row: &'a [u32],
    groups: usize,
    /// By order: for each group its exclusive n-grams less the occurrences of all n-grams there, of those shown; then
    /// the same for all groups together.
    balances: Vec<i64>,
}

impl<'a> Exclusive<'a> {
    fn new(of_row: &'a [u32], groups: usize, orders: usize) -> Self {
        Self { of_row, groups, balances: vec![0; (groups + 1) * orders] }
    }

    fn without_each(&self, rows: &Group<'_>, groups: &Offsets<'_>, order: usize) -> Vec<f64> {
        let total_of = |g: usize| groups.range(g).map(|row| rows.total_of(row, order) as i64).sum::<i64>();
        // Orders that no row is long enough for have no balances.
        let first = (order - 1).saturating_mul(self.groups + 1);
        let balance = |g: usize| self.balances.get(first.saturating_add(g)).copied().unwrap_or(0);
        let totals: Vec<i64> = (0..self.groups).map(total_of).collect();
        let total: i64 = totals.iter().sum();
        let different = total + balance(self.groups);
        let without = |g: usize| (different - totals[g] - balance(g)) as f64 / (total - totals[g]) as f64;
        (0..self.groups).map(without).collect()
    }
}

impl Census for Exclusive<'_> {
    type Tally = Ends;

    fn count(&mut self, order: usize, windows: impl Iterator<Item = Window>, tallies: &[Ends]) {
        let balances = &mut self.balances[(order - 1) * (self.groups + 1)..order * (self.groups + 1)];
        for window in windows {
            balances[self.of_row[window.row() as usize] as usize] -= 1;
            balances[self.groups] -= 1;
        }
        for ends in tallies {
            let [first, last] = [ends.first, ends.last].map(|row| self.of_row[row as usize - 1] as usize);
            balances[first] += i64::from(first == last);
        }
        balances[self.groups] += tallies.len() as i64;
    }

    fn merge(&mut self, other: Self) {
        self.balances.iter_mut().zip(other.balances).for_each(|(balance, more)| *balance += more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ragged;

    #[test]
    fn without_a_group_its_own_ngrams_are_missing() {
        // Tokens 5 5 | 6, and 6 7 | 8: without the first group 3 of 3 are different, without the second 2 of 3.
        let rows = Ragged::new("offsets", &[5, 5, 6, 6, 7, 8], &[0, 2, 3, 5, 6]).unwrap();
        let groups = Offsets::new("groups", &[0, 2, 4, 4], 4).unwrap();
        let got = distinct_without_each(rows, &groups, &[1, 2]).unwrap();
        assert_eq!(got, [1.0, 2.0 / 3.0, 4.0 / 6.0, 1.0, 1.0, 1.0]);
        let alone = Offsets::new("groups", &[0, 4], 4).unwrap();
        assert!(distinct_without_each(rows, &alone, &[1]).unwrap()[0].is_nan());
    }
}
