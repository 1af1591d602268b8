//! Rows of unequal length in one flat array.

use std::ops::Range;

use crate::{Error, Result};

/// Where rows begin and end: row `i` is `offsets[i]..offsets[i + 1]`.
#[derive(Debug, Clone, Copy)]
pub struct Offsets<'a>(&'a [i64]);

impl<'a> Offsets<'a> {
    /// Borrow `offsets` as the borders of rows that divide `len` items.
    ///
    /// # Errors
    /// If `offsets` is empty, does not start with 0, falls, or does not end at `len`; `name` is the argument that the
    /// message speaks of.
    pub fn new(name: &'static str, offsets: &'a [i64], len: usize) -> Result<Self> {
        let Some(&first) = offsets.first() else {
            return Err(Error::OffsetsEmpty { name });
        };
        if first != 0 {
            return Err(Error::OffsetsStart { name, first });
        }
        if let Some(i) = offsets.windows(2).position(|pair| pair[1] < pair[0]) {
            return Err(Error::OffsetsFall { name, index: i + 1, before: offsets[i], after: offsets[i + 1] });
        }
        let offsets = Self(offsets);
        offsets.check_items(name, len)?;
        Ok(offsets)
    }

    /// Check that these are borders of `len` items.
    ///
    /// # Errors
    /// If they end elsewhere.
    pub fn check_items(&self, name: &'static str, len: usize) -> Result<()> {
        let end = self.0[self.len()];
        if usize::try_from(end) == Ok(len) { Ok(()) } else { Err(Error::OffsetsEnd { name, end, len }) }
    }

    /// The number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len() - 1
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The items of row `i`.
    #[must_use]
    pub fn range(&self, i: usize) -> Range<usize> {
        self.0[i] as usize..self.0[i + 1] as usize
    }

    /// The items of the rows `rows`, of which there is at least one.
    #[must_use]
    pub fn span(&self, rows: &Range<usize>) -> Range<usize> {
        self.0[rows.start] as usize..self.0[rows.end] as usize
    }

    /// Cut `items` into one slice per row that may be written.
    #[must_use]
    pub fn split_mut<'v, T>(&self, mut items: &'v mut [T]) -> Vec<&'v mut [T]> {
        (0..self.len())
            .map(|i| {
                let (row, rest) = std::mem::take(&mut items).split_at_mut(self.range(i).len());
                items = rest;
                row
            })
            .collect()
    }
}

/// Rows of unequal length, however they are stored.
pub trait Rows<T>: Sync {
    /// The number of rows.
    fn count(&self) -> usize;

    /// Row `i`, gathered into `scratch` if it does not lie in one piece.
    ///
    /// # Errors
    /// If the mask of the row has an entry other than 0 and 1.
    fn read<'s>(&'s self, i: usize, scratch: &'s mut Vec<T>) -> Result<&'s [T]>;

    /// Where value `token` of row `row` stands, as the caller indexes it.
    fn place(&self, row: usize, token: usize) -> String;

    /// How many values ahead to prefetch.
    fn ahead(&self) -> usize {
        1024
    }
}

/// Rows of unequal length over one flat array.
#[derive(Debug, Clone, Copy)]
pub struct Ragged<'a, T> {
    values: &'a [T],
    offsets: Offsets<'a>,
}

impl<'a, T> Ragged<'a, T> {
    /// Borrow `values` as rows.
    ///
    /// # Errors
    /// As [`Offsets::new`].
    pub fn new(name: &'static str, values: &'a [T], offsets: &'a [i64]) -> Result<Self> {
        Ok(Self { values, offsets: Offsets::new(name, offsets, values.len())? })
    }

    /// The number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// All values, row after row.
    #[must_use]
    pub fn values(&self) -> &'a [T] {
        self.values
    }

    /// Row `i`.
    #[must_use]
    pub fn row(&self, i: usize) -> &'a [T] {
        &self.values[self.offsets.range(i)]
    }

    /// The items of row `i`, as a range of the flat array.
    #[must_use]
    pub fn range(&self, i: usize) -> Range<usize> {
        self.offsets.range(i)
    }

    /// Where row `i` starts in the flat array.
    #[must_use]
    pub fn start(&self, i: usize) -> usize {
        self.offsets.range(i).start
    }

    /// The rows of `range`, in order.
    pub fn rows(&self, range: Range<usize>) -> impl Iterator<Item = &'a [T]> + '_ {
        range.map(|i| self.row(i))
    }
}

impl<T: Sync> Rows<T> for Ragged<'_, T> {
    fn count(&self) -> usize {
        self.len()
    }

    fn read<'s>(&'s self, i: usize, _: &'s mut Vec<T>) -> Result<&'s [T]> {
        Ok(self.row(i))
    }

    fn place(&self, row: usize, token: usize) -> String {
        (self.start(row) + token).to_string()
    }
}

/// Check that two arguments have the same length.
///
/// # Errors
/// If they do not.
pub fn check_length(name: &'static str, got: usize, other: &'static str, expected: usize) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::Length { name, got, other, expected }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_slices_between_offsets() {
        let ragged = Ragged::new("offsets", &[1, 2, 3], &[0, 2, 2, 3]).unwrap();
        let rows: Vec<&[i32]> = ragged.rows(0..3).collect();
        assert_eq!(rows, [&[1, 2][..], &[], &[3]]);
    }

    #[test]
    fn bad_offsets_are_named() {
        let message = |offsets: &[i64]| Ragged::new("offsets", &[1, 2, 3], offsets).unwrap_err().to_string();
        assert!(message(&[]).contains("offsets is empty"));
        assert!(message(&[1, 3]).contains("offsets[0] is 1"));
        assert!(message(&[0, 2, 1, 3]).contains("offsets[2] is 1"));
        assert!(message(&[0, 2]).contains("ends at 2"));
    }
}
