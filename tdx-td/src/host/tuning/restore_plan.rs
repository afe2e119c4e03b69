//! The plan of `host restore`: one step for each recorded tunable, applied under a lock.

use std::collections::BTreeSet;

use common::system::sysroot::Host;
use common::{Error, ErrorKind, Result};

use crate::host::tuning::change::Change;
use crate::host::tuning::ksm::Ksm;
use crate::host::tuning::record::{Entry, Records};
use crate::host::tuning::restore_step::{RestoreAction, RestoreStep};
use crate::host::tuning::tunable::Tunable;
use crate::host::tuning::{apply, directory};

/// The plan of restoring the recorded values of a host.
#[derive(Debug, PartialEq, Eq)]
pub struct RestorePlan {
    records: Records,
    steps: Vec<RestoreStep>,
    changes: Vec<Change>,
}

impl RestorePlan {
    /// Reads the host and plans. Nothing is changed.
    pub fn new(host: &Host) -> Result<Self> {
        let records = Records::read(host)?;
        let step = |entry: Entry| Ok(RestoreStep { now: entry.tunable.read(host)?, entry });
        let steps: Vec<RestoreStep> =
            entries_to_restore(&records).into_iter().map(step).collect::<Result<_>>()?;
        let changes = steps.iter().map(RestoreStep::change).collect();
        let changes = apply::in_order(Ksm::read(host)?.as_ref(), changes);
        Ok(Self { records, steps, changes })
    }

    /// Returns the steps, one for each recorded tunable.
    pub fn steps(&self) -> &[RestoreStep] {
        &self.steps
    }

    /// Whether anything would change.
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Fails unless all changes can be made, as far as that can be checked without making them.
    ///
    /// Errors: `permission`, `io`, with the path.
    pub fn check_writable(&self, host: &Host) -> Result<()> {
        apply::check_writable(host, &self.changes)
    }

    /// Takes the lock, plans again, makes the changes and removes the records. Returns the plan that was carried
    /// out. With `whatever`, a changed plan is carried out as well.
    pub fn apply(self, host: &Host, whatever: bool) -> Result<Self> {
        if self.records == Records::default() && !directory::is_there(host) {
            return Ok(self);
        }
        let _lock = directory::lock(host)?;
        let plan = Self::new(host)?;
        if !whatever && plan.changes != self.changes {
            return Err(Error::conflict(
                "the settings of the host changed after the confirmation question",
            )
            .hint("run the command again"));
        }
        let failed = apply::apply_all(host, &plan.changes);
        for step in &plan.steps {
            // A killed command may have left a temporary file.
            if let (Tunable::File(_), RestoreAction::Unchanged) =
                (&step.entry.tunable, step.action())
            {
                step.entry.tunable.write(host, &step.entry.before)?;
            }
        }
        if failed.is_empty() {
            Records::default().write(host, &plan.records)?;
            return Ok(plan);
        }
        let has_failed = |change: &&Change| failed.iter().any(|(other, _)| other == *change);
        let done = plan.changes.iter().filter(|change| !has_failed(change));
        let kind = failed.first().map_or(ErrorKind::Failed, |(_, error)| error.kind());
        Err(Error::new(kind, "some settings of the host could not be restored")
            .applied(done.map(|change| format!("restored {} to {}", change.tunable, change.after)))
            .left_behind(failed.into_iter().map(|(change, error)| {
                let causes: String =
                    error.causes().iter().map(|cause| format!(": {cause}")).collect();
                let (tunable, value) = (change.tunable, change.after);
                format!("{tunable}, whose previous value is {value}: {error}{causes}")
            }))
            .hint("run tdx-td host restore again: the recorded values are kept"))
    }

    /// Returns the warnings for the user.
    pub fn warnings(&self) -> Vec<String> {
        let (stay, others): (Vec<&RestoreStep>, Vec<&RestoreStep>) =
            self.steps.iter().partition(|step| step.action() == RestoreAction::KeepBootValue);
        let mut warnings: Vec<String> =
            others.into_iter().filter_map(RestoreStep::remark).collect();
        if !stay.is_empty() {
            let settings: BTreeSet<&str> =
                stay.iter().map(|step| step.entry.setting.as_str()).collect();
            let settings: Vec<&str> = settings.into_iter().collect();
            warnings.push(format!(
                "these settings, set at boot, keep their values until the next boot: {}",
                settings.join(", ")
            ));
        }
        if self.records.is_outdated {
            warnings.push(
                "the tuning record from before the reboot was removed: the reboot reset the tuned settings"
                    .to_owned(),
            );
        } else if self.steps.is_empty() {
            warnings.push(
                "no tuning record found: this host has not been tuned since its last boot"
                    .to_owned(),
            );
        }
        warnings
    }
}

/// Returns the recorded entries in the order of restoring: the tunable that was set last comes first.
///
/// For a value that only a file of these tools set, at boot, the previous value is unknown.
fn entries_to_restore(records: &Records) -> Vec<Entry> {
    let of_this_boot =
        |tunable: &Tunable| records.running.iter().any(|entry| entry.tunable == *tunable);
    let lasting = records.lasting.iter().filter_map(|entry| match entry.tunable {
        _ if entry.tunable.lasts() => Some(entry.clone()),
        Tunable::Choice(_) | Tunable::Number(_) if !of_this_boot(&entry.tunable) => {
            let set = entry.last_written().to_owned();
            Some(Entry {
                before: set.clone(),
                written_values: vec![set],
                at_boot: true,
                ..entry.clone()
            })
        }
        _ => None,
    });
    let mut all: Vec<Entry> = records.running.iter().cloned().chain(lasting).collect();
    all.reverse();
    all
}
