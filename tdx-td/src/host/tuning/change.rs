//! A change of one tunable.

use crate::host::tuning::tunable::Tunable;

/// A new value for a tunable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The tunable.
    pub tunable: Tunable,
    /// The value before the change.
    pub before: String,
    /// The value after the change.
    pub after: String,
}

impl Change {
    /// Whether the two values differ.
    pub fn is_change(&self) -> bool {
        self.before != self.after
    }
}
