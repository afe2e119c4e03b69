//! A domain's own disk: a copy-on-write image over a base image that stays as it is.

use std::path::{Path, PathBuf};

use common::host::Host;
use common::libvirt::{Context, Libvirt, is_gone};
use common::xml::Element;
use common::{Error, Result, log};
use virt::storage_vol::StorageVol;
use virt::sys;

pub use crate::base_image::Base;
use crate::image::Format;
use crate::inflight::InFlight;
use crate::names::Ours;
use crate::owner::{Owner, permissions};
use crate::pool::Pool;
use crate::secret::{self, NewSecret};

/// An overlay that is to be made.
#[derive(Debug)]
pub struct Plan {
    /// Its volume name, never used before.
    pub name: String,
    /// Where it will be.
    pub path: PathBuf,
    /// What it stands on.
    pub base: Base,
    /// Size the guest will see, bytes.
    pub capacity_bytes: u64,
}

impl Plan {
    /// Plans an overlay in `folder`, as large as the base or larger.
    ///
    /// Errors: `conflict` when `size` is smaller than the base, which would cut the guest's disk off.
    pub fn new(folder: &Path, base: Base, size: Option<u64>) -> Result<Self> {
        let capacity_bytes = size.unwrap_or(base.capacity_bytes);
        if capacity_bytes < base.capacity_bytes {
            return Err(Error::conflict(format!(
                "disk size {capacity_bytes} is less than the {} bytes of image '{}'",
                base.capacity_bytes, base.name
            )));
        }
        let name = Ours::Overlay.new_name()?;
        Ok(Self { path: folder.join(&name), name, base, capacity_bytes })
    }

    /// Makes the overlay. It counts as in flight until the returned value is dropped.
    pub fn create(&self, host: &Host, pool: &Pool, owner: Option<Owner>) -> Result<NewVolume> {
        let in_flight = InFlight::begin(host, &self.name)?;
        let xml = self.xml(owner)?;
        log::step(format_args!("create overlay {}", self.path.display()));
        let doing = format_args!("create overlay '{}'", self.name);
        let handle = pool.create_volume(&self.name, &xml, None, 0, doing)?;
        Ok(NewVolume::new(handle, self.path.clone(), in_flight))
    }

    fn xml(&self, owner: Option<Owner>) -> Result<String> {
        let path = self.base.path.to_str().ok_or_else(|| {
            Error::invalid_input(format!("image path {} is not UTF-8", self.base.path.display()))
        })?;
        let format = |format: Format| Element::new("format").attr("type", format.as_str());
        let permissions = permissions("0640", owner);
        // Without it libvirt makes the qcow2 of 2008, in which a discarded block of the overlay shows
        // the base again.
        let compat = Element::new("compat").text("1.1");
        let target =
            Element::new("target").child(format(Format::Qcow2)).child(permissions).child(compat);
        let backing = Element::new("backingStore")
            .child(Element::new("path").text(path))
            .child(format(self.base.format));
        Element::new("volume")
            .child(Element::new("name").text(&self.name))
            .child(
                Element::new("capacity")
                    .attr("unit", "bytes")
                    .text(self.capacity_bytes.to_string()),
            )
            .child(Element::new("allocation").text("0"))
            .child(target)
            .child(backing)
            .to_xml()
    }
}

/// A volume that was just made and that nothing refers to yet.
#[derive(Debug)]
pub struct NewVolume {
    handle: StorageVol,
    path: PathBuf,
    secret: Option<NewSecret>,
    _in_flight: InFlight,
}

impl NewVolume {
    pub(crate) fn new(handle: StorageVol, path: PathBuf, in_flight: InFlight) -> Self {
        Self { handle, path, secret: None, _in_flight: in_flight }
    }

    pub(crate) fn with_secret(self, secret: Option<NewSecret>) -> Self {
        Self { secret, ..self }
    }

    pub(crate) fn handle(&self) -> &StorageVol {
        &self.handle
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes it back because of `error`, which then tells when that failed too.
    pub fn undo_after(self, error: Error) -> Error {
        let deleted = match self.handle.delete(0) {
            Err(error) if is_gone(&error) => Ok(()), // with its domain, by another command
            deleted => deleted,
        };
        match (deleted, self.secret) {
            (Ok(()), None) => error,
            (Ok(()), Some(secret)) => secret.undo_after(error),
            // Without its secret nobody could read what is left.
            (Err(_), _) => error.left_behind([self.path.display().to_string()]),
        }
    }
}

/// Deletes a disk image of a domain: through its pool when libvirt finds it there, else the file. The
/// passphrase of an encrypted one is forgotten after it.
/// Returns whether there was anything to delete.
///
/// Errors: `io` or `permission`; `unsupported` for a file of a remote host outside any pool.
pub fn delete_file(libvirt: &Libvirt, path: &Path) -> Result<bool> {
    let deleted = delete(libvirt, path)?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    secret::forget_with(libvirt, name, path)?;
    Ok(deleted)
}

fn delete(libvirt: &Libvirt, path: &Path) -> Result<bool> {
    log::step(format_args!("delete {}", path.display()));
    let volume = path.to_str().map(|path| libvirt.connect().lookup_storage_vol_by_path(path));
    match volume {
        Some(Ok(volume)) => match volume.delete(sys::VIR_STORAGE_VOL_DELETE_NORMAL) {
            Ok(()) => return Ok(true),
            Err(error) if is_gone(&error) => {}
            Err(error) if !libvirt.is_local() => {
                return Err(error).context(format_args!("delete {}", path.display()));
            }
            Err(_) => {} // the pool is behind the times; the file itself decides
        },
        _ if !libvirt.is_local() => {
            return Err(Error::unsupported(format!(
                "cannot delete {}: it is in no pool of the remote host",
                path.display()
            )));
        }
        _ => {}
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        done => common::IoContext::at(done, "delete", path).map(|()| true),
    }
}
