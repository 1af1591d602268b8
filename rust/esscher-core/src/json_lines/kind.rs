//! The types that columns are read as.

/// What all values of a column are; nulls may stand among any.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Nothing but nulls.
    Null,
    /// True or false.
    Boolean,
    /// Integers of 64 bits.
    Integer,
    /// Doubles, or integers that these hold.
    Double,
    /// Strings that have a UTF-8.
    Text,
    /// What is of no one type: the JSON of each value.
    Json,
    /// Lists of one kind.
    List(Box<Kind>),
    /// Objects of these keys, each of one kind.
    Record(Vec<(String, Kind)>),
}
