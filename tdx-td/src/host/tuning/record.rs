//! The records of tuning: the previous values, the values that were set, and the scenarios that set them.
//!
//! There are two records: one in `/run` for values that a reboot resets, one in `/var/lib` for values that survive
//! a reboot. Each is written atomically before the first change, under a lock that the kernel releases when the
//! process ends.

use common::system::sysroot;
use common::system::sysroot::Host;
use common::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::host::tuning::directory::make_folder;
use crate::host::tuning::kernel_files;
use crate::host::tuning::tunable::{Tunable, UNLOADED};

const RUNNING: &str = "/run/tdx/tuned/record";
const LASTING: &str = "/var/lib/tdx/tuned/record";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The record of a tunable that was set, or that had the value already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The setting of the scenario, such as `host.swappiness`.
    pub setting: String,
    /// The tunable.
    #[serde(rename = "knob")]
    pub tunable: Tunable,
    /// The value before the host was tuned.
    pub before: String,
    /// The values that tuning wrote, in order.
    #[serde(rename = "ours")]
    pub written_values: Vec<String>,
    /// The scenarios that set the last value.
    #[serde(rename = "by")]
    pub scenarios: Vec<String>,
    /// Whether a file of these tools set the previous value at boot.
    #[serde(default)]
    pub at_boot: bool,
}

impl Entry {
    /// Returns the value that tuning wrote last; an empty text if there is none.
    pub fn last_written(&self) -> &str {
        self.written_values.last().map_or("", String::as_str)
    }

    /// Whether tuning wrote this value, or set it on the way to another value.
    pub fn is_written_value(&self, value: &str) -> bool {
        let number = |text: &str| text.parse::<u64>().ok();
        match &self.tunable {
            Tunable::Options { .. } if value == UNLOADED => true,
            Tunable::Number(path)
                if path == kernel_files::KSM_RUN && value == kernel_files::KSM_APART =>
            {
                true
            }
            // Huge pages are reserved one after another, so that a kill can leave any number between.
            Tunable::Number(path) if path.ends_with("nr_hugepages") => {
                let all = self
                    .written_values
                    .iter()
                    .chain([&self.before])
                    .filter_map(|text| number(text));
                let (least, most) = (all.clone().min(), all.max());
                let value = number(value);
                value >= least && value <= most
            }
            _ => self.written_values.iter().any(|ours| ours == value),
        }
    }
}

/// A record file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The boot in which the values were set; `None` for values that survive a reboot.
    boot_id: Option<String>,
    /// The entries, in the order in which the values are set.
    entries: Vec<Entry>,
}

/// Both records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// Entries of values that a reboot resets.
    pub running: Vec<Entry>,
    /// Entries of values that survive a reboot: files, units started at boot, and the tunables that the files set.
    pub lasting: Vec<Entry>,
    /// Whether a record of an earlier boot was found, which is no longer valid.
    pub is_outdated: bool,
}

impl Records {
    /// Reads both records.
    ///
    /// Errors: `invalid_input` for a damaged record; `permission`, `io`.
    pub fn read(host: &Host) -> Result<Self> {
        let running = read(host, RUNNING)?.unwrap_or_default();
        let is_outdated = !running.entries.is_empty() && running.boot_id != boot_id(host)?;
        Ok(Self {
            running: if is_outdated { Vec::new() } else { running.entries },
            lasting: read(host, LASTING)?.unwrap_or_default().entries,
            is_outdated,
        })
    }

    /// Writes the records that differ from `old`, and removes an empty record. The caller must hold the lock.
    ///
    /// Errors: `permission`, `io`.
    pub fn write(&self, host: &Host, old: &Self) -> Result<()> {
        let parts = [
            (LASTING, None, &self.lasting, self.lasting != old.lasting),
            (
                RUNNING,
                boot_id(host)?,
                &self.running,
                self.running != old.running || old.is_outdated,
            ),
        ];
        for (path, boot_id, entries, changed) in parts {
            let path = host.path(path);
            if entries.is_empty() {
                sysroot::remove(&path)?;
            } else if changed {
                make_folder(path.parent().unwrap_or(&path))?;
                let record = Record { boot_id, entries: entries.clone() };
                let text = serde_json::to_string_pretty(&record).unwrap_or_default() + "\n";
                sysroot::replace(&path, &text, 0o600)?;
            }
        }
        Ok(())
    }

    /// Returns all entries, those of this boot first.
    pub fn all(&self) -> impl Iterator<Item = &Entry> {
        self.running.iter().chain(&self.lasting)
    }

    /// Returns the entry of a tunable.
    pub fn entry_for(&self, tunable: &Tunable) -> Option<&Entry> {
        self.all().find(|entry| entry.tunable == *tunable)
    }
}

fn read(host: &Host, path: &str) -> Result<Option<Record>> {
    let Some(text) = host.read(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        Error::invalid_input(format!("the tuning record {path} is damaged"))
            .because(error)
            .hint(format!("rm {path}; the previous values of the settings are then lost"))
    })
}

fn boot_id(host: &Host) -> Result<Option<String>> {
    Ok(host.read(BOOT_ID)?.map(|text| text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn entry(path: &str, before: &str, ours: &[&str]) -> Entry {
        Entry {
            setting: "host.swappiness".to_owned(),
            tunable: Tunable::Number(path.to_owned()),
            before: before.to_owned(),
            written_values: ours.iter().map(|value| (*value).to_owned()).collect(),
            scenarios: vec!["securevm".to_owned()],
            at_boot: false,
        }
    }

    #[test]
    fn is_written_value_accepts_values_that_tuning_wrote_or_passed() {
        let swappiness = entry("/proc/sys/vm/swappiness", "60", &["0", "35"]);
        for (value, ours) in [("0", true), ("35", true), ("60", false), ("10", false)] {
            assert_eq!(swappiness.is_written_value(value), ours, "{value}");
        }
        let pages = entry("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "2", &["64"]);
        for (value, ours) in [("2", true), ("17", true), ("64", true), ("1", false), ("65", false)]
        {
            assert_eq!(pages.is_written_value(value), ours, "{value}");
        }
    }

    #[test]
    fn read_ignores_the_record_of_another_boot() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let boot = host.path(BOOT_ID);
        fs::create_dir_all(boot.parent().unwrap()).unwrap();
        fs::write(&boot, "first\n").unwrap();
        let none = Records::read(&host).unwrap();
        let records = Records { running: vec![entry("/x", "60", &["0"])], ..none.clone() };
        records.write(&host, &none).unwrap();
        assert_eq!(Records::read(&host).unwrap(), records);
        fs::write(&boot, "second\n").unwrap();
        let outdated = Records::read(&host).unwrap();
        assert!(outdated.is_outdated && outdated.running.is_empty());
        none.write(&host, &outdated).unwrap();
        assert!(!host.has(RUNNING));
        fs::write(host.path(RUNNING), "{").unwrap();
        assert_eq!(Records::read(&host).unwrap_err().kind(), common::ErrorKind::InvalidInput);
    }
}
