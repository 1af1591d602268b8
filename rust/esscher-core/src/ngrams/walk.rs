//! From the n-grams of one order to those of the next, for those that can still recur.

use super::{
    census::{Census, NEAR_END, Tally, Window},
    group::{Group, Piece},
    numbers::Numbers,
};

/// The windows whose n-grams may still recur, with the number of each n-gram. A walk is reused for many groups, with
/// its memory.
#[derive(Default)]
pub(super) struct Walk<T> {
    windows: Vec<Window>,
    /// The number of each window's n-gram, and what makes it one order longer.
    numbers: Vec<u32>,
    nexts: Vec<u32>,
    table: Numbers,
    tallies: Vec<T>,
}

impl<T: Tally> Walk<T> {
    /// Count the n-grams of orders 1 to `last` of a small group.
    pub(super) fn group(&mut self, group: &Group<'_>, last: usize, census: &mut impl Census<Tally = T>) {
        self.windows.clear();
        for row in 0..group.len() {
            group.pieces(row).for_each(|piece| self.windows.extend(windows(group, row, piece)));
        }
        self.begin();
        for order in 1..=last {
            if order > 1 {
                self.join_neighbours();
            }
            if self.windows.is_empty() {
                return;
            }
            self.count(order, group, census);
        }
    }

    /// Count the n-grams of orders 2 to `last` that start at `windows`, whose keys tell their bigrams apart.
    ///
    /// All n-grams that share a bigram must be there, in order of appearance.
    pub(super) fn bucket<'w>(
        &mut self,
        windows: impl Iterator<Item = &'w [Window]>,
        group: &Group<'_>,
        last: usize,
        census: &mut impl Census<Tally = T>,
    ) {
        self.windows.clear();
        windows.for_each(|windows| self.windows.extend_from_slice(windows));
        self.begin();
        for order in 2..=last {
            if order > 2 {
                self.append_tokens(group, order - 1);
            }
            if self.windows.is_empty() {
                return;
            }
            self.count(order, group, census);
        }
    }

    fn begin(&mut self) {
        self.numbers.clear();
        self.numbers.resize(self.windows.len(), 0);
        self.nexts.clear();
        self.nexts.extend(self.windows.iter().map(|window| window.key));
    }

    /// Number the n-grams of `order`, tally them, and show them to the census.
    fn count(&mut self, order: usize, group: &Group<'_>, census: &mut impl Census<Tally = T>) {
        self.table.clear(self.windows.len());
        self.table.replace(&mut self.numbers, &self.nexts);
        self.tallies.clear();
        self.tallies.resize(self.table.len(), T::default());
        for (window, &number) in self.windows.iter().zip(&self.numbers) {
            self.tallies[number as usize].note(*window, group);
        }
        census.count(order, self.windows.iter().copied(), &self.tallies);
    }

    /// Make n-grams of `order` one token longer, where they recur and their row goes on.
    fn append_tokens(&mut self, group: &Group<'_>, order: usize) {
        let len = self.windows.len();
        let (windows, numbers) = (&mut self.windows[..len], &mut self.numbers[..len]);
        let mut kept = 0;
        for i in 0..len {
            let (window, number) = (windows[i], numbers[i]);
            (windows[kept], numbers[kept]) = (window, number);
            let goes_on = window.row < NEAR_END
                || window.start as usize + order < group.end(window.row() as usize, window.start) as usize;
            kept += usize::from(goes_on & self.tallies[number as usize].recurs());
        }
        self.truncate(kept);
        // A loop of its own, so that many tokens are on their way from memory at once.
        self.nexts.extend(self.windows.iter().map(|window| group.tokens()[window.start as usize + order]));
    }

    /// Make n-grams one token longer where they and their right neighbours recur: the pair of numbers identifies the
    /// longer n-gram.
    fn join_neighbours(&mut self) {
        let len = self.windows.len();
        let (windows, numbers, nexts) = (&mut self.windows[..len], &mut self.numbers[..len], &mut self.nexts[..len]);
        let mut kept = 0;
        for i in 1..len {
            let (window, number) = (windows[i - 1], numbers[i - 1]);
            let (right, next) = (windows[i], numbers[i]);
            (windows[kept], numbers[kept], nexts[kept]) = (window, number, next);
            let are_neighbours = (window.row, window.start + 1) == (right.row, right.start);
            let recur = self.tallies[number as usize].recurs() & self.tallies[next as usize].recurs();
            kept += usize::from(are_neighbours & recur);
        }
        self.windows.truncate(kept);
        self.numbers.truncate(kept);
        self.nexts.truncate(kept);
    }

    fn truncate(&mut self, kept: usize) {
        self.windows.truncate(kept);
        self.numbers.truncate(kept);
        self.nexts.clear();
    }
}

/// The windows of a row's piece, their first tokens as keys.
pub(super) fn windows(group: &Group<'_>, row: usize, piece: Piece) -> impl Iterator<Item = Window> {
    group.piece(piece).iter().zip(piece.start..).map(move |(&key, start)| Window::new(key, start, row))
}
