//! Numbering of n-grams from 0.

/// The fewest slots of a table, and the most that it starts with: beyond, it grows as it fills. (One bigram can hold 2
/// % of all windows of a batch.)
const SLOTS: (usize, usize) = (64, 1 << 14);

/// Numbers from 0, in order of appearance, for pairs: of an n-gram's number and the token after it, for example.
///
/// A hash table by linear probing. Pairs are compared in full, so numbers are exact.
#[derive(Default)]
pub(super) struct Numbers {
    /// The number of a pair, counted from 1; 0 where the slot is free.
    slots: Vec<u32>,
    /// The pair of each number, counted from 1.
    pairs: Vec<u64>,
    len: usize,
}

impl Numbers {
    /// Forget all pairs, and make room for about `expected`.
    pub(super) fn clear(&mut self, expected: usize) {
        self.make_slots((4 * expected.min(SLOTS.1)).next_power_of_two().clamp(SLOTS.0, SLOTS.1));
        self.len = 0;
    }

    /// How many different pairs there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Replace each of `firsts` by the number of the pair that it forms with its entry of `seconds`.
    pub(super) fn replace(&mut self, mut firsts: &mut [u32], mut seconds: &[u32]) {
        while !firsts.is_empty() {
            if self.room() < self.pairs.len() / 4 {
                self.grow();
            }
            let fit = firsts.len().min(self.room());
            let (now, later) = firsts.split_at_mut(fit);
            self.replace_fitting(now, &seconds[..fit]);
            (firsts, seconds) = (later, &seconds[fit..]);
        }
    }

    /// As [`Self::replace`], where even if all pairs are new there is room for them.
    fn replace_fitting(&mut self, firsts: &mut [u32], seconds: &[u32]) {
        let (slots, pairs, mut len) = (&mut self.slots[..], &mut self.pairs[..], self.len);
        for (first, &second) in firsts.iter_mut().zip(seconds) {
            let pair = u64::from(*first) << 32 | u64::from(second);
            let slot = find(slots, pairs, pair);
            let found = slots[slot];
            len += usize::from(found == 0);
            let number = if found == 0 { len as u32 } else { found };
            slots[slot] = number;
            pairs[number as usize] = pair;
            *first = number - 1;
        }
        self.len = len;
    }

    /// How many more pairs fit.
    fn room(&self) -> usize {
        self.pairs.len() - 1 - self.len
    }

    /// At most half of the slots are ever taken.
    fn make_slots(&mut self, slots: usize) {
        self.slots.clear();
        self.slots.resize(slots, 0);
        self.pairs.resize(slots / 2, 0);
    }

    #[cold]
    fn grow(&mut self) {
        self.make_slots(4 * self.slots.len());
        for number in 1..=self.len {
            let pair = self.pairs[number];
            let slot = find(&self.slots, &mut self.pairs, pair);
            self.slots[slot] = number as u32;
        }
    }
}

/// The slot of a pair, or a free one.
#[inline]
fn find(slots: &[u32], pairs: &mut [u64], pair: u64) -> usize {
    let mask = slots.len() - 1;
    let mut slot = hash(pair) & mask;
    // A free slot seems to hold the pair: whether a pair is new cannot be predicted, that the search ends here can.
    pairs[0] = pair;
    while pairs[slots[slot] as usize] != pair {
        slot = (slot + 1) & mask;
    }
    slot
}

/// Both halves of a product with an odd constant: every bit of the pair moves the low bits.
fn hash(pair: u64) -> usize {
    let product = u128::from(pair ^ 0x9E37_79B9_7F4A_7C15) * 0xD6E8_FEB8_6659_FD93;
    ((product >> 64) as u64 ^ product as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(table: &mut Numbers, pairs: &[(u32, u32)]) -> Vec<u32> {
        let (mut firsts, seconds): (Vec<u32>, Vec<u32>) = pairs.iter().copied().unzip();
        table.replace(&mut firsts, &seconds);
        firsts
    }

    #[test]
    fn pairs_keep_their_numbers_while_the_table_grows() {
        let mut table = Numbers::default();
        let pairs: Vec<_> = (0..100_000).map(|i| (u32::MAX - i % 7, u32::MAX - i)).collect();
        for expected in [0, 10, 1 << 20] {
            table.clear(expected);
            for _ in 0..2 {
                assert!(numbers(&mut table, &pairs).into_iter().eq(0..100_000));
            }
            assert_eq!(table.len(), 100_000);
        }
    }

    #[test]
    fn pairs_are_ordered() {
        let mut table = Numbers::default();
        table.clear(4);
        assert_eq!(numbers(&mut table, &[(0, 1), (1, 0), (0, 0), (0, 1)]), [0, 1, 2, 0]);
    }
}
