//! What kinds of values a column holds, and the type that holds them all.

use super::{
    cursor::{Cursor, Fault, Parsed},
    kind::Kind,
    names::Names,
    number::EXACT,
    text::Text,
};

/// An object with more keys than this is no record but a map, each of its keys in few rows.
const MOST_KEYS: usize = 256;
/// Lists and records that are nested deeper than this are kept as JSON.
const DEEPEST: usize = 32;

/// Kinds of values without parts: long integers are those beyond 64 bits, broken texts have no UTF-8.
const BOOLEAN: u8 = 1;
const INTEGER: u8 = 2;
const LONG: u8 = 4;
const FRACTION: u8 = 8;
const TEXT: u8 = 16;
const BROKEN: u8 = 32;

/// The kinds of values that were seen.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shape {
    /// A bit for each kind without parts.
    seen: u8,
    /// The least and the largest integer of 64 bits, if there is one.
    least: i64,
    largest: i64,
    elements: Option<Box<Shape>>,
    members: Option<Box<Members>>,
}

impl Default for Shape {
    fn default() -> Self {
        Self { seen: 0, least: i64::MAX, largest: i64::MIN, elements: None, members: None }
    }
}

/// The values of objects by key.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Members {
    names: Names,
    shapes: Vec<Shape>,
    /// Whether some key has no UTF-8, or there are too many; of those, the first are kept.
    is_no_record: bool,
}

impl Shape {
    /// Take note of the value that begins here.
    pub(super) fn see(&mut self, cursor: &mut Cursor<'_>) -> Parsed<()> {
        match cursor.token()? {
            b'"' => self.seen |= if cursor.string()?.is_text() { TEXT } else { BROKEN },
            b'[' => {
                let elements = self.elements.get_or_insert_default();
                let mut goes_on = cursor.open(b']')?;
                while goes_on {
                    match cursor.token()? {
                        b'-' | b'0'..=b'9' => elements.see_number(cursor)?,
                        _ => elements.see(cursor)?,
                    }
                    goes_on = cursor.goes_on(b']')?;
                }
            }
            b'{' => self.members.get_or_insert_default().see(cursor, MOST_KEYS)?,
            b'n' => cursor.word(b"null")?,
            byte @ (b't' | b'f') => {
                cursor.word(if byte == b't' { b"true" } else { b"false" })?;
                self.seen |= BOOLEAN;
            }
            _ => self.see_number(cursor)?,
        }
        Ok(())
    }

    #[inline(always)]
    fn see_number(&mut self, cursor: &mut Cursor<'_>) -> Parsed<()> {
        let number = cursor.number()?;
        match number.integer() {
            Some(integer) => {
                self.seen |= INTEGER;
                (self.least, self.largest) = (self.least.min(integer), self.largest.max(integer));
            }
            None => self.seen |= if number.is_integer { LONG } else { FRACTION },
        }
        Ok(())
    }

    /// Take note of all that the other has seen, later.
    fn merge(&mut self, other: Self) {
        self.seen |= other.seen;
        (self.least, self.largest) = (self.least.min(other.least), self.largest.max(other.largest));
        if let Some(elements) = other.elements {
            self.elements.get_or_insert_default().merge(*elements);
        }
        if let Some(members) = other.members {
            self.members.get_or_insert_default().merge(*members, MOST_KEYS);
        }
    }

    /// The type that holds all that was seen as it is.
    fn kind(&self, room: usize) -> Kind {
        let has = |kinds: u8| self.seen & kinds != 0;
        let kinds = [
            has(BOOLEAN).then_some(Kind::Boolean),
            has(INTEGER | LONG | FRACTION).then(|| self.numbers()),
            has(TEXT | BROKEN).then_some(if has(BROKEN) { Kind::Json } else { Kind::Text }),
            self.elements.as_ref().map(|shape| shape.list(room)),
            self.members.as_ref().map(|members| members.record(room)),
        ];
        let mut kinds = kinds.into_iter().flatten();
        match (kinds.next(), kinds.next()) {
            (None, _) => Kind::Null,
            (Some(kind), None) => kind,
            _ => Kind::Json,
        }
    }

    /// Beside fractions, integers are doubles, if these hold them.
    fn numbers(&self) -> Kind {
        let are_exact = self.least >= -EXACT && self.largest <= EXACT;
        match (self.seen & LONG != 0, self.seen & FRACTION != 0) {
            (false, false) => Kind::Integer,
            (false, true) if are_exact => Kind::Double,
            _ => Kind::Json,
        }
    }

    fn list(&self, room: usize) -> Kind {
        match if room == 0 { Kind::Json } else { self.kind(room - 1) } {
            Kind::Json => Kind::Json,
            kind => Kind::List(Box::new(kind)),
        }
    }
}

impl Members {
    /// Take note of the object that begins here, of keys beyond `most` only that they are valid.
    pub(super) fn see(&mut self, cursor: &mut Cursor<'_>, most: usize) -> Parsed<()> {
        let mut guess = 0;
        let mut goes_on = cursor.open(b'}')?;
        while goes_on {
            let key = cursor.key()?;
            match self.number_of(&key, guess, most) {
                Some(number) => {
                    guess = number + 1;
                    self.shapes[number].see(cursor)?;
                }
                None => Shape::default().see(cursor)?,
            }
            goes_on = cursor.goes_on(b'}')?;
        }
        Ok(())
    }

    fn number_of(&mut self, key: &Text<'_>, guess: usize, most: usize) -> Option<usize> {
        let found = self.names.find(key, guess);
        found.or_else(|| key.meant().and_then(|name| self.add(&name, most))).or_else(|| {
            self.is_no_record = true;
            None
        })
    }

    fn add(&mut self, name: &str, most: usize) -> Option<usize> {
        if self.names.len() == most {
            return None;
        }
        self.shapes.push(Shape::default());
        Some(self.names.add(name))
    }

    /// Take note of all that the other has seen, later.
    pub(super) fn merge(&mut self, other: Self, most: usize) {
        self.is_no_record |= other.is_no_record;
        for (name, shape) in other.names.iter().zip(other.shapes) {
            match self.names.get(name).or_else(|| self.add(name, most)) {
                Some(number) => self.shapes[number].merge(shape),
                None => self.is_no_record = true,
            }
        }
    }

    /// The keys, and the type of each one's values.
    pub(super) fn kinds(&self, room: usize) -> Vec<(String, Kind)> {
        self.names.iter().cloned().zip(self.shapes.iter().map(|shape| shape.kind(room))).collect()
    }

    fn record(&self, room: usize) -> Kind {
        if room == 0 || self.is_no_record || self.names.len() == 0 {
            return Kind::Json;
        }
        let kinds = self.kinds(room - 1);
        if kinds.iter().any(|(_, kind)| *kind == Kind::Json) { Kind::Json } else { Kind::Record(kinds) }
    }

    /// What is wrong with columns whose names are no text.
    pub(super) fn check_names(&self) -> Parsed<()> {
        if self.is_no_record {
            Err(Fault::Unreadable("it has a key that is no text, but half a surrogate pair"))
        } else {
            Ok(())
        }
    }
}

/// The columns of rows that hold these.
pub(super) fn columns(rows: &Members) -> Vec<(String, Kind)> {
    rows.kinds(DEEPEST)
}
