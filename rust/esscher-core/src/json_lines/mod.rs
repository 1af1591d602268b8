//! Lines of JSON, an object each, as columns: first what they hold, then the values of those that are asked for.
//!
//! What counts as JSON is what Python's `json` reads, with its names for what is not finite, numbers beyond the range of
//! doubles, and bytes that are no UTF-8 where nothing is made of them. Lines are read in pieces of a fixed size, so that
//! results do not depend on the number of threads.

mod column;
mod cursor;
mod kind;
mod lines;
mod names;
mod number;
mod shape;
#[cfg(test)]
mod tests;
mod text;

pub use column::{Column, Record, Values, bits};
pub use kind::Kind;

use crate::{Error, Result, parallel};
use cursor::{Cursor, Fault, Parsed};
use lines::{Lines, is_blank, pieces, unmarked};
use shape::{Members, Shape};

/// What one call may be given at most: offsets are 32 bits, and a byte becomes six at most.
const LONGEST: usize = 1 << 28;

/// What lines hold that were looked through one text after the other.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// How many lines there were, blank ones included.
    pub lines: usize,
    /// How many of them hold an object.
    pub rows: usize,
    found: Members,
}

/// The rows that a piece of text holds, those columns that were asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// How many lines there were, blank ones included.
    pub lines: usize,
    /// How many rows.
    pub rows: usize,
    /// The columns, in the order of their kinds.
    pub columns: Vec<Column>,
}

impl Scan {
    /// Look through text that holds the lines behind those already seen.
    ///
    /// # Errors
    /// If a line is no JSON object.
    pub fn see(&mut self, text: &[u8]) -> Result<()> {
        let found = each_piece(text, self.lines, |piece, is_first| {
            let mut found = Members::default();
            let done = each_row(piece, is_first, |cursor, _| {
                found.see(cursor, usize::MAX)?;
                found.check_names()
            })?;
            Ok((done, found))
        })?;
        for (done, found) in found {
            self.lines += done.lines;
            self.rows += done.rows;
            self.found.merge(found, usize::MAX);
        }
        Ok(())
    }

    /// The columns, in the order in which they were first seen, and the type that holds each as it is.
    ///
    /// Where a line has a key twice, both of its values count here.
    #[must_use]
    pub fn columns(&self) -> Vec<(String, Kind)> {
        shape::columns(&self.found)
    }
}

/// Read the columns that `kinds` name from text that holds the lines behind the first `before`.
///
/// Of other columns it is only looked for where their values end.
///
/// # Errors
/// If a line is no JSON object, or a value not of its column's kind.
pub fn read(text: &[u8], kinds: &[(String, Kind)], before: usize) -> Result<Vec<Batch>> {
    each_piece(text, before, |piece, is_first| {
        let mut record = Record::new(kinds);
        let Done { lines, rows } = each_row(piece, is_first, |cursor, row| record.read(cursor, row))?;
        Ok(Batch { lines, rows, columns: record.into_columns() })
    })
}

/// What was gone through: all lines, and those that are not blank.
struct Done {
    lines: usize,
    rows: usize,
}

/// What is wrong with a line, given how many lines of its piece are before it.
struct Broken {
    before: usize,
    character: usize,
    fault: Fault,
}

/// What `work` gives for each piece of text; it is told if the piece begins a file.
fn each_piece<T: Send>(
    text: &[u8],
    before: usize,
    work: impl Fn(&[u8], bool) -> std::result::Result<T, Broken> + Sync + Send,
) -> Result<Vec<T>> {
    let pieces = pieces(text);
    if let Some(long) = pieces.iter().position(|piece| piece.len() > LONGEST) {
        let before = before + pieces[..long].iter().map(|piece| Lines::new(piece).count()).sum::<usize>();
        return Err(Error::UnreadableLine { line: before + 1, what: "it is longer than 256 MiB" });
    }
    let done = parallel::map(pieces.len(), |i| work(pieces[i], before + i == 0));
    let broken = |i: usize, Broken { before: within, character, fault }| {
        let line = 1 + before + pieces[..i].iter().map(|piece| Lines::new(piece).count()).sum::<usize>() + within;
        match fault {
            Fault::Syntax(what) => Error::NotJson { line, what, character },
            Fault::Unreadable(what) => Error::UnreadableLine { line, what },
            Fault::NoObject => Error::NoObject { line },
        }
    };
    done.into_iter().enumerate().map(|(i, done)| done.map_err(|error| broken(i, error))).collect()
}

/// Call `read` at the object of each line that is not blank, with the number of the row.
fn each_row(
    piece: &[u8],
    is_first: bool,
    mut read: impl FnMut(&mut Cursor<'_>, usize) -> Parsed<()>,
) -> std::result::Result<Done, Broken> {
    let (mut lines, mut rows) = (Lines::new(piece), 0);
    while let Some(line) = lines.next() {
        let line = if is_first && lines.count == 1 { unmarked(line) } else { line };
        if is_blank(line) {
            continue;
        }
        let mut cursor = Cursor::new(line);
        let row = object(&mut cursor).and_then(|()| read(&mut cursor, rows)).and_then(|()| cursor.end());
        if let Err(fault) = row {
            return Err(Broken { before: lines.count - 1, character: cursor.character(), fault });
        }
        rows += 1;
    }
    Ok(Done { lines: lines.count, rows })
}

/// Check that an object begins here; if something else does, that it is valid decides what is said.
fn object(cursor: &mut Cursor<'_>) -> Parsed<()> {
    if cursor.token()? == b'{' {
        return Ok(());
    }
    Shape::default().see(cursor)?;
    cursor.end()?;
    Err(Fault::NoObject)
}
