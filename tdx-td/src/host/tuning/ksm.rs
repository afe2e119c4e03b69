//! Merging of identical pages (KSM), whose files must be written in a certain order.
//!
//! Source: Linux `Documentation/admin-guide/mm/ksm.rst`.

use common::Result;
use common::system::sysroot::Host;

use crate::host::tuning::change::Change;
use crate::host::tuning::kernel_files::{KSM_APART, KSM_MERGE, KSM_RUN, KSM_SHARED};
use crate::host::tuning::tunable::Tunable;

/// The state of KSM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ksm {
    /// Value of [`KSM_RUN`]: `0`, `1` or `2`.
    pub run: String,
    /// Value of [`KSM_MERGE`]: `0` or `1`; `None` on a kernel without NUMA.
    pub merge: Option<String>,
    /// Number of merged pages.
    pub shared: u64,
}

impl Ksm {
    /// Reads the state of KSM; `None` on a kernel without KSM.
    ///
    /// Errors: `permission`, `io`.
    pub fn read(host: &Host) -> Result<Option<Self>> {
        let text = |path| host.read(path).map(|text| text.map(|text| text.trim().to_owned()));
        let Some(run) = text(KSM_RUN)? else { return Ok(None) };
        let shared = text(KSM_SHARED)?.and_then(|pages| pages.parse().ok()).unwrap_or(0);
        Ok(Some(Self { run, merge: text(KSM_MERGE)?, shared }))
    }

    /// Returns the changes that lead to these values. `None` leaves a value as it is.
    pub fn changes(&self, run: Option<&str>, merge: Option<&str>) -> Vec<Change> {
        let change = |path: &str, before: &str, after: &str| Change {
            tunable: Tunable::Number(path.to_owned()),
            before: before.to_owned(),
            after: after.to_owned(),
        };
        let mut changes = Vec::new();
        let mut now = self.run.as_str();
        let last = run.unwrap_or(now);
        if let (Some(before), Some(after)) =
            (&self.merge, merge.filter(|m| self.merge.as_deref() != Some(m)))
        {
            // While KSM is on, pages may be merged before the next write.
            if (self.shared > 0 || now == "1") && now != KSM_APART {
                changes.push(change(KSM_RUN, now, KSM_APART));
                now = KSM_APART;
            }
            changes.push(change(KSM_MERGE, before, after));
        }
        if now != last {
            changes.push(change(KSM_RUN, now, last));
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_separate_merged_pages_before_merge_across_nodes_is_written() {
        for (run, merge, shared, to, told) in [
            ("0", "1", 0, (Some("0"), Some("1")), ""),
            ("0", "1", 0, (Some("1"), Some("0")), "merge=0 run=1"),
            ("0", "1", 7, (Some("1"), Some("0")), "run=2 merge=0 run=1"),
            ("1", "1", 0, (Some("0"), Some("0")), "run=2 merge=0 run=0"),
            ("1", "1", 7, (None, Some("0")), "run=2 merge=0 run=1"),
            ("2", "1", 0, (Some("2"), Some("0")), "merge=0"),
            ("1", "1", 7, (Some("0"), None), "run=0"),
        ] {
            let ksm = Ksm { run: run.to_owned(), merge: Some(merge.to_owned()), shared };
            let changes = ksm.changes(to.0, to.1);
            let word = |change: &Change| {
                let name = if change.tunable == Tunable::Number(KSM_RUN.to_owned()) {
                    "run"
                } else {
                    "merge"
                };
                format!("{name}={}", change.after)
            };
            let words: Vec<String> = changes.iter().map(word).collect();
            assert_eq!(words.join(" "), told, "{ksm:?} to {to:?}");
            for (earlier, later) in changes.iter().zip(changes.iter().skip(2)) {
                assert_eq!(earlier.after, later.before);
            }
        }
    }
}
