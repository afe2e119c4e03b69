//! Progress and interruption of a long operation.

use std::fmt;

use common::error::Result;

/// Who watches a long operation.
pub struct Watch<'a> {
    /// Called with the bytes done and the bytes in all, at most every 100 ms and once at the end.
    pub progress: &'a mut dyn FnMut(u64, u64),
    /// Asked before every piece; its error ends the operation.
    pub interrupt: &'a dyn Fn() -> Result<()>,
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}
