//! A domain's own disk: a copy-on-write image over a base image that stays as it is.

use std::path::{Path, PathBuf};

use common::cli::log;
use common::libvirt::{Libvirt, is_gone};
use common::system::sysroot::Host;
use common::xml::Element;
use common::{Error, ErrorKind, Result, text};
use virt::storage_vol::StorageVol;

use crate::image::Format;
use crate::pool::Pool;
use crate::pool::owner::{Owner, permissions};
use crate::references::inflight::{InFlight, Kept};
use crate::references::needs;
pub use crate::volume::base_image::Base;
use crate::volume::names::Ours;
use crate::volume::secret::NewSecret;

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
    ///
    /// Errors: `not_found` and `conflict` when another command deleted or replaced the base since it was found;
    /// what libvirt says.
    pub fn create(
        &self,
        host: &Host,
        libvirt: &Libvirt,
        pool: &Pool,
        owner: Option<Owner>,
    ) -> Result<NewVolume> {
        let in_flight = InFlight::begin(host, &self.name)?;
        // Until the overlay is there, and names it in its header.
        let _kept = Kept::begin(host, &self.base.name)?;
        self.base.check_unchanged(libvirt, pool)?;
        let xml = self.xml(owner)?;
        log::step(format_args!("create overlay {}", self.path.display()));
        let doing = format_args!("create overlay '{}'", self.name);
        let handle = pool.create_volume(&self.name, &xml, None, 0, doing)?;
        Ok(NewVolume::new(handle, self.path.clone(), in_flight))
    }

    fn xml(&self, owner: Option<Owner>) -> Result<String> {
        let path = text::utf8("image path", &self.base.path, ErrorKind::InvalidInput)?;
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

    /// Deletes the volume after `error`, unless a domain or an image has come to need it since it was
    /// made. The error names a volume that stays.
    pub fn undo_after(self, libvirt: &Libvirt, error: Error) -> Error {
        let is_free = needs::users(libvirt, &self.path).is_ok_and(|users| users.is_empty());
        let is_deleted = is_free
            && match self.handle.delete(0) {
                Err(error) => is_gone(&error), // with its domain, by another command
                Ok(()) => true,
            };
        match (is_deleted, self.secret) {
            (true, None) => error,
            (true, Some(secret)) => secret.undo_after(error),
            // Without its secret nobody could read what is left.
            (false, _) => error.left_behind([self.path.display().to_string()]),
        }
    }
}
