//! The way back from tuning: every knob to what it was, unless somebody else has set it since.

use crate::host::tuning::change::Change;
use crate::host::tuning::persist;
use crate::host::tuning::record::{Entry, Records};
use crate::host::tuning::tunable::Tunable;

/// What is to be done about something that was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is as it was.
    Same,
    /// It is as a file has set it at boot, and stays so until the next one.
    Stays,
    /// It goes back.
    Back,
    /// It is not there any more.
    Gone,
    /// It is neither as it was nor as it was set: it is left.
    Foreign,
}

/// A record with what is so now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The record.
    pub entry: Entry,
    /// The value now.
    pub now: Option<String>,
}

impl Step {
    /// What is to be done.
    pub fn fate(&self) -> Fate {
        let Some(now) = &self.now else { return Fate::Gone };
        match &self.entry.knob {
            _ if *now == self.entry.before && self.entry.at_boot => Fate::Stays,
            _ if *now == self.entry.before => Fate::Same,
            Tunable::File(_) if self.theirs() == *now => Fate::Foreign,
            Tunable::File(_) => Fate::Back,
            _ if self.entry.is_ours(now) => Fate::Back,
            _ => Fate::Foreign,
        }
    }

    /// What of a file is somebody else's and is left in it.
    pub fn theirs(&self) -> String {
        match (&self.entry.knob, &self.now) {
            (Tunable::File(_), Some(now)) => persist::foreign(now, &self.entry.ours),
            _ => String::new(),
        }
    }

    /// Returns what is to be said of a tunable that is not put back, or not in full; none for the others.
    pub fn remark(&self) -> Option<String> {
        let knob = &self.entry.knob;
        let theirs = self.theirs();
        let lines: Vec<&str> = theirs.lines().filter(|line| !line.trim().is_empty()).collect();
        match self.fate() {
            Fate::Foreign => Some(format!("{knob} was set otherwise since, and is left")),
            Fate::Gone => Some(format!("{knob} is not there any more")),
            Fate::Stays => Some(format!("{knob} was set at boot and stays until the next one")),
            Fate::Back if !lines.is_empty() => {
                Some(format!("in {knob} stays what tuning has not written: {}", lines.join("; ")))
            }
            Fate::Same | Fate::Back => None,
        }
    }

    /// The change that this is, be it none.
    pub fn change(&self) -> Change {
        let now = self.now.clone().unwrap_or_default();
        let after = match (self.fate(), &self.entry.knob) {
            (Fate::Back, Tunable::File(_)) => self.theirs(),
            (Fate::Back, _) => self.entry.before.clone(),
            _ => now.clone(),
        };
        Change { knob: self.entry.knob.clone(), before: now, after }
    }
}

/// What is recorded, the last one that was set first.
///
/// Of a value that was set at boot alone, by a file of ours, what it was before is not known.
pub fn entries(records: &Records) -> Vec<Entry> {
    let of_this_boot = |knob: &Tunable| records.running.iter().any(|entry| entry.knob == *knob);
    let lasting = records.lasting.iter().filter_map(|entry| match entry.knob {
        _ if entry.knob.lasts() => Some(entry.clone()),
        Tunable::Choice(_) | Tunable::Number(_) if !of_this_boot(&entry.knob) => {
            let set = entry.wanted().to_owned();
            Some(Entry { before: set.clone(), ours: vec![set], at_boot: true, ..entry.clone() })
        }
        _ => None,
    });
    let mut all: Vec<Entry> = records.running.iter().cloned().chain(lasting).collect();
    all.reverse();
    all
}

/// The text of a value for a person.
pub fn told(knob: &Tunable, value: &str) -> Option<String> {
    match knob {
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
            knob: Tunable::Number("/proc/sys/vm/swappiness".to_owned()),
            before: before.to_owned(),
            ours: ours.iter().map(|value| (*value).to_owned()).collect(),
            by: vec!["securevm".to_owned()],
            at_boot: false,
        };
        for (before, ours, now, fate) in [
            ("1", &["0"][..], Some("0"), Fate::Back),
            ("1", &["0"], Some("1"), Fate::Same),
            ("1", &["0"], Some("2"), Fate::Foreign),
            ("1", &["0"], None, Fate::Gone),
            ("2", &["0", "1"], Some("0"), Fate::Back),
            ("0", &["0"], Some("0"), Fate::Same),
        ] {
            let step = Step { entry: entry(before, ours), now: now.map(str::to_owned) };
            assert_eq!(step.fate(), fate, "{step:?}");
            assert_eq!(step.change().before != step.change().after, fate == Fate::Back);
        }
    }

    #[test]
    fn what_somebody_added_to_a_file_stays() {
        let entry = Entry {
            setting: "host".to_owned(),
            knob: Tunable::File("/etc/sysctl.d/90-tdx.conf".to_owned()),
            before: String::new(),
            ours: vec!["# Made\na = 1\n".to_owned(), "# Made\na = 2\n".to_owned()],
            by: vec!["securevm".to_owned()],
            at_boot: false,
        };
        for (now, fate, after) in [
            ("", Fate::Same, ""),
            ("# Made\na = 2\n", Fate::Back, ""),
            ("# Made\na = 1\nb = 3\n", Fate::Back, "b = 3\n"),
            ("# Made\na = 3\n", Fate::Back, "a = 3\n"),
            ("b = 3\n", Fate::Foreign, "b = 3\n"),
        ] {
            let step = Step { entry: entry.clone(), now: Some(now.to_owned()) };
            assert_eq!((step.fate(), step.change().after.as_str()), (fate, after), "{now}");
        }
    }
}
