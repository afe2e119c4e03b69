//! The way back from tuning: every knob to what it was, unless somebody else has set it since.

use super::apply::Change;
use super::knob::Knob;
use super::record::{Entry, Records};

/// What is to be done about something that was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is as it was.
    Same,
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
        match &self.now {
            None => Fate::Gone,
            Some(now) if *now == self.entry.before => Fate::Same,
            Some(now) if self.entry.is_ours(now) => Fate::Back,
            Some(_) => Fate::Foreign,
        }
    }

    /// The change that this is, be it none.
    pub fn change(&self) -> Change {
        let now = self.now.clone().unwrap_or_default();
        let after = match self.fate() {
            Fate::Back => self.entry.before.clone(),
            _ => now.clone(),
        };
        Change { knob: self.entry.knob.clone(), before: now, after }
    }
}

/// The records that are about something that can be put back, the last one that was set first.
pub fn entries(records: &Records) -> Vec<Entry> {
    let lasting = records.lasting.iter().filter(|entry| entry.knob.lasts());
    records.running.iter().chain(lasting).rev().cloned().collect()
}

/// The text of a value for a person.
pub fn told(knob: &Knob, value: &str) -> Option<String> {
    match knob {
        // All of a file would be too much.
        Knob::File(_) if value.is_empty() => None,
        Knob::File(_) => Some("ours".to_owned()),
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
            knob: Knob::Number("/proc/sys/vm/swappiness".to_owned()),
            before: before.to_owned(),
            ours: ours.iter().map(|value| (*value).to_owned()).collect(),
            by: vec!["securevm".to_owned()],
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
}
