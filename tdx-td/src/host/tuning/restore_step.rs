//! The way back from tuning: every tunable to what it was, unless somebody else has set it since.

use crate::host::tuning::change::Change;
use crate::host::tuning::persist;
use crate::host::tuning::record::Entry;
use crate::host::tuning::tunable::Tunable;

/// What is to be done about something that was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreAction {
    /// It is as it was.
    Unchanged,
    /// It is as a file has set it at boot, and stays so until the next one.
    KeepBootValue,
    /// It goes back.
    Restore,
    /// It is not there any more.
    Missing,
    /// It is neither as it was nor as it was set: it is left.
    KeepForeign,
}

/// A record with what is so now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreStep {
    /// The record.
    pub entry: Entry,
    /// The value now.
    pub now: Option<String>,
}

impl RestoreStep {
    /// What is to be done.
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

    /// What of a file is somebody else's and is left in it.
    pub fn foreign_lines(&self) -> String {
        match (&self.entry.tunable, &self.now) {
            (Tunable::File(_), Some(now)) => {
                persist::foreign_lines(now, &self.entry.written_values)
            }
            _ => String::new(),
        }
    }

    /// Returns what is to be said of a tunable that is not put back, or not in full; none for the others.
    pub fn remark(&self) -> Option<String> {
        let tunable = &self.entry.tunable;
        let foreign = self.foreign_lines();
        let lines: Vec<&str> = foreign.lines().filter(|line| !line.trim().is_empty()).collect();
        match self.action() {
            RestoreAction::KeepForeign => {
                Some(format!("{tunable} was set otherwise since, and is left"))
            }
            RestoreAction::Missing => Some(format!("{tunable} is not there any more")),
            RestoreAction::KeepBootValue => {
                Some(format!("{tunable} was set at boot and stays until the next one"))
            }
            RestoreAction::Restore if !lines.is_empty() => Some(format!(
                "in {tunable} stays what tuning has not written: {}",
                lines.join("; ")
            )),
            RestoreAction::Unchanged | RestoreAction::Restore => None,
        }
    }

    /// The change that this is, be it none.
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

/// The text of a value for a person.
pub fn display_value(tunable: &Tunable, value: &str) -> Option<String> {
    match tunable {
        // All of a file would be too much.
        Tunable::File(_) if value.is_empty() => None,
        Tunable::File(_) => Some("ours".to_owned()),
        _ => Some(value.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_tuning_set_goes_back() {
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
    fn what_somebody_added_to_a_file_stays() {
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
