//! A change of one tunable.

use crate::host::tuning::tunable::Tunable;

/// A new value for a tunable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What it is.
    pub tunable: Tunable,
    /// What it says.
    pub before: String,
    /// What it is to say.
    pub after: String,
}

impl Change {
    /// Whether the two values differ.
    pub fn is_change(&self) -> bool {
        self.before != self.after
    }
}
