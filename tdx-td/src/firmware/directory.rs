//! The folders that descriptors are in.
//!
//! Source: QEMU `docs/interop/firmware.json`: of files of one name the one in the more specific folder
//! holds, an empty one hides the others, and they are tried in the order of their names.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use common::Result;
use common::host::Host;
use common::units::Size;
use common::{IoContext, config};

use super::descriptor::Descriptor;

/// What distributions bring, and what the administrator adds, which is the more specific.
const SYSTEM: [&str; 2] = ["/usr/share/qemu/firmware", "/etc/qemu/firmware"];

/// Whose descriptors are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those of the machine: what a libvirtd that runs as root reads.
    System,
    /// Those of the user as well.
    User,
}

/// The descriptors of a machine.
#[derive(Debug, Default)]
pub struct Descriptors {
    /// Those that hold, in the order in which they are tried.
    pub found: Vec<Descriptor>,
    /// Those that cannot be read, a sentence each.
    pub damaged: Vec<String>,
}

impl Descriptors {
    /// Reads all.
    ///
    /// Errors: `permission` or `io` for a folder of the machine that is there and cannot be listed; the
    /// user's is passed over then, with a warning.
    pub fn read(host: &Host, scope: Scope) -> Result<Self> {
        let mut all = Self::default();
        let mut by_name = BTreeMap::<OsString, PathBuf>::new();
        let mut add = |folder: &Path, names: Vec<OsString>| {
            by_name.extend(names.into_iter().map(|name| (name.clone(), folder.join(name))));
        };
        for folder in SYSTEM.map(Path::new) {
            add(folder, list(host, folder)?);
        }
        let user = config::home().filter(|_| scope == Scope::User);
        if let Some(folder) = user.map(|folder| folder.join("qemu/firmware")) {
            match list(host, &folder) {
                Ok(names) => add(&folder, names),
                Err(error) => all.damaged.push(error.to_string()),
            }
        }
        for path in by_name.into_values() {
            match read(host, &path) {
                Ok(None) => {}
                Ok(Some(descriptor)) => all.found.push(descriptor),
                Err(why) => {
                    let path = path.display();
                    all.damaged.push(format!("{path} is no firmware descriptor: {why}"));
                }
            }
        }
        Ok(all)
    }
}

/// The names of the descriptors in a folder; none where there is no such folder.
fn list(host: &Host, folder: &Path) -> Result<Vec<OsString>> {
    let there = host.path(folder);
    let entries = match std::fs::read_dir(&there) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.at("read", &there)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.at("read", &there)?.file_name();
        let is_json = Path::new(&name).extension().is_some_and(|extension| extension == "json");
        if is_json && !name.as_encoded_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    Ok(names)
}

/// More than any descriptor has, bytes.
const LIMIT: u64 = 1 << 20;

/// A descriptor; none for an empty file, which hides others of its name.
fn read(host: &Host, path: &Path) -> Result<Option<Descriptor>, String> {
    let file = host.path(path);
    let bytes = match std::fs::metadata(&file) {
        Ok(metadata) if !metadata.is_file() => return Err("it is no file".to_owned()),
        Ok(metadata) if metadata.len() > LIMIT => {
            return Err(format!("it is larger than {}", Size(LIMIT)));
        }
        Ok(_) => std::fs::read(&file).map_err(|error| error.to_string())?,
        Err(error) => return Err(error.to_string()),
    };
    if bytes.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8(bytes).map_err(|error| error.to_string())?;
    Descriptor::parse(path, text).map(Some)
}
