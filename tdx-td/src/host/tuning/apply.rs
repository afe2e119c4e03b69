//! Carrying changes out, and undoing them when one fails.

use common::cli::interrupt;
use common::system::sysroot::Host;
use common::{Error, Result};

use super::ksm::{self, Ksm};
use crate::host::tuning::tunable::Tunable;

/// A new value for a knob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What it is.
    pub knob: Tunable,
    /// What it says.
    pub before: String,
    /// What it is to say.
    pub after: String,
}

impl Change {
    fn is_any(&self) -> bool {
        self.before != self.after
    }
}

/// The changes in an order in which the kernel takes them.
pub fn in_order(ksm: Option<&Ksm>, changes: Vec<Change>) -> Vec<Change> {
    let is = |change: &Change, path: &str| change.knob.file() == Some(path);
    let target = |path: &str| {
        let found = changes.iter().find(|change| is(change, path) && change.is_any());
        found.map(|change| change.after.clone())
    };
    let (run, merge) = (target(ksm::RUN), target(ksm::MERGE));
    let mut merging =
        ksm.map(|ksm| ksm.changes(run.as_deref(), merge.as_deref())).unwrap_or_default();
    let mut ordered = Vec::new();
    for change in changes {
        if is(&change, ksm::RUN) || is(&change, ksm::MERGE) {
            ordered.append(&mut merging);
        } else if change.is_any() {
            ordered.push(change);
        }
    }
    ordered
}

/// Fails unless all changes can be made, as far as that is known without making them.
///
/// Errors: `permission`, `io`, with the path.
pub fn check_writable(host: &Host, changes: &[Change]) -> Result<()> {
    changes.iter().try_for_each(|change| change.knob.check_writable(host))
}

/// Makes the changes one after another. The first failure undoes those that were made.
///
/// Errors: those of [`Tunable::write`], with what is left when that cannot be undone; `interrupted`.
pub fn carry_out(host: &Host, changes: &[Change]) -> Result<()> {
    for (index, change) in changes.iter().enumerate() {
        let done = interrupt::check().and_then(|()| change.knob.write(host, &change.after));
        if let Err(error) = done {
            return Err(undone(host, &changes[..=index], error));
        }
    }
    Ok(())
}

/// Makes changes undone, the last one first; the error then says what is left.
fn undone(host: &Host, changes: &[Change], error: Error) -> Error {
    let mut back: Vec<Change> = Vec::new();
    for change in changes {
        if !back.iter().any(|other| other.knob == change.knob) {
            let now = change.knob.read(host).ok().flatten().unwrap_or_default();
            let (knob, after) = (change.knob.clone(), change.before.clone());
            back.push(Change { knob, before: now, after });
        }
    }
    back.reverse();
    let left = each(host, &in_order(Ksm::read(host).ok().flatten().as_ref(), back));
    error.left_behind(
        left.into_iter()
            .map(|(change, why)| format!("{}, which was {}: {why}", change.knob, change.after)),
    )
}

/// Tries every change; returns those that failed.
pub fn each(host: &Host, changes: &[Change]) -> Vec<(Change, Error)> {
    let failed = |change: &Change| {
        let error = change.knob.write(host, &change.after).err()?;
        Some((change.clone(), error))
    };
    changes.iter().filter_map(failed).collect()
}
