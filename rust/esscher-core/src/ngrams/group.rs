//! The rows that are counted together.

use std::ops::Range;

use crate::{Error, Offsets, Ragged, Result};

/// The rows of one group. Places in it are counted from its first token, in 32 bits.
#[derive(Default)]
pub(super) struct Group<'a> {
    tokens: &'a [u32],
    /// Where each row ends.
    ends: Vec<u32>,
    /// The weight of each row over the largest of the group; none where rows are not weighted.
    weights: Vec<f64>,
}

impl<'a> Group<'a> {
    /// Replace the rows; the memory is reused.
    pub(super) fn set(&mut self, token_ids: &Ragged<'a, u32>, rows: Range<usize>, weights: Option<&[f64]>) {
        let span = span(token_ids, &rows);
        self.weights.clear();
        if let Some(weights) = weights.map(|weights| &weights[rows.clone()]) {
            let most = weights.iter().copied().fold(0.0, f64::max);
            self.weights.extend(weights.iter().map(|weight| if most > 0.0 { weight / most } else { 0.0 }));
        }
        self.ends.clear();
        self.ends.extend(rows.map(|row| (token_ids.start(row) + token_ids.row(row).len() - span.start) as u32));
        self.tokens = &token_ids.values()[span];
    }

    /// The same rows of other tokens.
    pub(super) fn with_tokens<'b>(&self, tokens: &'b [u32]) -> Group<'b> {
        Group { tokens, ends: self.ends.clone(), weights: self.weights.clone() }
    }

    pub(super) fn tokens(&self) -> &'a [u32] {
        self.tokens
    }

    /// The number of rows.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn start(&self, row: usize) -> u32 {
        if row == 0 { 0 } else { self.ends[row - 1] }
    }

    pub(super) fn end(&self, row: usize) -> u32 {
        self.ends[row]
    }

    /// The tokens of a row.
    pub(super) fn row(&self, row: usize) -> &'a [u32] {
        &self.tokens[self.start(row) as usize..self.end(row) as usize]
    }

    /// The weight of each row over the largest of the group; none where rows are not weighted.
    pub(super) fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// How many n-grams of `order` a row has, repetitions counted.
    pub(super) fn total_of(&self, row: usize, order: usize) -> usize {
        (self.row(row).len() + 1).saturating_sub(order)
    }

    /// How many n-grams of `order` there are, repetitions counted.
    pub(super) fn total(&self, order: usize) -> usize {
        (0..self.len()).map(|row| self.total_of(row, order)).sum()
    }

    /// The length of the longest row.
    pub(super) fn longest(&self) -> usize {
        (0..self.len()).map(|row| self.row(row).len()).max().unwrap_or(0)
    }

    /// Divide the rows into runs of at least `size` tokens, the last one excepted.
    pub(super) fn chunks(&self, size: usize) -> Vec<Range<usize>> {
        runs(self.len(), size, |row| self.row(row).len())
    }
}

/// Divide `0..len` into runs whose sizes add up to at least `size`, the last run excepted.
pub(super) fn runs(len: usize, size: usize, size_of: impl Fn(usize) -> usize) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let (mut first, mut sum) = (0, 0);
    for i in 0..len {
        sum += size_of(i);
        if sum >= size || i + 1 == len {
            runs.push(first..i + 1);
            (first, sum) = (i + 1, 0);
        }
    }
    runs
}

/// The tokens of `rows`.
pub(super) fn span(token_ids: &Ragged<'_, u32>, rows: &Range<usize>) -> Range<usize> {
    if rows.is_empty() {
        return 0..0;
    }
    token_ids.start(rows.start)..token_ids.start(rows.end - 1) + token_ids.row(rows.end - 1).len()
}

/// Check that places in each group fit in 32 bits, and rows in 31.
pub(super) fn check_sizes(token_ids: &Ragged<'_, u32>, groups: &Offsets<'_>) -> Result<()> {
    (0..groups.len())
        .map(|group| groups.range(group))
        .try_for_each(|rows| check_size(span(token_ids, &rows).len(), rows.len()))
}

fn check_size(tokens: usize, rows: usize) -> Result<()> {
    let check = |name, size: usize, bits: u32, rule| {
        if size >> bits == 0 { Ok(()) } else { Err(Error::Range { name, value: size as f64, rule }) }
    };
    check("the number of tokens", tokens, 32, "below 2^32 in each group")?;
    check("the number of completions", rows, 31, "below 2^31 in each group")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_from_the_first_token() {
        let rows = Ragged::new("offsets", &[1, 2, 3, 4, 5, 6], &[0, 2, 2, 5, 6]).unwrap();
        let mut group = Group::default();
        group.set(&rows, 1..4, Some(&[9.0, 2.0, 0.0, 4.0]));
        assert_eq!((group.len(), group.longest(), group.total(2)), (3, 3, 2));
        assert_eq!([group.row(0), group.row(1), group.row(2)], [&[][..], &[3, 4, 5], &[6]]);
        assert_eq!(group.weights(), [0.5, 0.0, 1.0]);
        group.set(&rows, 4..4, None);
        assert_eq!((group.len(), group.longest(), group.tokens()), (0, 0, &[][..]));
    }

    #[test]
    fn runs_cover_everything_in_order() {
        let sizes = [0, 3, 1, 9, 0, 0];
        assert_eq!(runs(6, 4, |i| sizes[i]), [0..3, 3..4, 4..6]);
        assert!(runs(0, 4, |_| 1).is_empty());
    }

    #[test]
    fn too_many_tokens_are_refused() {
        assert!(check_size((1 << 32) - 1, (1 << 31) - 1).is_ok());
        let message = |tokens, rows| check_size(tokens, rows).unwrap_err().to_string();
        assert!(message(1 << 32, 1).contains("the number of tokens is 4294967296: it must be below 2^32"));
        assert!(message(1, 1 << 31).contains("the number of completions is 2147483648: it must be below 2^31"));
    }
}
