//! Tallies, one per n-gram, and the census that reads them.

use super::group::Group;

/// Where an n-gram starts, and its row; both counted within a group.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Window {
    /// The identity of the shortest n-gram of a walk that starts here.
    pub(super) key: u32,
    pub(super) start: u32,
    /// The row; its top bit is set if the row may end within the longest n-gram, so that few windows look up where.
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

/// What is remembered of one n-gram.
pub(super) trait Tally: Clone + Default + PartialEq + Send {
    /// Count one more occurrence; occurrences come in order.
    fn note(&mut self, window: Window, group: &Group<'_>);

    /// Add the tally of the same n-gram in later rows.
    fn merge(&mut self, later: &Self);

    /// Whether longer n-grams that contain this one have to be counted.
    fn recurs(&self) -> bool;
}

/// A result that is computed from the tallies of all n-grams.
pub(super) trait Census: Send {
    type Tally: Tally;

    /// Add some n-grams of one order: their windows, and one tally for each different n-gram.
    ///
    /// Of orders above 1, n-grams that cannot recur are left out.
    fn count(&mut self, order: usize, windows: impl Iterator<Item = Window>, tallies: &[Self::Tally]);

    /// Add the result of another one, of other n-grams.
    fn merge(&mut self, other: Self);
}
