//! A step of restoring: a tunable gets its previous value, unless somebody else has changed it since.

use crate::host::tuning::change::Change;
use crate::host::tuning::persist;
use crate::host::tuning::record::Entry;
use crate::host::tuning::tunable::Tunable;

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreAction {
    /// Nothing: the tunable has its previous value.
    Unchanged,
    /// Nothing: a file of these tools set the value at boot, and it is kept until the next boot.
    KeepBootValue,
    /// The tunable gets its previous value.
    Restore,
    /// Nothing: the tunable no longer exists.
    Missing,
    /// Nothing: the value is neither the previous one nor one that tuning set.
    KeepForeign,
}

/// A step of restoring, with the current value of the tunable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreStep {
    /// The recorded entry.
    pub entry: Entry,
    /// The current value.
    pub now: Option<String>,
}

impl RestoreStep {
    /// Returns what the step does.
    pub fn action(&self) -> RestoreAction {
        let Some(now) = &self.now else { return RestoreAction::Missing };
        match &self.entry.tunable {
            _ if *now == self.entry.before && self.entry.at_boot => RestoreAction::KeepBootValue,
            _ if *now == self.entry.before => RestoreAction::Unchanged,
            Tunable::File(_) if self.foreign_lines() == *now => RestoreAction::KeepForeign,
            Tunable::File(_) => RestoreAction::Restore,
            _ if self.entry.is_written_value(now) => RestoreAction::Restore,
            _ => RestoreAction::KeepForeign,
        }
    }

    /// Returns the lines of a file that somebody else wrote, which are kept.
    pub fn foreign_lines(&self) -> String {
        match (&self.entry.tunable, &self.now) {
            (Tunable::File(_), Some(now)) => {
                persist::foreign_lines(now, &self.entry.written_values)
            }
            _ => String::new(),
        }
    }

    /// Returns a remark on a tunable that is not restored, or not in full; `None` for others.
    pub fn remark(&self) -> Option<String> {
        let tunable = &self.entry.tunable;
        let foreign = self.foreign_lines();
        let lines: Vec<&str> = foreign.lines().filter(|line| !line.trim().is_empty()).collect();
        match self.action() {
            RestoreAction::KeepForeign => Some(format!(
                "{tunable} is not restored: another user or program changed it after the tuning"
            )),
            RestoreAction::Missing => Some(format!("{tunable} no longer exists")),
            RestoreAction::KeepBootValue => {
                Some(format!("{tunable} was set at boot and keeps its value until the next boot"))
            }
            RestoreAction::Restore if !lines.is_empty() => Some(format!(
                "{tunable} keeps lines that tdx-td host tune did not write: {}",
                lines.join("; ")
            )),
            RestoreAction::Unchanged | RestoreAction::Restore => None,
        }
    }

    /// Returns the change of the step; both values are equal if the step changes nothing.
    pub fn change(&self) -> Change {
        let now = self.now.clone().unwrap_or_default();
        let after = match (self.action(), &self.entry.tunable) {
            (RestoreAction::Restore, Tunable::File(_)) => self.foreign_lines(),
            (RestoreAction::Restore, _) => self.entry.before.clone(),
            _ => now.clone(),
        };
        Change { tunable: self.entry.tunable.clone(), before: now, after }
    }
}

/// Returns a value for a document; `None` for a file that does not exist.
pub fn display_value(tunable: &Tunable, value: &str) -> Option<String> {
    match tunable {
        // The text of a file would be too long.
        Tunable::File(_) if value.is_empty() => None,
        Tunable::File(_) => Some("ours".to_owned()),
        _ => Some(value.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_restores_only_values_that_tuning_set() {
        let entry = |before: &str, ours: &[&str]| Entry {
            setting: "host.swappiness".to_owned(),
            tunable: Tunable::Number("/proc/sys/vm/swappiness".to_owned()),
            before: before.to_owned(),
            written_values: ours.iter().map(|value| (*value).to_owned()).collect(),
            scenarios: vec!["securevm".to_owned()],
            at_boot: false,
        };
        for (before, ours, now, fate) in [
            ("1", &["0"][..], Some("0"), RestoreAction::Restore),
            ("1", &["0"], Some("1"), RestoreAction::Unchanged),
            ("1", &["0"], Some("2"), RestoreAction::KeepForeign),
            ("1", &["0"], None, RestoreAction::Missing),
            ("2", &["0", "1"], Some("0"), RestoreAction::Restore),
            ("0", &["0"], Some("0"), RestoreAction::Unchanged),
        ] {
            let step = RestoreStep { entry: entry(before, ours), now: now.map(str::to_owned) };
            assert_eq!(step.action(), fate, "{step:?}");
            assert_eq!(step.change().before != step.change().after, fate == RestoreAction::Restore);
        }
    }

    #[test]
    fn step_keeps_lines_that_somebody_added_to_a_file() {
        let entry = Entry {
            setting: "host".to_owned(),
            tunable: Tunable::File("/etc/sysctl.d/90-tdx.conf".to_owned()),
            before: String::new(),
            written_values: vec!["# Made\na = 1\n".to_owned(), "# Made\na = 2\n".to_owned()],
            scenarios: vec!["securevm".to_owned()],
            at_boot: false,
        };
        for (now, fate, after) in [
            ("", RestoreAction::Unchanged, ""),
            ("# Made\na = 2\n", RestoreAction::Restore, ""),
            ("# Made\na = 1\nb = 3\n", RestoreAction::Restore, "b = 3\n"),
            ("# Made\na = 3\n", RestoreAction::Restore, "a = 3\n"),
            ("b = 3\n", RestoreAction::KeepForeign, "b = 3\n"),
        ] {
            let step = RestoreStep { entry: entry.clone(), now: Some(now.to_owned()) };
            assert_eq!((step.action(), step.change().after.as_str()), (fate, after), "{now}");
        }
    }
}
