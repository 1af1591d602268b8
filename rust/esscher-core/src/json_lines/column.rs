//! The values of one column as flat arrays, laid out as Arrow does.

use super::{
    cursor::{Cursor, Fault, Parsed},
    kind::Kind,
    names::Names,
    text::push_json,
};

/// Values, one a row, null or of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    len: usize,
    /// Which values are no nulls; empty as long as none is.
    valid: Vec<bool>,
    values: Values,
}

/// The values themselves; that of a null is 0 or empty.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Nulls.
    Null,
    /// True or false.
    Boolean(Vec<bool>),
    /// Integers.
    Integer(Vec<i64>),
    /// Doubles.
    Double(Vec<f64>),
    /// Strings in UTF-8, one after the other, and where each begins and ends.
    Text(Vec<i32>, Vec<u8>),
    /// As strings, the JSON of each value.
    Json(Vec<i32>, Vec<u8>),
    /// Elements of lists, one after the other, and where each list begins and ends.
    List(Vec<i32>, Box<Column>),
    /// A column for each key.
    Record(Record),
}

/// The columns of objects, whose keys are named here.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    names: Names,
    columns: Vec<Column>,
}

const CHANGED: Fault =
    Fault::Unreadable("a value is of another type than when the file was looked through: it has changed");

impl Column {
    /// A column of a kind, without rows.
    #[must_use]
    pub fn new(kind: &Kind) -> Self {
        let values = match kind {
            Kind::Null => Values::Null,
            Kind::Boolean => Values::Boolean(Vec::new()),
            Kind::Integer => Values::Integer(Vec::new()),
            Kind::Double => Values::Double(Vec::new()),
            Kind::Text => Values::Text(vec![0], Vec::new()),
            Kind::Json => Values::Json(vec![0], Vec::new()),
            Kind::List(kind) => Values::List(vec![0], Box::new(Self::new(kind))),
            Kind::Record(kinds) => Values::Record(Record::new(kinds)),
        };
        Self { len: 0, valid: Vec::new(), values }
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Which values are no nulls, a bit each, or `None` if all are; and the values.
    #[must_use]
    pub fn into_parts(self) -> (Option<Vec<u8>>, Values) {
        ((!self.valid.is_empty()).then(|| bits(&self.valid)), self.values)
    }

    /// Read the value that begins here as the next.
    pub(super) fn read(&mut self, cursor: &mut Cursor<'_>) -> Parsed<()> {
        let token = cursor.token()?;
        if token == b'n' {
            cursor.word(b"null")?;
            self.push_null();
            return Ok(());
        }
        match (&mut self.values, token) {
            (Values::Boolean(values), b't' | b'f') => {
                cursor.word(if token == b't' { b"true" } else { b"false" })?;
                values.push(token == b't');
            }
            (Values::Integer(values), b'-' | b'0'..=b'9') => {
                values.push(cursor.number()?.integer().ok_or(CHANGED)?);
            }
            (Values::Double(values), b'-' | b'0'..=b'9' | b'N' | b'I') => values.push(cursor.number()?.double()),
            (Values::Text(offsets, bytes), b'"') => {
                let text = cursor.string()?;
                if !text.is_text() {
                    return Err(CHANGED);
                }
                text.push_to(bytes);
                offsets.push(bytes.len() as i32);
            }
            (Values::Json(offsets, bytes), _) => {
                push_json(cursor.skip()?, bytes);
                offsets.push(bytes.len() as i32);
            }
            (Values::List(offsets, elements), b'[') => {
                elements.read_all(cursor)?;
                offsets.push(elements.len as i32);
            }
            (Values::Record(record), b'{') => record.read(cursor, self.len)?,
            _ => return Err(CHANGED),
        }
        self.count();
        Ok(())
    }

    /// Read the elements of the list that begins here.
    fn read_all(&mut self, cursor: &mut Cursor<'_>) -> Parsed<()> {
        let mut goes_on = cursor.open(b']')?;
        while goes_on {
            let token = cursor.token()?;
            match &mut self.values {
                Values::Double(values) if matches!(token, b'-' | b'0'..=b'9') => {
                    values.push(cursor.number()?.double());
                    self.count();
                }
                Values::Integer(values) if matches!(token, b'-' | b'0'..=b'9') => {
                    values.push(cursor.number()?.integer().ok_or(CHANGED)?);
                    self.count();
                }
                _ => self.read(cursor)?,
            }
            goes_on = cursor.goes_on(b']')?;
        }
        Ok(())
    }

    /// Count a value that is no null.
    #[inline(always)]
    fn count(&mut self) {
        self.len += 1;
        if !self.valid.is_empty() {
            self.valid.push(true);
        }
    }

    fn push_null(&mut self) {
        self.valid.resize(self.len, true);
        self.valid.push(false);
        self.len += 1;
        match &mut self.values {
            Values::Null => {}
            Values::Boolean(values) => values.push(false),
            Values::Integer(values) => values.push(0),
            Values::Double(values) => values.push(0.0),
            Values::Text(offsets, _) | Values::Json(offsets, _) | Values::List(offsets, _) => {
                offsets.push(offsets[self.len - 1]);
            }
            Values::Record(record) => record.columns.iter_mut().for_each(Self::push_null),
        }
    }

    /// Leave out all rows but the first `len`.
    fn truncate(&mut self, len: usize) {
        self.len = len;
        self.valid.truncate(len);
        match &mut self.values {
            Values::Null => {}
            Values::Boolean(values) => values.truncate(len),
            Values::Integer(values) => values.truncate(len),
            Values::Double(values) => values.truncate(len),
            Values::Text(offsets, bytes) | Values::Json(offsets, bytes) => {
                offsets.truncate(len + 1);
                bytes.truncate(offsets[len] as usize);
            }
            Values::List(offsets, elements) => {
                offsets.truncate(len + 1);
                elements.truncate(offsets[len] as usize);
            }
            Values::Record(record) => record.columns.iter_mut().for_each(|column| column.truncate(len)),
        }
    }
}

impl Record {
    /// Columns of these names and kinds, without rows.
    #[must_use]
    pub fn new(kinds: &[(String, Kind)]) -> Self {
        let mut names = Names::default();
        for (name, _) in kinds {
            names.add(name);
        }
        Self { names, columns: kinds.iter().map(|(_, kind)| Column::new(kind)).collect() }
    }

    /// The columns, in the order of the kinds.
    #[must_use]
    pub fn into_columns(self) -> Vec<Column> {
        self.columns
    }

    /// Read the object that begins here as row number `row`: other keys are passed over, those that lack are null.
    pub(super) fn read(&mut self, cursor: &mut Cursor<'_>, row: usize) -> Parsed<()> {
        let mut guess = 0;
        let mut goes_on = cursor.open(b'}')?;
        while goes_on {
            match self.names.find(&cursor.key()?, guess) {
                Some(number) => {
                    guess = number + 1;
                    // Of values under one key, the last counts.
                    self.columns[number].truncate(row);
                    self.columns[number].read(cursor)?;
                }
                None => cursor.skip().map(|_| ())?,
            }
            goes_on = cursor.goes_on(b'}')?;
        }
        for column in &mut self.columns {
            if column.len == row {
                column.push_null();
            }
        }
        Ok(())
    }
}

/// Booleans as bits, the first the least of its byte.
#[must_use]
pub fn bits(values: &[bool]) -> Vec<u8> {
    let byte = |eight: &[bool]| eight.iter().enumerate().fold(0, |byte, (i, &value)| byte | (u8::from(value) << i));
    values.chunks(8).map(byte).collect()
}
