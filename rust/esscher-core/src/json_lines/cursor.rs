//! JSON as Python's `json` reads it, one value at a time: where it ends, and what it says.

use super::{
    number::Number,
    text::{self, Text},
};

/// Python gives up near 1000, and what is read here must be readable there.
const DEEPEST: usize = 512;

/// What is wrong with a line, at the place where the cursor then stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fault {
    /// It is not valid JSON.
    Syntax(&'static str),
    /// It is, but of a kind that is not read.
    Unreadable(&'static str),
    /// It is JSON, but no object.
    NoObject,
}

pub(super) type Parsed<T> = std::result::Result<T, Fault>;

const CUT_OFF: Fault = Fault::Syntax("the line ends within a value");
const NO_VALUE: Fault = Fault::Syntax("no value begins here");

/// Bytes that decide where a list or an object ends: brackets and quotes.
const DECIDES: [bool; 256] = {
    let mut table = [false; 256];
    let bytes = b"\"[]{}";
    let mut i = 0;
    while i < bytes.len() {
        table[bytes[i] as usize] = true;
        i += 1;
    }
    table
};

/// A place within one line.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, depth: 0 }
    }

    /// How many characters there are before this place.
    pub(super) fn character(&self) -> usize {
        self.bytes[..self.at].iter().filter(|&&byte| byte & 0xc0 != 0x80).count()
    }

    /// The byte that the next value or sign begins with.
    #[inline(always)]
    pub(super) fn token(&mut self) -> Parsed<u8> {
        while let Some(&byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Ok(byte);
            }
            self.at += 1;
        }
        Err(CUT_OFF)
    }

    /// Check that nothing follows.
    pub(super) fn end(&mut self) -> Parsed<()> {
        match self.token() {
            Ok(_) => Err(Fault::Syntax("something follows the value")),
            Err(_) => Ok(()),
        }
    }

    /// Whether a word begins here, which then is behind.
    pub(super) fn takes(&mut self, word: &[u8]) -> bool {
        let is_here = self.bytes[self.at..].starts_with(word);
        self.at += if is_here { word.len() } else { 0 };
        is_here
    }

    pub(super) fn word(&mut self, word: &[u8]) -> Parsed<()> {
        if self.takes(word) { Ok(()) } else { Err(NO_VALUE) }
    }

    /// A number: digits, or one of Python's names for what is not finite.
    #[inline(always)]
    pub(super) fn number(&mut self) -> Parsed<Number<'a>> {
        let number = Number::parse(&self.bytes[self.at..])?;
        self.at += number.written.len();
        Ok(number)
    }

    /// A string that begins here, checked.
    pub(super) fn string(&mut self) -> Parsed<Text<'a>> {
        let (text, len) = Text::parse(&self.bytes[self.at + 1..])?;
        self.at += len + 1;
        Ok(text)
    }

    /// Go behind the bracket that begins here: is there something before the one that closes it? If not, behind that.
    #[inline(always)]
    pub(super) fn open(&mut self, closing: u8) -> Parsed<bool> {
        if self.depth == DEEPEST {
            return Err(Fault::Unreadable("it is nested too deeply"));
        }
        self.depth += 1;
        self.at += 1;
        let is_empty = self.token()? == closing;
        if is_empty {
            self.close();
        }
        Ok(!is_empty)
    }

    /// Go behind the comma that follows, if one does, or else behind the closing bracket.
    #[inline(always)]
    pub(super) fn goes_on(&mut self, closing: u8) -> Parsed<bool> {
        let byte = self.token()?;
        if byte == b',' {
            self.at += 1;
        } else if byte == closing {
            self.close();
        } else {
            return Err(Fault::Syntax("a comma or a closing bracket is missing"));
        }
        Ok(byte == b',')
    }

    #[inline(always)]
    fn close(&mut self) {
        self.depth -= 1;
        self.at += 1;
    }

    /// The key that follows, and its colon.
    pub(super) fn key(&mut self) -> Parsed<Text<'a>> {
        if self.token()? != b'"' {
            return Err(Fault::Syntax("a key in quotes is missing"));
        }
        let key = self.string()?;
        self.token()?;
        if self.takes(b":") { Ok(key) } else { Err(Fault::Syntax("a colon is missing")) }
    }

    /// The value that begins here as it is written, looked at only to find where it ends.
    pub(super) fn skip(&mut self) -> Parsed<&'a [u8]> {
        let first = self.token()?;
        let start = self.at;
        match first {
            b'"' => self.skip_string()?,
            b'[' | b'{' => self.skip_nested()?,
            _ => {
                let rest = &self.bytes[start..];
                let len = rest.iter().position(|byte| matches!(byte, b',' | b']' | b'}' | b':' | b' ' | b'\t'));
                self.at += len.unwrap_or(rest.len());
            }
        }
        if self.at == start { Err(NO_VALUE) } else { Ok(&self.bytes[start..self.at]) }
    }

    fn skip_string(&mut self) -> Parsed<()> {
        let len = text::length(&self.bytes[self.at..]);
        self.at = len.map_or(self.bytes.len(), |len| self.at + len);
        len.map(|_| ()).ok_or(CUT_OFF)
    }

    fn skip_nested(&mut self) -> Parsed<()> {
        let mut open = 0_usize;
        while let Some(len) = self.bytes[self.at..].iter().position(|&byte| DECIDES[usize::from(byte)]) {
            self.at += len;
            match self.bytes[self.at] {
                b'"' => {
                    self.skip_string()?;
                    continue;
                }
                b'[' | b'{' => open += 1,
                _ => open -= 1,
            }
            self.at += 1;
            if open == 0 {
                return Ok(());
            }
        }
        self.at = self.bytes.len();
        Err(CUT_OFF)
    }
}
