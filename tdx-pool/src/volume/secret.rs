//! The passphrase of an encrypted disk, in a libvirt secret that only QEMU can read.
//!
//! Source: <https://libvirt.org/formatsecret.html#usage-type-volume>.

use std::path::{Path, PathBuf};

use common::cli::log;
use common::libvirt::{Context, Libvirt, is_gone};
use common::secret::Secret as SecretBytes;
use common::system::sysroot::Host;
use common::xml::{Document, Element};
use common::{Error, IoContext, Result};
use virt::secret::Secret;

use crate::references::inflight;
use crate::references::usage::Usage;
use crate::volume::names::ToolFile;

/// The description of the secrets that these tools create.
const DESCRIPTION: &str = "tdx-tools: passphrase of a guest's disk";

/// The longest passphrase. Unit: bytes. Source: cryptsetup(8), "NOTES ON PASSPHRASE PROCESSING".
const LIMIT: usize = 512;

/// A passphrase. It is never printed, and is overwritten in memory when it is dropped.
#[derive(Debug)]
pub struct Passphrase(SecretBytes);

impl Passphrase {
    /// Reads a passphrase from a file, without the line break at its end.
    ///
    /// Errors: those of [`Secret::read`](common::secret::Secret::read); `invalid_input` for a passphrase that is
    /// empty or too long.
    pub fn read(path: &Path) -> Result<Self> {
        // One byte more, for the line break.
        let mut bytes = SecretBytes::read(path, LIMIT + 1)?;
        if bytes.as_bytes().ends_with(b"\n") {
            bytes.truncate(bytes.as_bytes().len() - 1);
        }
        Self::new(bytes).map_err(|why| {
            Error::invalid_input(format!("invalid passphrase in {}: {why}", path.display()))
        })
    }

    /// Checks a passphrase that was typed or read.
    ///
    /// Errors: the reason, for a passphrase that is empty or too long.
    pub fn new(bytes: SecretBytes) -> Result<Self, String> {
        match bytes.as_bytes().len() {
            0 => Err("the passphrase is empty".to_owned()),
            length if length > LIMIT => Err(format!("the passphrase is longer than {LIMIT} bytes")),
            _ => Ok(Self(bytes)),
        }
    }
}

/// A new secret that no volume needs yet.
#[derive(Debug, Clone)]
pub struct NewSecret(Secret);

impl NewSecret {
    /// Stores the passphrase of the disk at `path` in a libvirt secret with this UUID.
    pub fn create(libvirt: &Libvirt, uuid: &str, path: &Path, pass: &Passphrase) -> Result<Self> {
        log::step(format_args!("store the passphrase of {} in a libvirt secret", path.display()));
        let usage = Element::new("usage")
            .attr("type", "volume")
            .child(Element::new("volume").text(path.display()));
        let xml = Element::new("secret")
            .attr("ephemeral", "no")
            .attr("private", "yes")
            .child(Element::new("uuid").text(uuid))
            .child(Element::new("description").text(DESCRIPTION))
            .child(usage)
            .to_xml()?;
        let doing = "store a passphrase in a libvirt secret";
        let secret = Self(libvirt.connect().define_secret_xml(&xml, 0).context(doing)?);
        match secret.0.set_value(pass.0.as_bytes(), 0).context(doing) {
            Ok(()) => Ok(secret),
            Err(error) => Err(secret.undo_after(error)),
        }
    }

    /// Deletes the secret because of `error`. A secret that cannot be deleted is reported in the error.
    pub fn undo_after(self, error: Error) -> Error {
        let uuid = self.0.uuid_string().unwrap_or_default();
        match self.0.undefine() {
            Ok(()) => error,
            Err(_) => error.left_behind([format!("secret {uuid}")]),
        }
    }
}

/// Deletes the secret with the passphrase of a deleted disk, if it exists.
///
/// Errors: those of libvirt.
pub fn forget(libvirt: &Libvirt, disk: &Path) -> Result<()> {
    for (secret, path) in tool_secrets(libvirt)? {
        if path == disk {
            undefine(&secret, &path)?;
        }
    }
    Ok(())
}

/// Deletes the secret of a deleted file, if the file was a disk of these tools. Other files have no secret.
pub(crate) fn forget_with(libvirt: &Libvirt, name: &str, file: &Path) -> Result<()> {
    match ToolFile::classify(name) {
        Some(ToolFile::Disk) => forget(libvirt, file),
        _ => Ok(()),
    }
}

/// The deleted disks of a directory that still have a secret which no domain needs, by name and path.
///
/// Errors: those of libvirt; `io` for a directory that cannot be read.
pub(crate) fn orphans(
    host: &Host,
    libvirt: &Libvirt,
    folder: &Path,
    usage: &Usage,
) -> Result<Vec<(String, PathBuf)>> {
    let mut orphans = Vec::new();
    for (_, path) in tool_secrets(libvirt)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let ours =
            ToolFile::classify(&name) == Some(ToolFile::Disk) && path.parent() == Some(folder);
        // The lock is checked first: a disk whose creation has ended either exists now or never will.
        if !ours || inflight::is_in_flight(host, &name)? || !usage.users_of(&path).is_empty() {
            continue;
        }
        match path.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                orphans.push((name, path))
            }
            there => there.at("examine", &path).map(drop)?,
        }
    }
    Ok(orphans)
}

/// The secrets that these tools created, each with the path of its disk.
fn tool_secrets(libvirt: &Libvirt) -> Result<Vec<(Secret, PathBuf)>> {
    let doing = "list libvirt's secrets";
    let mut ours = Vec::new();
    for secret in libvirt.connect().list_all_secrets(0).context(doing)? {
        let xml = match secret.xml_desc(0) {
            Err(error) if is_gone(&error) => continue,
            xml => Document::parse(xml.context(doing)?)?,
        };
        let root = xml.root();
        let path = root.text_at("usage/volume").map(PathBuf::from);
        if root.text_at("description").as_deref() == Some(DESCRIPTION) {
            ours.extend(path.map(|path| (secret, path)));
        }
    }
    Ok(ours)
}

fn undefine(secret: &Secret, disk: &Path) -> Result<()> {
    log::step(format_args!("delete the libvirt secret of {}", disk.display()));
    match secret.undefine() {
        Err(error) if is_gone(&error) => Ok(()),
        done => done.context(format_args!("delete the libvirt secret of {}", disk.display())),
    }
}
