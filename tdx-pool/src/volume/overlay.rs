//! A domain's own disk that is an overlay: a copy-on-write image, backed by a base image.

use std::path::{Path, PathBuf};

use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use common::xml::Element;
use common::{Error, ErrorKind, Result, path};

use crate::image::Format;
use crate::pool::Pool;
use crate::pool::qemu_user::{QemuUser, permissions};
use crate::references::inflight::UseLock;
pub use crate::volume::base_image::Base;
use crate::volume::names::ToolFile;
use crate::volume::new_volume::{NewVolume, ReservedName};

/// An overlay that is to be created.
#[derive(Debug)]
pub struct OverlayPlan {
    /// Its volume name, never used before.
    pub name: String,
    /// Where it will be.
    pub path: PathBuf,
    /// The image that it is backed by.
    pub base: Base,
    /// Size the guest will see, bytes.
    pub capacity_bytes: u64,
}

impl OverlayPlan {
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
        let name = ToolFile::Overlay.new_name()?;
        Ok(Self { path: folder.join(&name), name, base, capacity_bytes })
    }

    /// Creates the overlay. It counts as in flight until the returned value is dropped.
    ///
    /// Errors: `not_found` and `conflict` when another command deleted or replaced the base since it was found;
    /// what libvirt says.
    pub fn create(
        &self,
        host: &Host,
        libvirt: &Libvirt,
        pool: &Pool,
        owner: Option<QemuUser>,
    ) -> Result<NewVolume> {
        let reserved = ReservedName::lock(host, "overlay", &self.name, &self.path)?;
        // The base image stays until the header of the overlay names it.
        let _kept = UseLock::begin(host, &self.base.name)?;
        self.base.check_unchanged(libvirt, pool)?;
        let handle = reserved.create_volume(libvirt, pool, &self.xml(owner)?, owner, 0)?;
        Ok(reserved.into_volume(handle, None))
    }

    fn xml(&self, owner: Option<QemuUser>) -> Result<String> {
        let path = path::utf8("image path", &self.base.path, ErrorKind::InvalidInput)?;
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
