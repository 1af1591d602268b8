//! Rows of unequal length of which a mask keeps some items, where they lie.

use std::ops::Range;

use crate::{Error, Ragged, Result, Rows, padded, ragged::check_length};

/// Rows of which a mask keeps some items. The others are a gap: no sum counts them, and no n-gram spans them.
///
/// A row is read where it lies if what it keeps is contiguous, else it is gathered first: it gives the bits of a row
/// that holds nothing else.
#[derive(Debug, Clone, Copy)]
pub struct Masked<'a, T> {
    rows: Ragged<'a, T>,
    mask: Option<&'a [u8]>,
}

impl<'a, T> Masked<'a, T> {
    /// Keep of rows what `mask` says: one byte an item, 0 or 1.
    ///
    /// # Errors
    /// If there is not one byte for each item, or one is neither 0 nor 1.
    pub fn new(name: &'static str, rows: Ragged<'a, T>, mask: &'a [u8]) -> Result<Self> {
        check_length("mask", mask.len(), name, rows.values().len())?;
        // A fold without a way out early is what the compiler vectorises.
        if mask.iter().fold(0, |most, &m| most | m) > 1 {
            let row = (0..rows.len()).find(|&row| mask[rows.range(row)].iter().any(|&m| m > 1));
            return Err(Error::Mask { row: row.unwrap_or_default() });
        }
        Ok(Self { rows, mask: Some(mask) })
    }

    /// The number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows, with what is not kept.
    pub(crate) fn rows(&self) -> &Ragged<'a, T> {
        &self.rows
    }

    /// Whether there is a mask at all.
    pub(crate) fn has_mask(&self) -> bool {
        self.mask.is_some()
    }

    /// The stretches without a gap that row `i` keeps, in order, as ranges of the flat array.
    pub(crate) fn pieces(&self, i: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        let Range { mut start, end } = self.rows.range(i);
        std::iter::from_fn(move || {
            let Some(mask) = self.mask else {
                let piece = start..end;
                start = end;
                return (!piece.is_empty()).then_some(piece);
            };
            let first = start + padded::leading(&mask[start..end], 0);
            start = first + padded::leading(&mask[first..end], 1);
            (first < start).then_some(first..start)
        })
    }
}

impl<'a, T> From<Ragged<'a, T>> for Masked<'a, T> {
    /// All of each row.
    fn from(rows: Ragged<'a, T>) -> Self {
        Self { rows, mask: None }
    }
}

impl<T: Copy + Send + Sync> Rows<T> for Masked<'_, T> {
    fn count(&self) -> usize {
        self.rows.len()
    }

    fn read<'s>(&'s self, i: usize, scratch: &'s mut Vec<T>) -> Result<&'s [T]> {
        let mut pieces = self.pieces(i);
        let first = pieces.next().unwrap_or_default();
        let Some(second) = pieces.next() else {
            return Ok(&self.rows.values()[first]);
        };
        scratch.clear();
        for piece in [first, second].into_iter().chain(pieces) {
            scratch.extend_from_slice(&self.rows.values()[piece]);
        }
        Ok(scratch)
    }

    fn place(&self, row: usize, token: usize) -> String {
        let nth = self.pieces(row).flatten().nth(token);
        nth.unwrap_or_else(|| self.rows.range(row).end).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
    const OFFSETS: [i64; 4] = [0, 4, 4, 8];

    fn masked(mask: &[u8; 8]) -> Result<Masked<'_, u32>> {
        Masked::new("values", Ragged::new("values", &VALUES, &OFFSETS)?, mask)
    }

    #[test]
    fn a_mask_keeps_what_it_says() {
        let rows = masked(&[0, 1, 1, 0, 1, 0, 1, 1]).unwrap();
        let read = |i| rows.read(i, &mut Vec::new()).map(<[u32]>::to_vec).unwrap();
        assert_eq!([read(0), read(1), read(2)], [vec![1, 2], vec![], vec![4, 6, 7]]);
        assert_eq!(rows.pieces(2).collect::<Vec<_>>(), [4..5, 6..8]);
        assert_eq!([rows.place(0, 1), rows.place(2, 1), rows.place(2, 2)], ["2", "6", "7"]);
    }

    #[test]
    fn without_a_mask_a_row_is_a_piece() {
        let rows = Masked::from(Ragged::new("values", &VALUES, &OFFSETS).unwrap());
        let pieces = |i| rows.pieces(i).map(|piece| (piece.start, piece.end)).collect::<Vec<_>>();
        assert_eq!([pieces(0), pieces(1), pieces(2)], [vec![(0, 4)], vec![], vec![(4, 8)]]);
    }

    #[test]
    fn nothing_kept_is_nothing_read() {
        let rows = masked(&[0; 8]).unwrap();
        assert!((0..3).all(|i| rows.read(i, &mut Vec::new()).unwrap().is_empty() && rows.pieces(i).count() == 0));
    }

    #[test]
    fn bad_masks_are_refused() {
        let error = masked(&[1, 1, 1, 1, 1, 2, 1, 1]).unwrap_err().to_string();
        assert!(error.starts_with("mask row 2 "), "{error}");
        let rows = Ragged::new("values", &VALUES, &OFFSETS).unwrap();
        assert!(Masked::new("values", rows, &[1; 7]).unwrap_err().to_string().starts_with("mask has 7 entries"));
    }
}
