//! Numbers as JSON and Python write them.

use super::cursor::{Fault, Parsed};

/// Up to here a double holds every integer.
pub(super) const EXACT: i64 = 1 << 53;
/// Python reads no longer integers.
const MOST_DIGITS: usize = 4300;
/// So many digits always fit into 64 bits.
const FITTING: usize = 19;
/// The powers of ten that a double holds.
const TENS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];
const NO_NUMBER: Fault = Fault::Syntax("no value begins here");
const NO_DIGIT: Fault = Fault::Syntax("a digit is missing");

/// What a number says: `digits`, without sign and point, times a power of ten.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number<'a> {
    /// As it is written.
    pub(super) written: &'a [u8],
    digits: Digits,
    exponent: i64,
    is_negative: bool,
    /// Whether it is written without point and exponent.
    pub(super) is_integer: bool,
}

impl<'a> Number<'a> {
    /// The number that `bytes` begin with.
    #[inline(always)]
    pub(super) fn parse(bytes: &'a [u8]) -> Parsed<Self> {
        let is_negative = bytes.first() == Some(&b'-');
        let start = usize::from(is_negative);
        let whole = match bytes.get(start) {
            Some(byte @ b'0'..=b'9') if !bytes.get(start + 1).is_some_and(u8::is_ascii_digit) => Digits::of(*byte),
            Some(b'1'..=b'9') => Digits::default().followed_by(&bytes[start..]),
            Some(b'0') => return Err(Fault::Syntax("a number begins with 0")),
            _ => return Self::name(bytes, is_negative),
        };
        let mut at = start + whole.count;
        if !matches!(bytes.get(at), Some(b'.' | b'e' | b'E')) {
            if whole.count > MOST_DIGITS {
                return Err(Fault::Unreadable("it holds an integer of more than 4300 digits"));
            }
            return Ok(Self { written: &bytes[..at], digits: whole, exponent: 0, is_negative, is_integer: true });
        }
        let (mut digits, mut exponent) = (whole, 0);
        if bytes[at] == b'.' {
            digits = whole.followed_by_many(&bytes[at + 1..]);
            let fraction = digits.count - whole.count;
            if fraction == 0 {
                return Err(NO_DIGIT);
            }
            (at, exponent) = (at + 1 + fraction, -(fraction as i64));
        }
        if let Some(b'e' | b'E') = bytes.get(at) {
            let power;
            (power, at) = power_of(bytes, at + 1)?;
            exponent = power.saturating_add(exponent);
        }
        Ok(Self { written: &bytes[..at], digits, exponent, is_negative, is_integer: false })
    }

    /// One of Python's names for what JSON has no number for.
    #[cold]
    fn name(bytes: &'a [u8], is_negative: bool) -> Parsed<Self> {
        let words: &[&[u8]] = if is_negative { &[b"-Infinity"] } else { &[b"Infinity", b"NaN"] };
        let word = words.iter().find(|word| bytes.starts_with(word)).ok_or(NO_NUMBER)?;
        let digits = Digits { value: 0, count: usize::MAX };
        Ok(Self { written: &bytes[..word.len()], digits, exponent: 0, is_negative, is_integer: false })
    }

    /// The integer, if it is one of 64 bits.
    #[inline(always)]
    pub(super) fn integer(&self) -> Option<i64> {
        if !self.is_integer {
            return None;
        }
        if self.digits.count >= FITTING {
            return self.read();
        }
        let size = self.digits.value as i64;
        Some(if self.is_negative { -size } else { size })
    }

    /// The nearest double, as Python reads it: an integer has no negative zero.
    #[inline(always)]
    pub(super) fn double(&self) -> f64 {
        let Digits { value, count } = self.digits;
        let place = self.exponent.unsigned_abs() as usize;
        let size = if count > FITTING {
            return self.read().unwrap_or(f64::NAN);
        } else if value <= EXACT as u64 && place < TENS.len() {
            // Both are exact, so that the one operation rounds correctly.
            let digits = value as f64;
            if self.exponent < 0 { digits / TENS[place] } else { digits * TENS[place] }
        } else if self.exponent < 0 && place <= FITTING {
            quotient(value, 10_u64.pow(place as u32))
        } else {
            return self.read().unwrap_or(f64::NAN);
        };
        if self.is_negative && !(self.is_integer && value == 0) { -size } else { size }
    }

    /// The value as Rust reads it, which knows all that is written here.
    #[cold]
    fn read<T: std::str::FromStr>(&self) -> Option<T> {
        str::from_utf8(self.written).ok()?.parse().ok()
    }
}

/// The double nearest to the quotient of two integers, of which none is 0.
fn quotient(dividend: u64, divisor: u64) -> f64 {
    let (up, down) = (dividend.leading_zeros(), divisor.leading_zeros());
    let dividend = u128::from(dividend << up) << 63;
    let divisor = u128::from(divisor << down);
    // Of at least 63 bits, of which a double holds 53: that the last is set where others would follow rounds correctly.
    let whole = dividend / divisor;
    let digits = whole as u64 | u64::from(whole * divisor != dividend);
    digits as f64 * f64::from_bits(u64::from(1023 + down - up - 63) << 52)
}

/// Digits one after the other: those that 64 bits do not hold are lost, which their count tells.
#[derive(Debug, Clone, Copy, Default)]
struct Digits {
    value: u64,
    count: usize,
}

impl Digits {
    fn of(byte: u8) -> Self {
        Self { value: u64::from(byte - b'0'), count: 1 }
    }

    /// These digits and those that `bytes` begin with.
    #[inline(always)]
    fn followed_by(mut self, mut bytes: &[u8]) -> Self {
        while let Some((eight, rest)) = bytes.split_first_chunk() {
            let first = Self::at_first(*eight);
            self = self.joined(first);
            if first.count < 8 {
                return self;
            }
            bytes = rest;
        }
        let rest = bytes.iter().take_while(|byte| byte.is_ascii_digit());
        rest.fold(self, |digits, byte| digits.joined(Self::of(*byte)))
    }

    /// The same, faster if there are about eight: without a branch that depends on it.
    #[inline(always)]
    fn followed_by_many(self, bytes: &[u8]) -> Self {
        let Some((eight, others)) = bytes.split_first_chunk() else { return self.followed_by(bytes) };
        let Some((next, rest)) = others.split_first_chunk() else { return self.followed_by(bytes) };
        let (first, second) = (Self::at_first(*eight), Self::at_first(*next));
        let second = if first.count == 8 { second } else { Self::default() };
        let both = self.joined(first).joined(second);
        if second.count == 8 { both.followed_by(rest) } else { both }
    }

    #[inline(always)]
    fn joined(self, after: Self) -> Self {
        const POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];
        let value = self.value.wrapping_mul(POWERS[after.count]).wrapping_add(after.value);
        Self { value, count: self.count + after.count }
    }

    /// The digits that eight bytes begin with, all at once (Lemire, "Quickly parsing eight digits", 2018).
    #[inline(always)]
    fn at_first(bytes: [u8; 8]) -> Self {
        let digits = u64::from_le_bytes(bytes) ^ 0x3030_3030_3030_3030;
        // The high bit of a byte that is no digit; behind the first such byte, a carry may set others.
        let others = (digits.wrapping_add(0x7676_7676_7676_7676) | digits) & 0x8080_8080_8080_8080;
        let count = others.trailing_zeros() / 8;
        // What follows is shifted out, and zeros come before.
        let digits = digits.checked_shl(64 - 8 * count).unwrap_or(0);
        let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
        let low = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
        let high = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
        Self { value: low.wrapping_add(high) >> 32, count: count as usize }
    }
}

fn power_of(bytes: &[u8], start: usize) -> Parsed<(i64, usize)> {
    let sign = bytes.get(start).copied();
    let first = start + usize::from(matches!(sign, Some(b'+' | b'-')));
    let digits = Digits::default().followed_by(bytes.get(first..).unwrap_or_default());
    if digits.count == 0 {
        return Err(NO_DIGIT);
    }
    // Beyond 64 bits, zeros apart, every number is 0 or infinite.
    let power = if digits.count < FITTING { digits.value as i64 } else { FAR };
    Ok((if sign == Some(b'-') { -power } else { power }, first + digits.count))
}

/// An exponent for which Rust reads the number.
const FAR: i64 = 1 << 40;
