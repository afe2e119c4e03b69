//! What a comparison leaves open although nothing differs.

use crate::event_log::comparison::{Comparison, ComparisonResult};
use crate::event_log::log::EventLog;

/// The warnings about a log that was compared. `source` names the log.
pub fn warnings(log: &EventLog<'_>, comparisons: &[Comparison<'_>], source: &str) -> Vec<String> {
    let trailing = log
        .has_trailing_bytes
        .then(|| format!("{source} has bytes after the end of the log, which were ignored"));
    let is_unlogged =
        comparisons.iter().any(|comparison| comparison.result == ComparisonResult::Unlogged);
    let unlogged = is_unlogged.then(|| {
        format!(
            "RTMR3 computed from {source} differs from the quote: programs of the guest can extend RTMR3 without an entry \
             in the log (--require-rtmr3 refuses this)"
        )
    });
    trailing.into_iter().chain(unlogged).collect()
}
