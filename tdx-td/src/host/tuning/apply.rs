//! Making changes, and undoing them if one fails.

use common::cli::interrupt;
use common::system::sysroot::Host;
use common::{Error, Result};

use crate::host::tuning::change::Change;
use crate::host::tuning::kernel_files;
use crate::host::tuning::ksm::Ksm;

/// Returns the changes in an order that the kernel accepts.
pub fn in_order(ksm: Option<&Ksm>, changes: Vec<Change>) -> Vec<Change> {
    let is = |change: &Change, path: &str| change.tunable.file() == Some(path);
    let target = |path: &str| {
        let found = changes.iter().find(|change| is(change, path) && change.is_change());
        found.map(|change| change.after.clone())
    };
    let (run, merge) = (target(kernel_files::KSM_RUN), target(kernel_files::KSM_MERGE));
    let mut merging =
        ksm.map(|ksm| ksm.changes(run.as_deref(), merge.as_deref())).unwrap_or_default();
    let mut ordered = Vec::new();
    for change in changes {
        if is(&change, kernel_files::KSM_RUN) || is(&change, kernel_files::KSM_MERGE) {
            ordered.append(&mut merging);
        } else if change.is_change() {
            ordered.push(change);
        }
    }
    ordered
}

/// Fails unless all changes can be made, as far as that can be checked without making them.
///
/// Errors: `permission`, `io`, with the path.
pub fn check_writable(host: &Host, changes: &[Change]) -> Result<()> {
    changes.iter().try_for_each(|change| change.tunable.check_writable(host))
}

/// Makes the changes one after another. If one fails, the changes before it are undone.
///
/// Errors: those of `Tunable::write`, with the changes that could not be undone; `interrupted`.
pub fn apply_or_undo(host: &Host, changes: &[Change]) -> Result<()> {
    for (index, change) in changes.iter().enumerate() {
        let done = interrupt::check().and_then(|()| change.tunable.write(host, &change.after));
        if let Err(error) = done {
            return Err(undo(host, &changes[..=index], error));
        }
    }
    Ok(())
}

/// Undoes changes, the last one first. Adds those that could not be undone to the error.
fn undo(host: &Host, changes: &[Change], error: Error) -> Error {
    let mut inverse: Vec<Change> = Vec::new();
    for change in changes {
        if !inverse.iter().any(|other| other.tunable == change.tunable) {
            let now = change.tunable.read(host).ok().flatten().unwrap_or_default();
            let (tunable, after) = (change.tunable.clone(), change.before.clone());
            inverse.push(Change { tunable, before: now, after });
        }
    }
    inverse.reverse();
    let left = apply_all(host, &in_order(Ksm::read(host).ok().flatten().as_ref(), inverse));
    error.left_behind(left.into_iter().map(|(change, why)| {
        format!("{}, whose previous value is {}: {why}", change.tunable, change.after)
    }))
}

/// Makes all changes. Returns those that failed.
pub fn apply_all(host: &Host, changes: &[Change]) -> Vec<(Change, Error)> {
    let failed = |change: &Change| {
        let error = change.tunable.write(host, &change.after).err()?;
        Some((change.clone(), error))
    };
    changes.iter().filter_map(failed).collect()
}
