//! What was there before the host was tuned, and who asked for what is there now.
//!
//! Two records: in `/run` of what a reboot undoes, in `/var/lib` of what outlives one. Each is written as a whole
//! before anything is touched, under a lock that the kernel drops with the process.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use common::system::file_lock::{FileLock, LockKind, Patience};
use common::system::sysroot;
use common::system::sysroot::Host;
use common::{Code, Error, IoContext, Result};
use serde::{Deserialize, Serialize};

use super::ksm;
use crate::host::tuning::tunable::{Tunable, UNLOADED};

const FOLDER: &str = "/run/tdx/tuned";
const RUNNING: &str = "/run/tdx/tuned/record";
const LASTING: &str = "/var/lib/tdx/tuned/record";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How long somebody else's work is waited for.
const PATIENCE: Patience = Patience {
    limit: Duration::from_secs(10),
    pause: Duration::from_millis(50),
    is_interruptible: true,
};

/// A knob that was set, or found as it was wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The setting it is for, `host.swappiness`.
    pub setting: String,
    /// What it is.
    pub knob: Tunable,
    /// What it was before all tuning.
    pub before: String,
    /// What it was set to, the last one last.
    pub ours: Vec<String>,
    /// The scenarios that ask for the last one.
    pub by: Vec<String>,
    /// Whether what it was before was set at boot, by a file of ours.
    #[serde(default)]
    pub at_boot: bool,
}

impl Entry {
    /// What it is to be.
    pub fn wanted(&self) -> &str {
        self.ours.last().map_or("", String::as_str)
    }

    /// Whether its value is one that tuning gave it, be it on the way.
    pub fn is_ours(&self, value: &str) -> bool {
        let number = |text: &str| text.parse::<u64>().ok();
        match &self.knob {
            Tunable::Options { .. } if value == UNLOADED => true,
            Tunable::Number(path) if path == ksm::RUN && value == ksm::APART => true,
            // Huge pages are reserved one after another, until a kill.
            Tunable::Number(path) if path.ends_with("nr_hugepages") => {
                let all = self.ours.iter().chain([&self.before]).filter_map(|text| number(text));
                let (least, most) = (all.clone().min(), all.max());
                let value = number(value);
                value >= least && value <= most
            }
            _ => self.ours.iter().any(|ours| ours == value),
        }
    }
}

/// What is recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The boot of which the values are; none for what outlives it.
    boot_id: Option<String>,
    /// In the order in which they are set.
    entries: Vec<Entry>,
}

/// Both records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// What a reboot undoes.
    pub running: Vec<Entry>,
    /// What outlives it: files, and what starts at boot. Values of other knobs tell what the files say.
    pub lasting: Vec<Entry>,
    /// Whether a record of another boot was found, which says nothing of this one.
    pub is_outdated: bool,
}

impl Records {
    /// Reads them.
    ///
    /// Errors: `invalid_input` for a record that cannot be understood; `permission`, `io`.
    pub fn read(host: &Host) -> Result<Self> {
        let running = read(host, RUNNING)?.unwrap_or_default();
        let is_outdated = !running.entries.is_empty() && running.boot_id != boot_id(host)?;
        Ok(Self {
            running: if is_outdated { Vec::new() } else { running.entries },
            lasting: read(host, LASTING)?.unwrap_or_default().entries,
            is_outdated,
        })
    }

    /// Writes what is not as it is in `old`; a record of nothing goes. Needs the lock.
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

    /// All entries, those of this boot first.
    pub fn all(&self) -> impl Iterator<Item = &Entry> {
        self.running.iter().chain(&self.lasting)
    }

    /// The entry of a knob.
    pub fn of(&self, knob: &Tunable) -> Option<&Entry> {
        self.all().find(|entry| entry.knob == *knob)
    }
}

/// Whether this host was ever tuned since it was booted.
pub fn is_there(host: &Host) -> bool {
    host.has(FOLDER)
}

/// Keeps all others from the host's settings, until it is dropped.
///
/// Errors: `conflict` with code `RESERVED` while another command is at work on them for long.
pub fn lock(host: &Host) -> Result<FileLock> {
    let folder = host.path(FOLDER);
    make_folder(&folder)?;
    let file = PATIENCE.wait_for(|| {
        let file = File::open(&folder).at("open", &folder)?;
        Ok(FileLock::try_lock(file, LockKind::Exclusive).at("lock", &folder)?.locked())
    });
    let file = file?.ok_or_else(|| {
        Error::conflict("another command is at work on the host's settings")
            .code(Code::Reserved)
            .hint("wait for it to end")
    })?;
    // Nobody else is at it: what a kill left is nobody's.
    sysroot::remove(&part(host))?;
    Ok(file)
}

/// Puts `text` into a file of a captured tree, all at once and with nothing beside it.
///
/// Errors: `permission`, `io`.
pub fn exchange(host: &Host, file: &Path, text: &str) -> Result<()> {
    let part = part(host);
    make_folder(part.parent().unwrap_or(&part))?;
    fs::write(&part, text).at("write", &part)?;
    let permissions = file.metadata().at("look at", file)?.permissions();
    fs::set_permissions(&part, permissions).at("set the mode of", &part)?;
    fs::rename(&part, file).at("rename to", file)
}

fn part(host: &Host) -> std::path::PathBuf {
    host.path(FOLDER).join("part")
}

fn read(host: &Host, path: &str) -> Result<Option<Record>> {
    let Some(text) = host.read(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        Error::invalid_input(format!("the record {path} is damaged"))
            .because(error)
            .hint("remove it: what the settings were is then forgotten")
    })
}

fn boot_id(host: &Host) -> Result<Option<String>> {
    Ok(host.read(BOOT_ID)?.map(|text| text.trim().to_owned()))
}

/// A folder that only root can read.
fn make_folder(folder: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.at("create", folder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, before: &str, ours: &[&str]) -> Entry {
        Entry {
            setting: "host.swappiness".to_owned(),
            knob: Tunable::Number(path.to_owned()),
            before: before.to_owned(),
            ours: ours.iter().map(|value| (*value).to_owned()).collect(),
            by: vec!["securevm".to_owned()],
            at_boot: false,
        }
    }

    #[test]
    fn what_is_ours_is_known() {
        let swappiness = entry("/proc/sys/vm/swappiness", "60", &["0", "35"]);
        for (value, ours) in [("0", true), ("35", true), ("60", false), ("10", false)] {
            assert_eq!(swappiness.is_ours(value), ours, "{value}");
        }
        let pages = entry("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "2", &["64"]);
        for (value, ours) in [("2", true), ("17", true), ("64", true), ("1", false), ("65", false)]
        {
            assert_eq!(pages.is_ours(value), ours, "{value}");
        }
    }

    #[test]
    fn a_record_says_nothing_of_another_boot() {
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

    #[test]
    fn one_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let held = lock(&host).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| lock(&host).map(drop));
            std::thread::sleep(Duration::from_millis(120));
            assert!(!second.is_finished());
            drop(held);
            second.join().unwrap().unwrap();
        });
    }
}
