//! Strings: as they are written between their quotes, and as they are meant.

use std::borrow::Cow;

use memchr::{memchr, memchr2, memmem};

use super::cursor::{Fault, Parsed};

/// What a string holds, without its quotes, with its escapes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'a> {
    written: &'a [u8],
    is_escaped: bool,
    has_half_pair: bool,
}

impl<'a> Text<'a> {
    /// The string whose first quote is before `bytes`, and how far its last quote reaches.
    pub(super) fn parse(bytes: &'a [u8]) -> Parsed<(Self, usize)> {
        let (mut at, mut is_escaped, mut has_half_pair) = (0, false, false);
        while let Some(len) = memchr2(b'"', b'\\', &bytes[at..]) {
            at += len;
            if bytes[at] == b'"' {
                let written = &bytes[..at];
                // The least rather than the first: a loop without a way out is done many bytes at a time.
                if written.iter().fold(u8::MAX, |least, &byte| least.min(byte)) < b' ' {
                    return Err(Fault::Syntax("a string holds a control character"));
                }
                return Ok((Self { written, is_escaped, has_half_pair }, at + 1));
            }
            is_escaped = true;
            if let Some(b'n' | b'"' | b'\\' | b't' | b'r' | b'/' | b'b' | b'f') = bytes.get(at + 1) {
                at += 2;
                continue;
            }
            let (character, len) = escape(&bytes[at..])?;
            has_half_pair |= character.is_none();
            at += len;
        }
        Err(Fault::Syntax("a string does not end"))
    }

    /// Whether it has a UTF-8: Python holds half a surrogate pair, and bytes that are none, which have not.
    pub(super) fn is_text(&self) -> bool {
        !self.has_half_pair && str::from_utf8(self.written).is_ok()
    }

    /// What is meant; `None` if it has no UTF-8.
    pub(super) fn meant(&self) -> Option<Cow<'a, str>> {
        if self.has_half_pair {
            return None;
        }
        let written = str::from_utf8(self.written).ok()?;
        if !self.is_escaped {
            return Some(Cow::Borrowed(written));
        }
        let mut out = Vec::with_capacity(written.len());
        self.push_to(&mut out);
        String::from_utf8(out).ok().map(Cow::Owned)
    }

    /// Whether it is written as `text`, without escapes.
    #[inline]
    pub(super) fn is_plainly(&self, text: &str) -> bool {
        !self.is_escaped && self.written == text.as_bytes()
    }

    /// Write what is meant behind `out`; of what `is_text`.
    pub(super) fn push_to(&self, out: &mut Vec<u8>) {
        let mut rest = self.written;
        while let Some(len) = if self.is_escaped { memchr(b'\\', rest) } else { None } {
            out.extend_from_slice(&rest[..len]);
            let (character, escaped) = escape(&rest[len..]).unwrap_or((None, 2));
            let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            rest = &rest[len + escaped..];
        }
        out.extend_from_slice(rest);
    }
}

/// The character that an escape at the beginning of `bytes` means, `None` for half a surrogate pair, and its length.
fn escape(bytes: &[u8]) -> Parsed<(Option<char>, usize)> {
    let plain = match bytes.get(1) {
        Some(b'u') => return unicode_escape(bytes),
        Some(b'n') => '\n',
        Some(b't') => '\t',
        Some(b'r') => '\r',
        Some(b'b') => '\x08',
        Some(b'f') => '\x0c',
        Some(&byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
        _ => return Err(Fault::Syntax("a string holds a backslash that escapes nothing")),
    };
    Ok((Some(plain), 2))
}

fn unicode_escape(bytes: &[u8]) -> Parsed<(Option<char>, usize)> {
    let first = code(bytes).ok_or(Fault::Syntax("a string holds \\u without four digits"))?;
    if (0xd800..0xdc00).contains(&first)
        && let Some(second) = bytes.get(6..).and_then(code)
        && (0xdc00..0xe000).contains(&second)
    {
        return Ok((char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)), 12));
    }
    Ok((char::from_u32(first), 6))
}

/// The number in `\uXXXX`.
fn code(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |code, &digit| Some(code * 16 + char::from(digit).to_digit(16)?))
}

/// How long the string is that `bytes` begin with, its quotes included; only its end is looked for.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    while let Some(len) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += len + 1;
        if bytes[at - 1] == b'"' {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// Write JSON behind `out` as it is written, but in UTF-8, and infinities as numbers that overflow to them.
///
/// A byte that is no UTF-8 becomes the escape of the half surrogate pair that Python reads it as.
pub(super) fn push_json(written: &[u8], out: &mut Vec<u8>) {
    if memmem::find(written, INFINITY).is_none() {
        return push_utf8(written, out);
    }
    let mut rest = written;
    while !rest.is_empty() {
        let (outside, others) = rest.split_at(memchr(b'"', rest).unwrap_or(rest.len()));
        push_finite(outside, out);
        let (string, others) = others.split_at(length(others).unwrap_or(others.len()));
        push_utf8(string, out);
        rest = others;
    }
}

const INFINITY: &[u8] = b"Infinity";

fn push_finite(mut outside: &[u8], out: &mut Vec<u8>) {
    while let Some(len) = memmem::find(outside, INFINITY) {
        push_utf8(&outside[..len], out);
        out.extend_from_slice(b"1e999");
        outside = &outside[len + INFINITY.len()..];
    }
    push_utf8(outside, out);
}

fn push_utf8(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        out.extend_from_slice(chunk.valid().as_bytes());
        for byte in chunk.invalid() {
            out.extend_from_slice(format!("\\udc{byte:02x}").as_bytes());
        }
    }
}
