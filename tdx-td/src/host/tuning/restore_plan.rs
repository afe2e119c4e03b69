//! The plan of `host restore`: every recorded tunable with what becomes of it, applied under a lock.

use std::collections::BTreeSet;

use common::system::sysroot::Host;
use common::{Error, ErrorKind, Result};

use crate::host::tuning::change::Change;
use crate::host::tuning::ksm::Ksm;
use crate::host::tuning::record::{Entry, Records};
use crate::host::tuning::restore_step::{RestoreAction, RestoreStep};
use crate::host::tuning::tunable::Tunable;
use crate::host::tuning::{apply, directory};

/// What it takes to set this host back to what it was before it was tuned.
#[derive(Debug, PartialEq, Eq)]
pub struct RestorePlan {
    records: Records,
    steps: Vec<RestoreStep>,
    changes: Vec<Change>,
}

impl RestorePlan {
    /// Looks at the host and plans. Nothing is touched.
    pub fn new(host: &Host) -> Result<Self> {
        let records = Records::read(host)?;
        let step = |entry: Entry| Ok(RestoreStep { now: entry.tunable.read(host)?, entry });
        let steps: Vec<RestoreStep> =
            entries_to_restore(&records).into_iter().map(step).collect::<Result<_>>()?;
        let changes = steps.iter().map(RestoreStep::change).collect();
        let changes = apply::in_order(Ksm::read(host)?.as_ref(), changes);
        Ok(Self { records, steps, changes })
    }

    /// The steps, one for each tunable that is recorded.
    pub fn steps(&self) -> &[RestoreStep] {
        &self.steps
    }

    /// Whether anything would change.
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Fails unless all changes can be made, as far as that is known without making them.
    ///
    /// Errors: `permission`, `io`, with the path.
    pub fn check_writable(&self, host: &Host) -> Result<()> {
        apply::check_writable(host, &self.changes)
    }

    /// Plans again once nobody else is at work, makes the changes, then forgets; returns what was done.
    pub fn apply(self, host: &Host, whatever: bool) -> Result<Self> {
        if self.records == Records::default() && !directory::is_there(host) {
            return Ok(self);
        }
        let _lock = directory::lock(host)?;
        let plan = Self::new(host)?;
        if !whatever && plan.changes != self.changes {
            return Err(
                Error::conflict("the host's settings have changed meanwhile").hint("run it again")
            );
        }
        let failed = apply::apply_all(host, &plan.changes);
        for step in &plan.steps {
            // Also what a kill left beside a file that never came to be.
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
        Err(Error::new(kind, "not all settings of the host are as they were")
            .applied(done.map(|change| format!("{} is {} again", change.tunable, change.after)))
            .left_behind(failed.into_iter().map(|(change, error)| {
                let causes: String =
                    error.causes().iter().map(|cause| format!(": {cause}")).collect();
                format!("{}, which was {}: {error}{causes}", change.tunable, change.after)
            }))
            .hint("the record is kept: tdx-td host restore tries again"))
    }

    /// What the user should know.
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
                "what the files have set at boot stays until the next one: {}",
                settings.join(", ")
            ));
        }
        if self.records.is_outdated {
            warnings.push(
                "what was recorded before the last boot is forgotten: it ended with it".to_owned(),
            );
        } else if self.steps.is_empty() {
            warnings.push(
                "nothing is recorded: this host is not tuned, or was booted since".to_owned(),
            );
        }
        warnings
    }
}

/// Returns what is recorded in the order of restoring: the last one that was set comes first.
///
/// The former value is unknown where only a file of these tools set the value, at boot.
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
