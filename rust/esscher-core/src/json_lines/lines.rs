//! Text as lines, and in pieces that threads work on.

use memchr::memchr2;

/// So much text is a piece of its own; a line is never cut.
const PIECE: usize = 1 << 18;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Divide text behind line ends.
pub(super) fn pieces(mut text: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while !text.is_empty() {
        let start = text.len().min(PIECE);
        let (piece, rest) = text.split_at(start + end_of(&text[start - 1..]) - 1);
        pieces.push(piece);
        text = rest;
    }
    pieces
}

/// The lines, and how many there are of them; each with its number, from 0, and without its end.
pub(super) struct Lines<'a> {
    rest: &'a [u8],
    pub(super) count: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { rest: text, count: 0 }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let (line, rest) = self.rest.split_at(end_of(self.rest));
        (self.rest, self.count) = (rest, self.count + 1);
        Some(line)
    }
}

/// Where the first line ends, its end included: a line feed, a carriage return, or both.
fn end_of(text: &[u8]) -> usize {
    match memchr2(b'\n', b'\r', text) {
        Some(at) if text[at..].starts_with(b"\r\n") => at + 2,
        Some(at) => at + 1,
        None => text.len(),
    }
}

/// A line without a mark that a file may begin with.
pub(super) fn unmarked(line: &[u8]) -> &[u8] {
    line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line)
}

/// Whether a line holds nothing but what Python takes for white space.
pub(super) fn is_blank(line: &[u8]) -> bool {
    line.iter().all(|byte| byte.is_ascii_whitespace() || *byte == b'\x0b')
}
