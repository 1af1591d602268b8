//! The statistics of a group's n-grams of one order.

/// Distinct-n, the entropy in nats, and rarefied distinct-n. NaN where there is no answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Summary {
    pub(super) distinct: f64,
    pub(super) entropy: f64,
    pub(super) rarefied: f64,
}

impl Summary {
    /// Of a group without n-grams.
    pub(super) const NONE: Self = Self { distinct: f64::NAN, entropy: f64::NAN, rarefied: f64::NAN };
}
