//! The directories of firmware descriptors.
//!
//! Of several files with the same name, the one in the more specific directory counts. An empty file hides the
//! others. Files are tried in the order of their names.
//!
//! Source: QEMU `docs/interop/firmware.json`; libvirt `src/qemu/qemu_interop_config.c` for the directories.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use common::cli::config;
use common::system::sysroot::Host;
use common::units::Size;
use common::{IoContext, Result};

use super::descriptor::Descriptor;

/// The distribution's directory, and the administrator's, which is more specific.
pub const SYSTEM: [&str; 2] = ["/usr/share/qemu/firmware", "/etc/qemu/firmware"];

/// The directories to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The directories of the machine, which a libvirtd that runs as root reads.
    System,
    /// The directories of the machine and of the user.
    User,
}

/// The descriptors of a machine.
#[derive(Debug, Default)]
pub struct Descriptors {
    /// The descriptors that count, in the order in which libvirt tries them.
    pub found: Vec<Descriptor>,
    /// Files that libvirt reads as descriptors and cannot use.
    pub damaged: Vec<Damaged>,
    /// Warnings about the user's directory, which a libvirtd that runs as root does not read.
    pub warnings: Vec<String>,
}

/// A file in a directory of descriptors that is not a descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// Path of the file.
    pub path: PathBuf,
    /// The reason why the file cannot be used.
    pub why: String,
    /// Whether every libvirt refuses to choose firmware because of it.
    pub is_fatal: bool,
}

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is not a firmware descriptor: {}", self.path.display(), self.why)
    }
}

impl Descriptors {
    /// Reads all descriptors.
    ///
    /// Errors: `permission` or `io` for a directory of the machine that exists and cannot be listed. A
    /// user's directory that cannot be listed is skipped, with a warning.
    pub fn read(host: &Host, scope: Scope) -> Result<Self> {
        let mut all = Self::default();
        let mut by_name = BTreeMap::new();
        for directory in SYSTEM.map(Path::new) {
            all.list(host, directory, &mut by_name)?;
        }
        let user = config::home().filter(|_| scope == Scope::User);
        if let Some(directory) = user.map(|home| home.join("qemu/firmware"))
            && let Err(error) = all.list(host, &directory, &mut by_name)
        {
            all.warnings.push(error.to_string());
        }
        for path in by_name.into_values() {
            match read(host, &path) {
                Ok(None) => {}
                Ok(Some(descriptor)) => all.found.push(descriptor),
                Err(why) => all.damaged.push(Damaged { path, why, is_fatal: false }),
            }
        }
        Ok(all)
    }

    /// Adds the files of a directory by name. They replace files of the same name.
    ///
    /// As in libvirt, every file counts whose name does not begin with a dot, with any suffix.
    /// Directories and devices, including `/dev/null`, neither count nor hide a file.
    fn list(
        &mut self,
        host: &Host,
        directory: &Path,
        by_name: &mut BTreeMap<OsString, PathBuf>,
    ) -> Result<()> {
        let real = host.path(directory);
        let entries = match std::fs::read_dir(&real) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.at("read", &real)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.at("read", &real)?.file_name());
        }
        names.retain(|name| !name.as_bytes().starts_with(b"."));
        names.sort_unstable();
        for name in names {
            let path = directory.join(&name);
            match std::fs::metadata(real.join(&name)) {
                Ok(metadata) if metadata.is_file() => drop(by_name.insert(name, path)),
                Ok(_) => {}
                Err(error) => {
                    let why = error.to_string();
                    self.damaged.push(Damaged { path, why, is_fatal: true });
                }
            }
        }
        Ok(())
    }
}

/// Size of the largest file that libvirt reads, in bytes.
const LIMIT: u64 = 1 << 20;

/// Reads the descriptor in a file; `None` for an empty file, which hides others of its name.
fn read(host: &Host, path: &Path) -> Result<Option<Descriptor>, String> {
    let file = host.path(path);
    let metadata = std::fs::metadata(&file).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("not a regular file".to_owned());
    }
    if metadata.len() > LIMIT {
        return Err(format!("the file is larger than {}", Size(LIMIT)));
    }
    let bytes = std::fs::read(&file).map_err(|error| error.to_string())?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8(bytes).map_err(|error| error.to_string())?;
    Descriptor::parse(path, text).map(Some)
}
