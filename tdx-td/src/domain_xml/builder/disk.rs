//! The disks of a definition: the guest's disk, a CD, a cloud-init seed.

use std::path::Path;

use common::Result;
use common::xml::Element;
use tdx_pool::image::Format;
use tdx_pool::volume::disk::encryption;
use tdx_pool::volume::overlay::Base;

use crate::create::disk::Disk;
use crate::domain_xml::builder::element::utf8;
use crate::domain_xml::builder::guest_definition::GuestDefinition;
use crate::scenario::enums::{Cache, DiskBus};

impl GuestDefinition<'_> {
    /// Returns the guest's disk.
    pub(super) fn disk(&self) -> Result<Element> {
        let storage = &self.settings.resolved.profile.storage;
        let served = matches!(storage.bus, DiskBus::Virtio) && self.profile().iothreads > 0;
        let mut driver = Element::new("driver")
            .attr("name", "qemu")
            .attr("type", self.identity.disk.format().as_str())
            .attr_opt("cache", storage.cache.map(Cache::as_str));
        if self.identity.disk.format() == Format::Qcow2 {
            driver = driver.attr("discard", "unmap");
        }
        let driver = driver.attr_opt("iothread", served.then_some(1));
        let mut source = Element::new("source").attr("file", utf8(self.identity.disk.path())?);
        if let Disk::New { secret: Some(secret), .. } = self.identity.disk {
            source = source.child(encryption(secret));
        }
        let backing = match self.identity.disk {
            Disk::Overlay { base, .. } => backing_store(base, self.identity.keep_base_owner)?,
            Disk::New { .. } | Disk::Given { .. } => end_of_chain(),
        };
        let target =
            Element::new("target").attr("dev", &storage.target).attr("bus", storage.bus.as_str());
        Ok(Element::new("disk")
            .attr("type", "file")
            .attr("device", "disk")
            .child(driver)
            .child(source)
            .child(backing)
            .child(target))
    }

    /// Returns the disk of the seed, which cloud-init finds by its label.
    pub(super) fn seed(&self, seed: &Path) -> Result<Element> {
        read_only("disk", seed, self.other_than_disk(["vda", "vdb"]), "virtio")
    }

    /// Returns a CD in a drive.
    pub(super) fn cdrom(&self, image: &Path) -> Result<Element> {
        read_only("cdrom", image, self.other_than_disk(["sda", "sdb"]), "sata")
    }

    fn other_than_disk(&self, names: [&'static str; 2]) -> &'static str {
        let disk = self.settings.resolved.profile.storage.target.as_str();
        let free = |name: &&str| *name != disk;
        // The first name of every bus is reserved for the guest's disk.
        names.into_iter().rev().find(free).unwrap_or(names[0])
    }
}

/// Returns the `<backingStore>` of an overlay.
pub(crate) fn backing_store(base: &Base, keep_owner: bool) -> Result<Element> {
    let mut source = Element::new("source").attr("file", utf8(&base.path)?);
    if keep_owner {
        // Without this label libvirt changes the owner of the base image while a guest runs.
        let seclabel = Element::new("seclabel").attr("model", "dac").attr("relabel", "no");
        source = source.child(seclabel);
    }
    Ok(Element::new("backingStore")
        .attr("type", "file")
        .child(Element::new("format").attr("type", base.format.as_str()))
        .child(source)
        .child(end_of_chain()))
}

/// Returns an empty `<backingStore>`, which ends an image chain. Without it libvirt and QEMU follow the image's
/// header, which somebody else may have written.
///
/// Source: <https://libvirt.org/formatdomain.html>, `backingStore`.
pub(crate) fn end_of_chain() -> Element {
    Element::new("backingStore")
}

fn read_only(device: &str, image: &Path, target: &str, bus: &str) -> Result<Element> {
    let driver = Element::new("driver").attr("name", "qemu").attr("type", "raw");
    Ok(Element::new("disk")
        .attr("type", "file")
        .attr("device", device)
        .child(driver)
        .child(Element::new("source").attr("file", utf8(image)?))
        .child(end_of_chain())
        .child(Element::new("target").attr("dev", target).attr("bus", bus))
        .child(Element::new("readonly")))
}
