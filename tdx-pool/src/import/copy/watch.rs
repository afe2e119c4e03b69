//! Progress and interruption of a long operation.

use std::fmt;

use common::error::Result;

/// The callbacks of a long operation: for its progress and for interruption.
pub struct Watch<'a> {
    /// Called with the bytes done and the total, at most every 100 ms and once at the end.
    pub progress: &'a mut dyn FnMut(u64, u64),
    /// Called before every piece. An error ends the operation.
    pub interrupt: &'a dyn Fn() -> Result<()>,
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}
