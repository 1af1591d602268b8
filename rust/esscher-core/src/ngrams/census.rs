//! What is kept of an n-gram, and what is read off that.

use super::group::Group;

/// Where an n-gram starts, and its row; both counted within a group.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Window {
    /// What tells the shortest n-grams in a walk apart.
    pub(super) key: u32,
    pub(super) start: u32,
    /// The top bit says that the row may end within the longest n-gram: few windows need to look up where.
    pub(super) row: u32,
}

pub(super) const NEAR_END: u32 = 1 << 31;

impl Window {
    pub(super) fn new(key: u32, start: u32, row: usize) -> Self {
        Self { key, start, row: row as u32 }
    }

    pub(super) fn row(self) -> u32 {
        self.row & !NEAR_END
    }
}

/// What is kept of one n-gram.
pub(super) trait Tally: Clone + Default + PartialEq + Send {
    /// Take note of one more occurrence; they come in order.
    fn note(&mut self, window: Window, group: &Group<'_>);

    /// Take note of the occurrences in later rows.
    fn merge(&mut self, later: &Self);

    /// Whether longer n-grams around this one can matter.
    fn recurs(&self) -> bool;
}

/// What is read off the tallies of n-grams.
pub(super) trait Census: Send {
    type Tally: Tally;

    /// Take note of some n-grams of one order: their windows, and a tally for each different one.
    ///
    /// N-grams that cannot recur are left out, but for unigrams.
    fn count(&mut self, order: usize, windows: impl Iterator<Item = Window>, tallies: &[Self::Tally]);

    /// Add what another one saw.
    fn merge(&mut self, other: Self);
}
