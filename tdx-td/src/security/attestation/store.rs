//! What is kept of an attested domain: the keys of its launch session, and what it was made of.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use common::cli::is_root;
use common::document::input;
use common::libvirt::{Context as _, Libvirt, is_gone};
use common::system::file_lock::{FileLock, LockKind};
use common::system::sysroot::{Host, flush, remove, replace_bytes};
use common::{Error, IoContext, Result, yaml};
use serde::{Deserialize, Serialize};

use crate::domain::definition::Definition;

/// The bytes of a transport key.
///
/// Source: AMD Secure Encrypted Virtualization API (55766), 2.1.
pub const KEY: usize = 16;

/// The most that a record holds, bytes.
const LIMIT: usize = 1 << 16;

/// The transport integrity key. Who has it can vouch for any guest.
pub const TIK: &str = "tik.bin";
/// The transport encryption key.
pub const TEK: &str = "tek.bin";
/// The guest owner's Diffie-Hellman certificate, base64.
pub const CERT: &str = "godh.b64";
/// The launch session, base64.
pub const SESSION: &str = "session.b64";
/// The definition, as it was made.
pub const DOMAIN: &str = "domain.xml";
const RECORD: &str = "config.yaml";

/// Everything that a folder can have, the record last: what has one is found again.
const FILES: [&str; 6] = [TIK, TEK, CERT, SESSION, DOMAIN, RECORD];

/// A certificate chain that was exported for the session.
pub const CHAIN: &str = "chain";
/// How the names begin of what `sevctl` makes in a folder, before it is what the folder is for.
pub const MADE: &str = "made";

/// The record, `config.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The domain's name.
    pub name: String,
    /// The domain's UUID: another domain of the same name is not this one.
    pub uuid: String,
    /// Where it runs: its name in hosts.yaml, else the connection's URI.
    pub host: String,
    /// Whether it is to be attested; there is no record of one that is not.
    pub attestation: bool,
    /// The policy it is to be launched with.
    pub policy: u32,
    /// A copy of its firmware to measure against; the file that the domain itself names without it.
    pub firmware: Option<PathBuf>,
}

/// A folder of such files.
#[derive(Debug)]
pub struct Keep {
    folder: PathBuf,
    /// Its record.
    pub record: Record,
    /// Held while it is made; the kernel lets go of it with the process.
    _lock: Option<FileLock>,
}

impl Keep {
    /// What is kept of this very domain.
    ///
    /// Errors: `invalid_input` for a record that cannot be read.
    pub fn find(host: &Host, definition: &Definition) -> Result<Option<Self>> {
        let kept = Self::named(host, &definition.name())?;
        Ok(kept.filter(|kept| kept.record.uuid == definition.uuid()))
    }

    /// What a command that was killed has left under this name, without a domain; nothing of one that is
    /// at work.
    pub fn left(host: &Host, libvirt: &Libvirt, name: &str) -> Result<Option<Self>> {
        let kept = Self::named(host, name)?;
        let is_left = |kept: &Self| {
            Self::check_free(host, libvirt, name).is_ok() && lock(&kept.folder).is_ok()
        };
        Ok(kept.filter(is_left))
    }

    /// Fails when the folder of this name is another domain's.
    ///
    /// Errors: `conflict`.
    pub fn check_free(host: &Host, libvirt: &Libvirt, name: &str) -> Result<()> {
        let Some(other) = Self::named(host, name)? else { return Ok(()) };
        let (there, shown) = (&other.record.host, other.shown());
        let taken = |whose: &str| {
            Error::conflict(format!("{shown} has the keys of {whose}"))
                .hint("choose another --name")
        };
        if *there != whereabouts(libvirt) {
            return Err(taken(&format!("domain '{name}' on {there}")));
        }
        match libvirt.connect().lookup_domain_by_uuid_string(&other.record.uuid) {
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(error).context(format_args!("look for the domain of {shown}")),
            Ok(_) => Err(taken("a domain that is there, under this name or another")),
        }
    }

    fn named(host: &Host, name: &str) -> Result<Option<Self>> {
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
            Error::invalid_input(format!("{} is not a record of these tools", path.display()))
                .because(error)
        })?;
        Ok(Some(Self { folder, record, _lock: None }))
    }

    /// A folder for the files of a domain, which only its user can look into, with the record in it. What
    /// a command that was killed has left there is removed.
    ///
    /// Errors: `conflict` when it is another domain's, or another command is making one of this name;
    /// `permission`, `io`.
    pub fn begin(host: &Host, libvirt: &Libvirt, record: Record) -> Result<Self> {
        let name = &record.name;
        let folder = folder(host, name).ok_or_else(|| {
            Error::usage(format!("domain '{name}' cannot have a folder of its name"))
        })?;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&folder).at("create", &folder)?;
        let lock = lock(&folder)?;
        Self::check_free(host, libvirt, name)?;
        let kept = Self { folder, record, _lock: Some(lock) };
        kept.check_private(&kept.folder)?;
        kept.clear()?;
        let text = yaml::to_string(&kept.record)
            .map_err(|error| Error::failed("cannot write a record").because(error))?;
        kept.write(RECORD, text.as_bytes())?;
        Ok(kept)
    }

    /// Where a file of it is.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// Where `sevctl` makes such a file.
    pub fn made(&self, file: &str) -> PathBuf {
        self.path(&format!("{MADE}_{file}"))
    }

    /// Puts a file into it.
    pub fn write(&self, file: &str, bytes: &[u8]) -> Result<()> {
        replace_bytes(&self.path(file), bytes, 0o600)
    }

    /// The text of a file of it.
    pub fn read(&self, file: &str) -> Result<String> {
        let bytes = input::file(&self.path(file), LIMIT)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Fails unless both keys are there, and nobody else can read them.
    ///
    /// Errors: `not_found`, `permission`; `invalid_input` for a file that is no key; `conflict` for one
    /// that others can read.
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
        let mode = fs::metadata(path).at("look at", path)?.mode();
        match mode & 0o077 {
            0 => Ok(()),
            _ => Err(Error::conflict(format!("others can get at the keys in {}", path.display()))
                .hint(format!("chmod go= '{}'", path.display()))),
        }
    }

    /// Where it is, for people.
    pub fn shown(&self) -> String {
        self.folder.display().to_string()
    }

    /// Removes it after a failure; what cannot be removed is in the error.
    pub fn undo_after(&self, error: Error) -> Error {
        match self.remove() {
            Ok(_) => error,
            Err(_) => error.left_behind([self.shown()]),
        }
    }

    /// Removes it, and nothing that is not of it.
    pub fn remove(&self) -> Result<()> {
        self.clear()?;
        match fs::remove_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.at("remove", &self.folder)?,
        }
        flush(self.folder.parent().unwrap_or(&self.folder))
    }

    /// Removes every file that can be of it.
    fn clear(&self) -> Result<()> {
        for file in [TIK, TEK, CERT, SESSION, CHAIN] {
            remove(&self.made(file))?;
        }
        for file in FILES {
            remove(&self.path(file))?;
        }
        Ok(())
    }
}

/// The lock on a folder that is being made.
///
/// Errors: `conflict` while another command has it.
fn lock(folder: &Path) -> Result<FileLock> {
    let file = File::open(folder).at("open", folder)?;
    let lock = FileLock::try_lock(file, LockKind::Exclusive).at("lock", folder)?.locked();
    lock.ok_or_else(|| {
        let shown = folder.display();
        Error::conflict(format!("another command is at work on {shown}"))
            .hint("run the same command again when it is done")
    })
}

/// Which host a connection leads to, as a record has it.
pub fn whereabouts(libvirt: &Libvirt) -> String {
    libvirt.host().unwrap_or(libvirt.uri()).to_owned()
}

/// Fails for a file that is no transport key.
///
/// Errors: `not_found`, `permission`; `invalid_input` for another length.
pub fn check_key(path: &Path) -> Result<Vec<u8>> {
    let bytes = input::file(path, LIMIT)?;
    match bytes.len() {
        KEY => Ok(bytes),
        count => Err(Error::invalid_input(format!(
            "{} is no transport key: it has {count} bytes, not {KEY}",
            path.display()
        ))),
    }
}

/// The folder of a domain of this name: root's is the machine's, others' is their own. None for a name
/// that no folder can have.
///
/// Source: XDG Base Directory Specification, `$XDG_STATE_HOME`.
fn folder(host: &Host, name: &str) -> Option<PathBuf> {
    if name.is_empty() || name.contains('/') || matches!(name, "." | "..") {
        return None;
    }
    let vms = match is_root() {
        true => host.path("/var/lib/tdx/vms"),
        false => {
            let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
            let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state"));
            state.filter(|state| state.is_absolute()).or_else(home)?.join("tdx/vms")
        }
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
    fn a_record_is_read_as_it_was_written() {
        for firmware in [None, Some(PathBuf::from("/a b/c: #d.fd"))] {
            let wanted = Record { firmware, ..record("it's: a #name", "qemu:///system") };
            let text = yaml::to_string(&wanted).unwrap();
            assert_eq!(yaml::from_str::<Record>(&text).unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn keys_are_refused_when_others_can_read_them_or_they_are_none() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a");
        DirBuilder::new().mode(0o700).create(&folder).unwrap();
        let kept = Keep { folder, record: record("a", "x"), _lock: None };
        assert_eq!(kept.check_keys().unwrap_err().kind(), common::ErrorKind::NotFound);
        kept.write(TIK, &[1; KEY]).unwrap();
        kept.write(TEK, &[2; KEY - 1]).unwrap();
        let error = kept.check_keys().unwrap_err();
        assert!(error.message().contains("has 15 bytes, not 16"), "{error}");
        kept.write(TEK, &[2; KEY]).unwrap();
        kept.check_keys().unwrap();
        fs::set_permissions(kept.path(TEK), fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(kept.check_keys().unwrap_err().kind(), common::ErrorKind::Conflict);
        kept.write(DOMAIN, b"<domain/>").unwrap();
        kept.remove().unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
