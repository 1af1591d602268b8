//! Rows of unequal length in a padded array, told from the padding by a mask.

use crate::{Error, Result, Rows, ragged::check_length, simd};

/// Which entries of a padded array are kept; nothing is ever told from their values.
#[derive(Debug, Clone, Copy)]
pub enum Mask<'a> {
    /// One byte an entry, 0 or 1.
    Bytes(&'a [u8]),
    /// One integer an entry, 0 or 1.
    Integers(&'a [i64]),
    /// The first so many entries of each row.
    Lengths(&'a [i64]),
}

/// A padded array `[rows, width]` of which each row keeps what its mask says.
///
/// A mask is read in a pass of its own, before the values: sums of `[4096, 1024]` took 1.5 ms by a mask, 0.5 ms by
/// lengths.
///
/// A row is read where it lies if what it keeps is contiguous, as it is with padding at either end; else it is gathered
/// first. So a row gives the same bits whatever its padding.
#[derive(Debug, Clone, Copy)]
pub struct Padded<'a, T> {
    values: &'a [T],
    width: usize,
    rows: usize,
    mask: Mask<'a>,
}

impl<'a, T> Padded<'a, T> {
    /// Borrow `values` as rows of `width` entries.
    ///
    /// # Errors
    /// If `values` or the mask do not have `rows * width` entries, or there is not one length a row within the width.
    pub fn new(name: &'static str, values: &'a [T], rows: usize, width: usize, mask: Mask<'a>) -> Result<Self> {
        let size = rows.saturating_mul(width);
        check_length(name, values.len(), "its shape", size)?;
        match mask {
            Mask::Bytes(mask) => check_length("mask", mask.len(), name, size)?,
            Mask::Integers(mask) => check_length("mask", mask.len(), name, size)?,
            Mask::Lengths(lengths) => {
                check_length("lengths", lengths.len(), "rows", rows)?;
                if let Some(index) = lengths.iter().position(|len| !(0..=width as i64).contains(len)) {
                    return Err(Error::RowTooLong { index, len: lengths[index], width });
                }
            }
        }
        Ok(Self { values, width, rows, mask })
    }

    fn kept(&self, i: usize) -> Result<Kept> {
        let range = i * self.width..(i + 1) * self.width;
        let kept = match self.mask {
            Mask::Bytes(mask) => scan(&mask[range]),
            Mask::Integers(mask) => scan(&mask[range]),
            Mask::Lengths(lengths) => Some(Kept { first: 0, len: lengths[i] as usize, contiguous: true }),
        };
        kept.ok_or(Error::Mask { row: i })
    }

    fn keeps(&self, i: usize, column: usize) -> bool {
        let at = i * self.width + column;
        match self.mask {
            Mask::Bytes(mask) => mask[at] != 0,
            Mask::Integers(mask) => mask[at] != 0,
            Mask::Lengths(lengths) => column < lengths[i] as usize,
        }
    }

    fn columns(&self, i: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.width).filter(move |&column| self.keeps(i, column))
    }
}

impl<T: Copy + Send + Sync> Rows<T> for Padded<'_, T> {
    fn count(&self) -> usize {
        self.rows
    }

    fn read<'s>(&'s self, i: usize, scratch: &'s mut Vec<T>) -> Result<&'s [T]> {
        let kept = self.kept(i)?;
        let row = &self.values[i * self.width..(i + 1) * self.width];
        // Where one row ends, the machine's own prefetching does not know where the next begins.
        for ahead in 0..NEXT_ROW {
            simd::prefetch(row, self.width + ahead * CACHE_LINE / size_of::<T>());
        }
        if kept.contiguous {
            return Ok(&row[kept.first..kept.first + kept.len]);
        }
        scratch.clear();
        scratch.extend(self.columns(i).map(|column| row[column]));
        Ok(scratch)
    }

    fn place(&self, row: usize, token: usize) -> String {
        format!("{row}, {}", self.columns(row).nth(token).unwrap_or(self.width))
    }

    /// A whole number of rows: the same column of a later row most likely holds a value too.
    fn ahead(&self) -> usize {
        match self.width {
            0 => 0,
            width => width * LEAST_AHEAD.div_ceil(width),
        }
    }
}

/// The fewest values ahead to prefetch.
const LEAST_AHEAD: usize = 512;
/// Cache lines of the next row to prefetch.
const NEXT_ROW: usize = 8;
const CACHE_LINE: usize = 64;

/// The entries that a row of a mask keeps.
struct Kept {
    first: usize,
    len: usize,
    contiguous: bool,
}

/// `None` if an entry is neither 0 nor 1.
fn scan<M: Copy + PartialEq + From<u8>>(mask: &[M]) -> Option<Kept> {
    let (zero, one) = (M::from(0), M::from(1));
    let first = leading(mask, zero);
    let len = leading(&mask[first..], one);
    let rest = &mask[first + len..];
    if leading(rest, zero) == rest.len() {
        return Some(Kept { first, len, contiguous: true });
    }
    let is_mask = mask.iter().all(|&m| m == zero || m == one);
    is_mask.then(|| Kept { first, len: mask.iter().filter(|&&m| m == one).count(), contiguous: false })
}

/// How many entries equal `value` before the first that does not.
pub(crate) fn leading<M: Copy + PartialEq>(mask: &[M], value: M) -> usize {
    let in_large = leading_chunks::<64, M>(mask, value);
    let in_small = in_large + leading_chunks::<8, M>(&mask[in_large..], value);
    in_small + mask[in_small..].iter().take_while(|&&m| m == value).count()
}

/// As [`leading`], of whole chunks.
fn leading_chunks<const CHUNK: usize, M: Copy + PartialEq>(mask: &[M], value: M) -> usize {
    // A fold without a way out early is what the compiler vectorises.
    #[allow(clippy::needless_bitwise_bool, reason = "see above")]
    let all = |chunk: &&[M; CHUNK]| chunk.iter().fold(true, |all, &m| all & (m == value));
    CHUNK * mask.as_chunks::<CHUNK>().0.iter().take_while(all).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: [f32; 8] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];

    fn rows(mask: Mask<'_>) -> Result<Vec<Vec<f32>>> {
        let padded = Padded::new("values", &VALUES, 2, 4, mask)?;
        (0..2).map(|i| padded.read(i, &mut Vec::new()).map(<[f32]>::to_vec)).collect()
    }

    #[test]
    fn a_mask_keeps_what_it_says() {
        let expected = vec![vec![1.0, 2.0], vec![4.0, 6.0, 7.0]];
        assert_eq!(rows(Mask::Bytes(&[0, 1, 1, 0, 1, 0, 1, 1])).unwrap(), expected);
        assert_eq!(rows(Mask::Integers(&[0, 1, 1, 0, 1, 0, 1, 1])).unwrap(), expected);
        assert_eq!(rows(Mask::Lengths(&[0, 3])).unwrap(), [vec![], vec![4.0, 5.0, 6.0]]);
        assert_eq!(rows(Mask::Bytes(&[0; 8])).unwrap(), [vec![], vec![]]);
    }

    #[test]
    fn places_are_columns_of_the_padded_array() {
        let padded = Padded::new("values", &VALUES, 2, 4, Mask::Bytes(&[0, 1, 1, 0, 1, 0, 1, 1])).unwrap();
        assert_eq!(padded.place(0, 1), "0, 2");
        assert_eq!(padded.place(1, 2), "1, 3");
    }

    #[test]
    fn bad_masks_are_refused() {
        let message = |mask| rows(mask).unwrap_err().to_string();
        assert!(message(Mask::Bytes(&[1; 7])).starts_with("mask has 7 entries"));
        assert!(message(Mask::Bytes(&[1, 1, 1, 1, 1, 2, 1, 1])).starts_with("mask row 1 "));
        assert!(message(Mask::Integers(&[1, 1, 1, -1, 1, 1, 1, 1])).starts_with("mask row 0 "));
        assert!(message(Mask::Lengths(&[4, 5])).starts_with("lengths[1] is 5"));
        assert!(message(Mask::Lengths(&[-1, 4])).starts_with("lengths[0] is -1"));
    }

    #[test]
    fn padding_anywhere_is_skipped() {
        for (first, len) in [(0, 0), (0, 300), (299, 1), (3, 200), (64, 64), (130, 5)] {
            let mask: Vec<u8> = (0..300).map(|i| u8::from((first..first + len).contains(&i))).collect();
            let kept = scan(&mask).unwrap();
            assert_eq!((kept.len, kept.contiguous), (len, true));
            assert!(len == 0 || kept.first == first);
        }
    }
}
