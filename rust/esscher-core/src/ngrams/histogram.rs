//! Histograms of sizes.

use hashbrown::HashMap;

/// Sizes below this are counted in an array.
const LOW: usize = 1 << 12;

/// The count of every size.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    low: Vec<u64>,
    high: HashMap<u32, u64>,
}

impl Histogram {
    /// Add one to the count of a size.
    pub(super) fn add(&mut self, size: u32) {
        *self.at(size) += 1;
    }

    /// Add the counts of another histogram.
    pub(super) fn merge(&mut self, other: &Self) {
        for (size, count) in other.sizes() {
            *self.at(size) += count;
        }
    }

    /// Each size that occurs, ascending, with its count.
    pub(super) fn sorted(&self) -> Vec<(u32, u64)> {
        let mut sizes: Vec<_> = self.sizes().collect();
        sizes.sort_unstable();
        sizes
    }

    fn sizes(&self) -> impl Iterator<Item = (u32, u64)> {
        let low = (0..).zip(self.low.iter().copied()).filter(|&(_, count)| count > 0);
        low.chain(self.high.iter().map(|(&size, &count)| (size, count)))
    }

    fn at(&mut self, size: u32) -> &mut u64 {
        let place = size as usize;
        if place >= LOW {
            return self.high.entry(size).or_default();
        }
        if place >= self.low.len() {
            self.low.resize(place + 1, 0);
        }
        &mut self.low[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_sizes_are_counted() {
        let (mut first, mut second) = (Histogram::default(), Histogram::default());
        for size in [3, 90_000, 3] {
            first.add(size);
        }
        for size in [90_000, 4096, 4095] {
            second.add(size);
        }
        first.merge(&second);
        assert_eq!(first.sorted(), [(3, 2), (4095, 1), (4096, 1), (90_000, 2)]);
    }
}
