//! The one error type: every rule that an input can break.

use thiserror::Error;

/// A broken rule: which argument, where in it, and the rule.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Error {
    /// Offsets must hold at least the leading 0.
    #[error("{name} is empty: offsets start with 0 and have one more entry than there are rows")]
    OffsetsEmpty {
        /// The argument.
        name: &'static str,
    },
    /// Offsets must start at 0.
    #[error("{name}[0] is {first}: offsets start with 0")]
    OffsetsStart {
        /// The argument.
        name: &'static str,
        /// What stands first.
        first: i64,
    },
    /// Offsets must not fall.
    #[error("{name}[{index}] is {after}, below the {before} before it: offsets never fall")]
    OffsetsFall {
        /// The argument.
        name: &'static str,
        /// The index of the entry that is too small.
        index: usize,
        /// The entry before it.
        before: i64,
        /// The entry itself.
        after: i64,
    },
    /// The last offset must equal the number of values.
    #[error("{name} ends at {end}, but there are {len} values to divide into rows")]
    OffsetsEnd {
        /// The argument.
        name: &'static str,
        /// The last offset.
        end: i64,
        /// The number of values.
        len: usize,
    },
    /// Two arguments that go together must have the same length.
    #[error("{name} has {got} entries, {other} has {expected}: they must be equal")]
    Length {
        /// The argument.
        name: &'static str,
        /// Its length.
        got: usize,
        /// The argument it must match.
        other: &'static str,
        /// The length of that one.
        expected: usize,
    },
    /// Two ragged arguments must have the same rows.
    #[error("row {row} of {name} has {got} tokens, of {other} {expected}: they must be equal")]
    RowLength {
        /// The argument.
        name: &'static str,
        /// The first row that differs.
        row: usize,
        /// Its length.
        got: usize,
        /// The argument it must match.
        other: &'static str,
        /// The length of the row there.
        expected: usize,
    },
    /// A log-prob must be at most 0 and not NaN.
    #[error("{name}[{place}] is {value}: a log-prob is at most 0 (-inf included) and not NaN")]
    LogProb {
        /// The argument.
        name: &'static str,
        /// Where, as the caller indexes it.
        place: String,
        /// The value there.
        value: f64,
    },
    /// A log-weight must be finite or -inf.
    #[error("{name}[{index}] is {value}: it must be finite or -inf (which means: no weight)")]
    LogWeight {
        /// The argument.
        name: &'static str,
        /// Where.
        index: usize,
        /// The value there.
        value: f64,
    },
    /// A weight must be finite and at least 0.
    #[error("{name}[{index}] is {value}: a weight is finite and at least 0 (which means: left out)")]
    Weight {
        /// The argument.
        name: &'static str,
        /// Where.
        index: usize,
        /// The value there.
        value: f64,
    },
    /// A sample must be possible under the distribution it came from.
    #[error("log_proposal[{index}] is {value}: a sample has a finite log-prob under the distribution it came from")]
    Proposal {
        /// Where.
        index: usize,
        /// The value there.
        value: f64,
    },
    /// log(0/0): neither distribution can have produced the token or sequence.
    #[error("{what} {place} is -inf under both policy and prior: their log-ratio is undefined")]
    UndefinedRatio {
        /// "token" or "completion".
        what: &'static str,
        /// Which one, as the caller indexes it.
        place: String,
    },
    /// A logit must be finite or `-inf`.
    #[error("{name}[{row}, {column}] is {value}: a logit is finite or -inf (which means: impossible)")]
    Logit {
        /// The argument.
        name: &'static str,
        /// The token.
        row: usize,
        /// The entry of the vocabulary.
        column: usize,
        /// The value there.
        value: f64,
    },
    /// Some token must be possible.
    #[error("{name}[{row}] is -inf throughout: no token is possible there")]
    NoToken {
        /// The argument.
        name: &'static str,
        /// The token.
        row: usize,
    },
    /// A token must be in the vocabulary.
    #[error("token_ids[{index}] is {value}: the vocabulary has {vocabulary} tokens, numbered from 0")]
    TokenId {
        /// Which token.
        index: usize,
        /// Its id.
        value: i64,
        /// The vocabulary's size.
        vocabulary: usize,
    },
    /// A mask says keep or drop.
    #[error("mask row {row} has an entry that is neither 0 nor 1")]
    Mask {
        /// The first such row.
        row: usize,
    },
    /// A row cannot be longer than the array is wide.
    #[error("lengths[{index}] is {len}: it must be between 0 and the array's width, {width}")]
    RowTooLong {
        /// Which length.
        index: usize,
        /// The length.
        len: i64,
        /// The width of the padded array.
        width: usize,
    },
    /// A number must lie in a range.
    #[error("{name} is {value}: it must be {rule}")]
    Range {
        /// The argument.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The rule, in words.
        rule: &'static str,
    },
    /// A word must be one of a few.
    #[error("{name} is {value:?}: it must be one of {choices}")]
    Choice {
        /// The argument.
        name: &'static str,
        /// What was given.
        value: String,
        /// What may be given.
        choices: String,
    },
    /// A uniform must lie in [0, 1).
    #[error("uniforms[{index}] is {value}: a uniform lies in [0, 1)")]
    Uniform {
        /// Where.
        index: usize,
        /// The value there.
        value: f64,
    },
    /// Nothing can be drawn where nothing has weight.
    #[error("group {group} has no weight, so nothing can be drawn from it")]
    Weightless {
        /// Which group.
        group: usize,
    },
    /// A line must be valid JSON.
    #[error("line {line} is not valid JSON: {what} at character {character}. {ONE_A_LINE}")]
    NotJson {
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
        /// Where, from 0.
        character: usize,
    },
    /// A line must be JSON that can be held.
    #[error("line {line} cannot be read: {what}")]
    UnreadableLine {
        /// Which line, from 1.
        line: usize,
        /// What it holds.
        what: &'static str,
    },
    /// A line must hold an object.
    #[error("line {line} is no JSON object: {ONE_A_LINE}")]
    NoObject {
        /// Which line, from 1.
        line: usize,
    },
}

const ONE_A_LINE: &str = "JSON lines hold one whole {...} a line";

/// A result whose error is [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// The choice whose name is `value`.
pub(crate) fn choose<T: Copy>(name: &'static str, value: &str, choices: &[(&str, T)]) -> Result<T> {
    let named = choices.iter().find(|choice| choice.0 == value).map(|choice| choice.1);
    named.ok_or_else(|| {
        let choices = choices.iter().map(|choice| choice.0).collect::<Vec<_>>().join(", ");
        Error::Choice { name, value: value.into(), choices }
    })
}
