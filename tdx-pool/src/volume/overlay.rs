//! An overlay: a domain's own copy-on-write disk, backed by a base image.

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

/// The plan of an overlay to create.
#[derive(Debug)]
pub struct OverlayPlan {
    /// The new name of the volume.
    pub name: String,
    /// The path of the new overlay.
    pub path: PathBuf,
    /// The base image.
    pub base: Base,
    /// The size of the disk that the guest sees, in bytes.
    pub capacity_bytes: u64,
}

impl OverlayPlan {
    /// Plans an overlay in `folder`, as large as the base or larger.
    ///
    /// Errors: `conflict` when `size` is smaller than the base image, which would truncate the guest's disk.
    pub fn new(folder: &Path, base: Base, size: Option<u64>) -> Result<Self> {
        let capacity_bytes = size.unwrap_or(base.capacity_bytes);
        if capacity_bytes < base.capacity_bytes {
            return Err(Error::conflict(format!(
                "disk size {capacity_bytes} bytes is smaller than image '{}', which has {} bytes",
                base.name, base.capacity_bytes
            )));
        }
        let name = ToolFile::Overlay.new_name()?;
        Ok(Self { path: folder.join(&name), name, base, capacity_bytes })
    }

    /// Creates the overlay. The overlay counts as in flight until the returned value is dropped.
    ///
    /// Errors: `not_found` and `conflict` when another command has deleted or replaced the base image; those of
    /// libvirt.
    pub fn create(
        &self,
        host: &Host,
        libvirt: &Libvirt,
        pool: &Pool,
        owner: Option<QemuUser>,
    ) -> Result<NewVolume> {
        let reserved = ReservedName::lock(host, "overlay", &self.name, &self.path)?;
        // The lock keeps the base image until the header of the overlay names it.
        let _kept = UseLock::begin(host, &self.base.name)?;
        self.base.check_unchanged(libvirt, pool)?;
        let handle = reserved.create_volume(libvirt, pool, &self.xml(owner)?, owner, 0)?;
        Ok(reserved.into_volume(handle, None))
    }

    fn xml(&self, owner: Option<QemuUser>) -> Result<String> {
        let path = path::utf8("image path", &self.base.path, ErrorKind::InvalidInput)?;
        let format = |format: Format| Element::new("format").attr("type", format.as_str());
        let permissions = permissions("0640", owner);
        // Without this, libvirt creates qcow2 version 2, in which a discarded block of the overlay shows the content of
        // the base image again.
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
