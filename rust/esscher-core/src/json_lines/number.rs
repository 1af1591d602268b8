//! Numbers as JSON and Python write them.

use super::cursor::{Fault, Parsed};

/// Up to here a double holds every integer.
pub(super) const EXACT: u64 = 1 << 53;
/// Python reads no longer integers.
const MOST_DIGITS: usize = 4300;
/// So many digits always fit into 64 bits.
const FITTING: usize = 19;
/// The powers of ten that a double holds.
const TENS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// What a number says: `digits`, without sign and point, times a power of ten.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number<'a> {
    written: &'a [u8],
    digits: u64,
    count: usize,
    exponent: i64,
    is_negative: bool,
    /// Whether it is written without point and exponent.
    pub(super) is_integer: bool,
}

impl<'a> Number<'a> {
    /// The number that `bytes` begin with, and how long it is.
    #[inline]
    pub(super) fn parse(bytes: &'a [u8]) -> Parsed<(Self, usize)> {
        let is_negative = bytes.first() == Some(&b'-');
        let start = usize::from(is_negative);
        let (mut digits, whole) = digits_of(&bytes[start..], 0);
        let mut at = start + whole;
        if whole == 0 {
            return name(bytes, start, is_negative);
        }
        if whole > 1 && bytes[start] == b'0' {
            return Err(Fault::Syntax("a number begins with 0"));
        }
        let (mut count, mut exponent) = (whole, 0);
        if bytes.get(at) == Some(&b'.') {
            let fraction;
            (digits, fraction) = digits_of(&bytes[at + 1..], digits);
            if fraction == 0 {
                return Err(Fault::Syntax("a digit is missing"));
            }
            (count, exponent, at) = (count + fraction, -(fraction as i64), at + 1 + fraction);
        }
        let mut is_integer = exponent == 0;
        if matches!(bytes.get(at), Some(b'e' | b'E')) {
            let power;
            (power, at) = power_of(bytes, at + 1)?;
            (exponent, is_integer) = (exponent.saturating_add(power), false);
        }
        if is_integer && whole > MOST_DIGITS {
            return Err(Fault::Unreadable("it holds an integer of more than 4300 digits"));
        }
        Ok((Self { written: &bytes[..at], digits, count, exponent, is_negative, is_integer }, at))
    }

    /// The integer, or the nearest there is.
    pub(super) fn integer(&self) -> i128 {
        let (sign, limit) = if self.is_negative { (-1, i128::MIN) } else { (1, i128::MAX) };
        if self.count <= FITTING {
            return sign * i128::from(self.digits);
        }
        str::from_utf8(self.written).ok().and_then(|text| text.parse().ok()).unwrap_or(limit)
    }

    /// The nearest double, as Python reads it: an integer has no negative zero.
    #[inline]
    pub(super) fn double(&self) -> f64 {
        let place = self.exponent.unsigned_abs() as usize;
        if self.count > FITTING || self.digits > EXACT || place >= TENS.len() {
            // A number of at least one digit is one that Rust reads, too; so are the names.
            return str::from_utf8(self.written).ok().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN);
        }
        // Both are exact, so that the one operation rounds correctly.
        let digits = self.digits as f64;
        let size = if self.exponent < 0 { digits / TENS[place] } else { digits * TENS[place] };
        if self.is_negative && !(self.is_integer && self.digits == 0) { -size } else { size }
    }
}

/// Read digits behind others; those that 64 bits do not hold are lost, which their number tells.
#[inline]
fn digits_of(bytes: &[u8], before: u64) -> (u64, usize) {
    let (mut digits, mut count) = (before, 0);
    for byte in bytes {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        digits = digits.wrapping_mul(10).wrapping_add(u64::from(digit));
        count += 1;
    }
    (digits, count)
}

fn power_of(bytes: &[u8], start: usize) -> Parsed<(i64, usize)> {
    let sign = bytes.get(start).copied();
    let first = start + usize::from(matches!(sign, Some(b'+' | b'-')));
    let (power, count) = digits_of(&bytes[first..], 0);
    if count == 0 {
        return Err(Fault::Syntax("a digit is missing"));
    }
    let power = if count <= FITTING { i64::try_from(power).unwrap_or(i64::MAX) } else { i64::MAX };
    Ok((if sign == Some(b'-') { -power } else { power }, first + count))
}

/// Python's names for what JSON has no number for.
fn name(bytes: &[u8], start: usize, is_negative: bool) -> Parsed<(Number<'_>, usize)> {
    let words: &[&[u8]] = if is_negative { &[b"Infinity"] } else { &[b"Infinity", b"NaN"] };
    let word = words.iter().find(|word| bytes[start..].starts_with(word)).ok_or(NO_NUMBER)?;
    let end = start + word.len();
    let number =
        Number { written: &bytes[..end], digits: 0, count: usize::MAX, exponent: 0, is_negative, is_integer: false };
    Ok((number, end))
}

const NO_NUMBER: Fault = Fault::Syntax("no value begins here");
