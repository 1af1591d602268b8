//! The rows that are counted together.

use std::ops::Range;

use crate::{Error, Masked, Offsets, Ragged, Result};

/// The rows of one group. Places in it are counted from its first token, in 32 bits.
#[derive(Default)]
pub(super) struct Group<'a> {
    tokens: &'a [u32],
    /// Where each row ends.
    ends: Vec<u32>,
    /// The weight of each row over the largest of the group; none where rows are not weighted.
    weights: Vec<f64>,
    /// What rows with gaps keep, and how many pieces there are up to the end of each row; none where no row has gaps.
    pieces: Vec<Piece>,
    piece_ends: Vec<usize>,
}

/// Tokens without a gap: n-grams lie within one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Piece {
    /// How many n-grams of `order` it has.
    fn total(self, order: usize) -> usize {
        (self.len() + 1).saturating_sub(order)
    }

    pub(super) fn len(self) -> usize {
        (self.end - self.start) as usize
    }
}

impl<'a> Group<'a> {
    /// Replace the rows; the memory is reused.
    pub(super) fn set(&mut self, token_ids: impl Into<Masked<'a, u32>>, rows: Range<usize>, weights: Option<&[f64]>) {
        let masked = token_ids.into();
        let token_ids = masked.rows();
        let span = span(token_ids, &rows);
        self.weights.clear();
        if let Some(weights) = weights.map(|weights| &weights[rows.clone()]) {
            let most = weights.iter().copied().fold(0.0, f64::max);
            self.weights.extend(weights.iter().map(|weight| if most > 0.0 { weight / most } else { 0.0 }));
        }
        self.ends.clear();
        self.ends.extend(rows.clone().map(|row| (token_ids.range(row).end - span.start) as u32));
        self.tokens = &token_ids.values()[span.clone()];
        self.pieces.clear();
        self.piece_ends.clear();
        if masked.has_mask() {
            for row in rows {
                let place = |at: usize| (at - span.start) as u32;
                let pieces = masked.pieces(row).map(|piece| Piece { start: place(piece.start), end: place(piece.end) });
                self.pieces.extend(pieces);
                self.piece_ends.push(self.pieces.len());
            }
        }
    }

    /// The same rows of other tokens.
    pub(super) fn with_tokens<'b>(&self, tokens: &'b [u32]) -> Group<'b> {
        Group {
            tokens,
            ends: self.ends.clone(),
            weights: self.weights.clone(),
            pieces: self.pieces.clone(),
            piece_ends: self.piece_ends.clone(),
        }
    }

    pub(super) fn tokens(&self) -> &'a [u32] {
        self.tokens
    }

    /// The number of rows.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    fn start(&self, row: usize) -> u32 {
        if row == 0 { 0 } else { self.ends[row - 1] }
    }

    /// The pieces of a row, in order.
    pub(super) fn pieces(&self, row: usize) -> impl Iterator<Item = Piece> + '_ {
        let gapless = self.piece_ends.is_empty();
        let first = if gapless || row == 0 { 0 } else { self.piece_ends[row - 1] };
        let last = if gapless { 1 } else { self.piece_ends[row] };
        let whole = Piece { start: self.start(row), end: self.ends[row] };
        (first..last).map(move |i| if gapless { whole } else { self.pieces[i] })
    }

    /// Where the piece of a row that holds the token at `start` ends.
    pub(super) fn end(&self, row: usize, start: u32) -> u32 {
        if self.piece_ends.is_empty() { self.ends[row] } else { self.end_of_piece(start) }
    }

    // Apart, so that what has no gaps does not carry the search in its loops.
    #[cold]
    fn end_of_piece(&self, start: u32) -> u32 {
        self.pieces[self.pieces.partition_point(|piece| piece.end <= start)].end
    }

    /// The tokens of a piece.
    pub(super) fn piece(&self, piece: Piece) -> &'a [u32] {
        &self.tokens[piece.start as usize..piece.end as usize]
    }

    /// How many tokens a row has.
    pub(super) fn length(&self, row: usize) -> usize {
        self.pieces(row).map(Piece::len).sum()
    }

    /// The weight of each row over the largest of the group; none where rows are not weighted.
    pub(super) fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// How many n-grams of `order` a row has, repetitions counted.
    pub(super) fn total_of(&self, row: usize, order: usize) -> usize {
        self.pieces(row).map(|piece| piece.total(order)).sum()
    }

    /// How many n-grams of `order` there are, repetitions counted.
    pub(super) fn total(&self, order: usize) -> usize {
        (0..self.len()).map(|row| self.total_of(row, order)).sum()
    }

    /// The length of a row's longest piece.
    pub(super) fn longest_of(&self, row: usize) -> usize {
        self.pieces(row).map(Piece::len).max().unwrap_or(0)
    }

    /// The length of the longest piece.
    pub(super) fn longest(&self) -> usize {
        (0..self.len()).map(|row| self.longest_of(row)).max().unwrap_or(0)
    }

    /// Divide the rows into runs of at least `size` tokens, gaps included, the last one excepted.
    pub(super) fn chunks(&self, size: usize) -> Vec<Range<usize>> {
        runs(self.len(), size, |row| (self.ends[row] - self.start(row)) as usize)
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
        group.set(rows, 1..4, Some(&[9.0, 2.0, 0.0, 4.0]));
        assert_eq!((group.len(), group.longest(), group.total(2)), (3, 3, 2));
        let row = |i| group.pieces(i).flat_map(|piece| group.piece(piece)).copied().collect::<Vec<_>>();
        assert_eq!([row(0), row(1), row(2)], [vec![], vec![3, 4, 5], vec![6]]);
        assert_eq!(group.weights(), [0.5, 0.0, 1.0]);
        group.set(rows, 4..4, None);
        assert_eq!((group.len(), group.longest(), group.tokens()), (0, 0, &[][..]));
    }

    #[test]
    fn rows_with_gaps_are_pieces() {
        let rows = Ragged::new("offsets", &[9, 1, 2, 3, 4, 5, 6], &[0, 1, 3, 3, 7]).unwrap();
        let masked = Masked::new("offsets", rows, &[1, 0, 1, 1, 1, 0, 1]).unwrap();
        let mut group = Group::default();
        group.set(masked, 1..4, None);
        let pieces: Vec<Vec<_>> = (0..3).map(|row| group.pieces(row).map(|p| (p.start, p.end)).collect()).collect();
        assert_eq!(pieces, [vec![(1, 2)], vec![], vec![(2, 4), (5, 6)]]);
        assert_eq!((group.longest(), group.length(2), group.total(1), group.total(2)), (2, 3, 4, 1));
        assert_eq!([group.end(0, 1), group.end(2, 3), group.end(2, 5)], [2, 4, 6]);
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
