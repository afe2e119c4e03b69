//! The `<disk>` element with which libvirt gives a disk to a guest.

use common::xml::Element;
use common::{Error, Result};

use crate::attach::target::{Bus, ScsiSlot};
use crate::block::disk::Disk;

/// The content of the `<disk>` element of a disk.
#[derive(Debug)]
pub struct DiskSpec<'a> {
    /// The host disk.
    pub disk: &'a Disk,
    /// The path that libvirt opens.
    pub source: &'a str,
    /// The guest target.
    pub target: &'a str,
    /// The bus of the guest disk.
    pub bus: Bus,
    /// The serial number that the guest sees.
    pub serial: Option<&'a str>,
    /// Whether the guest disk is read-only.
    pub readonly: bool,
    /// The address of a SCSI disk.
    pub scsi_slot: Option<&'a ScsiSlot>,
}

/// The `<disk>` element.
///
/// The sector sizes are always stated. Otherwise QEMU reports 512 bytes to the guest, which then cannot read the
/// partition table of a disk with 4096 bytes.
/// Source: <https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms>; QEMU
/// `block/file-posix.c`, `hdev_probe_blocksizes()`.
pub fn disk_element(wanted: &DiskSpec<'_>) -> Element {
    let disk = wanted.disk;
    let driver = Element::new("driver")
        .attr("name", "qemu")
        .attr("type", "raw")
        .attr("cache", "none")
        .attr("io", "native")
        .attr("discard", "unmap");
    let sectors = Element::new("blockio")
        .attr("logical_block_size", disk.logical_sector)
        .attr("physical_block_size", disk.physical_sector.max(disk.logical_sector));
    // In ATA, a rotation rate of 1 means a non-rotating disk. virtio-blk has no such attribute.
    let still = wanted.bus == Bus::Scsi && disk.rotational == Some(false);
    let target = Element::new("target")
        .attr("dev", wanted.target)
        .attr("bus", wanted.bus.as_str())
        .attr_opt("rotation_rate", still.then_some(1));
    Element::new("disk")
        .attr("type", "block")
        .attr("device", "disk")
        .child(driver)
        .child(Element::new("source").attr("dev", wanted.source))
        .child(sectors)
        .child(target)
        .child_opt(wanted.readonly.then(|| Element::new("readonly")))
        .child_opt(wanted.serial.map(|serial| Element::new("serial").text(serial)))
        .child_opt(wanted.scsi_slot.map(ScsiSlot::address))
}

/// Whether libvirt accepts a character in a serial number.
///
/// Source: libvirt `src/qemu/qemu_validate.c`.
fn is_safe(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_ .+".contains(c)
}

/// Refuses a serial number that libvirt does not accept or that a guest would see shortened.
///
/// Errors: `usage`.
pub fn check_serial(serial: &str, bus: Bus) -> Result<()> {
    let longest = bus.serial_length();
    if serial.is_empty() || !serial.chars().all(is_safe) {
        return Err(Error::usage(format!("invalid serial number {serial:?}"))
            .hint("use only letters, digits, spaces and the characters -_.+"));
    }
    if serial.len() <= longest {
        Ok(())
    } else {
        Err(Error::usage(format!(
            "serial number {serial:?} is too long: the bus {} allows {longest} characters",
            bus.as_str()
        )))
    }
}

/// The disk's own serial number as a guest can see it: without invalid characters, and shortened to its end if it is
/// too long, because numbers differ at the end.
pub fn visible_serial(disk: &Disk, bus: Bus) -> Option<String> {
    let safe = |c: char| if is_safe(c) { c } else { '_' };
    let serial: Vec<char> = disk.serial.as_deref()?.trim().chars().map(safe).collect();
    let from = serial.len().saturating_sub(bus.serial_length());
    Some(serial[from..].iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::system::devt::DevT;

    fn example() -> Disk {
        Disk {
            name: "sdb".to_owned(),
            number: DevT { major: 8, minor: 16 },
            kind: "disk",
            size: 1 << 30,
            model: None,
            serial: Some("WD-WX11/A1\"B2".to_owned()),
            wwn: None,
            transport: Some("sata"),
            rotational: Some(false),
            logical_sector: 4096,
            physical_sector: 4096,
            read_only: false,
            removable: false,
            sequence: None,
            state: None,
            links: Vec::new(),
            udev_serial: None,
            is_path: false,
            part_uuid: None,
        }
    }

    #[test]
    fn disk_element_writes_all_properties() {
        let example = example();
        let mut wanted = DiskSpec {
            disk: &example,
            source: "/dev/disk/by-id/a&b",
            target: "vdb",
            bus: Bus::Virtio,
            serial: Some("S 1"),
            readonly: true,
            scsi_slot: None,
        };
        assert_eq!(
            disk_element(&wanted).to_xml().unwrap(),
            "<disk type='block' device='disk'>\n  \
             <driver name='qemu' type='raw' cache='none' io='native' discard='unmap'/>\n  \
             <source dev='/dev/disk/by-id/a&amp;b'/>\n  \
             <blockio logical_block_size='4096' physical_block_size='4096'/>\n  \
             <target dev='vdb' bus='virtio'/>\n  \
             <readonly/>\n  \
             <serial>S 1</serial>\n\
             </disk>"
        );
        wanted.bus = Bus::Scsi;
        wanted.target = "sdb";
        let xml = disk_element(&wanted).to_xml().unwrap();
        assert!(xml.contains("<target dev='sdb' bus='scsi' rotation_rate='1'/>"), "{xml}");
    }

    #[test]
    fn visible_serial_fits_the_bus() {
        check_serial("A-Za-z0-9_ .+", Bus::Virtio).unwrap();
        for bad in ["", "a'b", "a\"b", "a,b", "ä", "123456789012345678901"] {
            assert!(check_serial(bad, Bus::Virtio).is_err(), "{bad}");
        }
        check_serial("123456789012345678901", Bus::Scsi).unwrap();
        let mut disk = example();
        assert_eq!(visible_serial(&disk, Bus::Virtio).as_deref(), Some("WD-WX11_A1_B2"));
        disk.serial = Some("x123456789012345678901".to_owned());
        assert_eq!(visible_serial(&disk, Bus::Virtio).as_deref(), Some("23456789012345678901"));
    }
}
