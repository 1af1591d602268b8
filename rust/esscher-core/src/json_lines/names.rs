//! The keys of objects, in the order in which they were first seen.

use hashbrown::HashMap;

use super::text::Text;

/// Keys and their numbers, from 0.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Names {
    names: Vec<String>,
    numbers: HashMap<String, usize>,
}

impl Names {
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &String> {
        self.names.iter()
    }

    /// The number of a name.
    pub(super) fn get(&self, name: &str) -> Option<usize> {
        self.numbers.get(name).copied()
    }

    /// The number of a name that is new.
    pub(super) fn add(&mut self, name: &str) -> usize {
        let number = self.names.len();
        self.names.push(name.into());
        self.numbers.insert(name.into(), number);
        number
    }

    /// The number of a key, which is likely to be `guess`, since objects of one kind have their keys in one order.
    #[inline]
    pub(super) fn find(&self, key: &Text<'_>, guess: usize) -> Option<usize> {
        if self.names.get(guess).is_some_and(|name| key.is_plainly(name)) {
            return Some(guess);
        }
        self.get(&key.meant()?)
    }
}
