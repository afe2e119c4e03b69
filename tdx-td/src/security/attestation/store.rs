//! The store of an attested domain: a directory with the keys of its launch session, and its record.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use common::cli::is_root;
use common::document::input;
use common::libvirt::{Context as _, Libvirt, is_gone};
use common::system::file_lock::{FileLock, LockKind};
use common::system::sysroot::{Host, flush, remove, replace_bytes};
use common::{Error, IoContext, Result, yaml};
use serde::{Deserialize, Serialize};

use crate::domain::definition::Definition;

/// Size of a transport key, in bytes.
///
/// Source: AMD Secure Encrypted Virtualization API (55766), 2.1.
pub const KEY: usize = 16;

/// The largest size of a record, in bytes.
const LIMIT: usize = 1 << 16;

/// The transport integrity key. Whoever has it can forge measurements.
pub const TIK: &str = "tik.bin";
/// The transport encryption key.
pub const TEK: &str = "tek.bin";
/// The guest owner's Diffie-Hellman certificate, base64.
pub const CERT: &str = "godh.b64";
/// The launch session, base64.
pub const SESSION: &str = "session.b64";
/// The definition that was created.
pub const DOMAIN: &str = "domain.xml";
const RECORD: &str = "config.yaml";

/// All files of a store. The record is removed last: a store with a record is found again.
const FILES: [&str; 6] = [TIK, TEK, CERT, SESSION, DOMAIN, RECORD];

/// A certificate chain that was exported for the session.
pub const CHAIN: &str = "chain";
/// The prefix of the files that `sevctl` creates in the directory, before they get their final names.
pub const MADE: &str = "made";

/// The record, `config.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Name of the domain.
    pub name: String,
    /// UUID of the domain, which distinguishes it from others of the same name.
    pub uuid: String,
    /// Host of the domain: its name in hosts.yaml, else the URI of the connection.
    pub host: String,
    /// Whether the domain is attested; always true.
    pub attestation: bool,
    /// The guest policy.
    pub policy: u32,
    /// The firmware file of `--sev-firmware`; `None` to use the file that the definition names.
    pub firmware: Option<PathBuf>,
}

/// The directory with the keys and the record of a domain.
#[derive(Debug)]
pub struct AttestationStore {
    folder: PathBuf,
    /// The record of the domain.
    pub record: Record,
    /// Held while the store is created. The kernel releases the lock when the process ends.
    _lock: Option<FileLock>,
}

impl AttestationStore {
    /// Finds the store of the domain with this name and UUID.
    ///
    /// Errors: `invalid_input` for a damaged record.
    pub fn find(host: &Host, definition: &Definition) -> Result<Option<Self>> {
        let kept = Self::read_named(host, &definition.name())?;
        Ok(kept.filter(|kept| kept.record.uuid == definition.uuid()))
    }

    /// Finds a store of this name that a killed command left without a domain. A store that a running command
    /// creates is not returned.
    pub fn find_abandoned(host: &Host, libvirt: &Libvirt, name: &str) -> Result<Option<Self>> {
        let kept = Self::read_named(host, name)?;
        let is_left = |kept: &Self| {
            Self::check_free(host, libvirt, name).is_ok() && lock(&kept.folder).is_ok()
        };
        Ok(kept.filter(is_left))
    }

    /// Fails if the store of this name belongs to another domain.
    ///
    /// Errors: `conflict`.
    pub fn check_free(host: &Host, libvirt: &Libvirt, name: &str) -> Result<()> {
        let Some(other) = Self::read_named(host, name)? else { return Ok(()) };
        let (there, shown) = (&other.record.host, other.display_path());
        let taken = |whose: &str| {
            Error::conflict(format!("{shown} has the keys of {whose}"))
                .hint("choose another --name, or delete that domain first")
        };
        if *there != connection_name(libvirt) {
            return Err(taken(&format!("domain '{name}' on {there}")));
        }
        match libvirt.connect().lookup_domain_by_uuid_string(&other.record.uuid) {
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(error).context(format_args!("look up the domain of {shown}")),
            Ok(_) => Err(taken("an existing domain, which may have been renamed")),
        }
    }

    fn read_named(host: &Host, name: &str) -> Result<Option<Self>> {
        let Some(folder) = folder(host, name) else { return Ok(None) };
        let path = folder.join(RECORD);
        let bytes = match input::file(&path, LIMIT) {
            Err(error) if error.kind() == common::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        let record = std::str::from_utf8(&bytes).map_err(|error| error.to_string());
        let record = record
            .and_then(|text| yaml::from_str::<Record>(text).map_err(|error| error.to_string()));
        let record = record.map_err(|error| {
            Error::invalid_input(format!("{} is not a valid record of these tools", path.display()))
                .because(error)
        })?;
        Ok(Some(Self { folder, record, _lock: None }))
    }

    /// Creates the store of a domain, with its record. Only the user may read the directory. Files that a killed
    /// command left there are removed.
    ///
    /// Errors: `conflict` when it is another domain's, or another command is making one of this name;
    /// `permission`, `io`.
    pub fn create(host: &Host, libvirt: &Libvirt, record: Record) -> Result<Self> {
        let name = &record.name;
        let folder = folder(host, name).ok_or_else(|| {
            Error::usage(format!("cannot create a directory with the name of domain '{name}'"))
        })?;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&folder).at("create", &folder)?;
        let lock = lock(&folder)?;
        Self::check_free(host, libvirt, name)?;
        let kept = Self { folder, record, _lock: Some(lock) };
        kept.check_private(&kept.folder)?;
        kept.clear()?;
        let text = yaml::to_string(&kept.record)
            .map_err(|error| Error::failed("cannot write the record of the keys").because(error))?;
        kept.write(RECORD, text.as_bytes())?;
        Ok(kept)
    }

    /// Returns the path of a file of the store.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// Returns the path at which `sevctl` creates a file.
    pub fn sevctl_path(&self, file: &str) -> PathBuf {
        self.path(&format!("{MADE}_{file}"))
    }

    /// Writes a file of the store.
    pub fn write(&self, file: &str, bytes: &[u8]) -> Result<()> {
        replace_bytes(&self.path(file), bytes, 0o600)
    }

    /// Reads the text of a file of the store.
    pub fn read(&self, file: &str) -> Result<String> {
        let bytes = input::file(&self.path(file), LIMIT)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Fails unless both keys exist, and no other user can read them.
    ///
    /// Errors: `not_found`, `permission`; `invalid_input` for a file that is not a key; `conflict` for a key
    /// that other users can read.
    pub fn check_keys(&self) -> Result<()> {
        self.check_private(&self.folder)?;
        for file in [TIK, TEK] {
            let path = self.path(file);
            check_key(&path)?;
            self.check_private(&path)?;
        }
        Ok(())
    }

    fn check_private(&self, path: &Path) -> Result<()> {
        let mode = fs::metadata(path).at("examine", path)?.mode();
        match mode & 0o077 {
            0 => Ok(()),
            _ => Err(Error::conflict(format!(
                "other users may access {}, which has session keys",
                path.display()
            ))
            .hint(format!("chmod go= '{}'", path.display()))),
        }
    }

    /// Returns the path of the directory, for messages.
    pub fn display_path(&self) -> String {
        self.folder.display().to_string()
    }

    /// Removes the store after a failure. If that fails, adds the directory to the error.
    pub fn undo_after(&self, error: Error) -> Error {
        match self.remove() {
            Ok(_) => error,
            Err(_) => error.left_behind([self.display_path()]),
        }
    }

    /// Removes the files of the store and its directory, and no other files.
    pub fn remove(&self) -> Result<()> {
        self.clear()?;
        match fs::remove_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.at("remove", &self.folder)?,
        }
        flush(self.folder.parent().unwrap_or(&self.folder))
    }

    /// Removes all files of the store.
    fn clear(&self) -> Result<()> {
        for file in [TIK, TEK, CERT, SESSION, CHAIN] {
            remove(&self.sevctl_path(file))?;
        }
        for file in FILES {
            remove(&self.path(file))?;
        }
        Ok(())
    }
}

/// Locks a directory.
///
/// Errors: `conflict` while another command holds the lock.
fn lock(folder: &Path) -> Result<FileLock> {
    let file = File::open(folder).at("open", folder)?;
    let lock = FileLock::try_lock(file, LockKind::Exclusive).at("lock", folder)?.locked();
    lock.ok_or_else(|| {
        let shown = folder.display();
        Error::conflict(format!("another command is using {shown}"))
            .hint("wait until that command has ended, then run this one again")
    })
}

/// Returns the host of a connection, in the form that records store.
pub fn connection_name(libvirt: &Libvirt) -> String {
    libvirt.host().unwrap_or(libvirt.uri()).to_owned()
}

/// Reads a transport key.
///
/// Errors: `not_found`, `permission`; `invalid_input` for a file of another size.
pub fn check_key(path: &Path) -> Result<Vec<u8>> {
    let bytes = input::file(path, LIMIT)?;
    match bytes.len() {
        KEY => Ok(bytes),
        count => Err(Error::invalid_input(format!(
            "{} is not a transport key: it has {count} bytes, expected {KEY}",
            path.display()
        ))),
    }
}

/// Returns the directory of a domain's store: below `/var/lib/tdx` for root, in the home directory for other users.
/// `None` for a name that no directory can have.
///
/// Source: XDG Base Directory Specification, `$XDG_STATE_HOME`.
fn folder(host: &Host, name: &str) -> Option<PathBuf> {
    if name.is_empty() || name.contains('/') || matches!(name, "." | "..") {
        return None;
    }
    let vms = if is_root() {
        host.path("/var/lib/tdx/vms")
    } else {
        let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state"));
        state.filter(|state| state.is_absolute()).or_else(home)?.join("tdx/vms")
    };
    Some(vms.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, at: &str) -> Record {
        Record {
            name: name.to_owned(),
            uuid: "a-b".to_owned(),
            host: at.to_owned(),
            attestation: true,
            policy: 3,
            firmware: None,
        }
    }

    #[test]
    fn record_is_read_as_it_was_written() {
        for firmware in [None, Some(PathBuf::from("/a b/c: #d.fd"))] {
            let wanted = Record { firmware, ..record("it's: a #name", "qemu:///system") };
            let text = yaml::to_string(&wanted).unwrap();
            assert_eq!(yaml::from_str::<Record>(&text).unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn check_keys_refuses_missing_short_and_readable_keys() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a");
        DirBuilder::new().mode(0o700).create(&folder).unwrap();
        let kept = AttestationStore { folder, record: record("a", "x"), _lock: None };
        assert_eq!(kept.check_keys().unwrap_err().kind(), common::ErrorKind::NotFound);
        kept.write(TIK, &[1; KEY]).unwrap();
        kept.write(TEK, &[2; KEY - 1]).unwrap();
        let error = kept.check_keys().unwrap_err();
        assert!(error.message().contains("has 15 bytes, expected 16"), "{error}");
        kept.write(TEK, &[2; KEY]).unwrap();
        kept.check_keys().unwrap();
        fs::set_permissions(kept.path(TEK), fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(kept.check_keys().unwrap_err().kind(), common::ErrorKind::Conflict);
        kept.write(DOMAIN, b"<domain/>").unwrap();
        kept.remove().unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
