//! The place of a disk in the guest: its bus, its guest target, and for SCSI its address.

use std::collections::BTreeSet;

use clap::ValueEnum;
use common::xml::{Document, Element, Node};
use common::{Error, Result};

/// The bus of a guest disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bus {
    /// virtio-blk: a PCI device of its own
    Virtio,
    /// virtio-scsi: many disks on one PCI device
    Scsi,
}

impl Bus {
    /// libvirt's name of the bus.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Virtio => "virtio",
            Self::Scsi => "scsi",
        }
    }

    /// The bus with this name of libvirt; none for other names.
    pub fn named(name: &str) -> Option<Self> {
        Self::value_variants().iter().copied().find(|bus| bus.as_str() == name)
    }

    /// The longest serial number that the guest sees completely. Unit: characters.
    ///
    /// Source: virtio 1.2, 5.2.6.1; QEMU `hw/scsi/scsi-disk.c`.
    pub fn serial_length(self) -> usize {
        match self {
            Self::Virtio => 20,
            Self::Scsi => 36,
        }
    }

    /// The path that udev in the guest creates for a disk with this serial number.
    pub fn guest_path(self, serial: &str) -> String {
        match self {
            Self::Virtio => format!("/dev/disk/by-id/virtio-{serial}"),
            Self::Scsi => format!("/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_{serial}"),
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Virtio => "vd",
            Self::Scsi => "sd",
        }
    }

    /// Refuses a guest target that is not valid for this bus.
    ///
    /// Errors: `usage`.
    pub fn check_target(self, target: &str) -> Result<()> {
        let letters = target.strip_prefix(self.prefix()).unwrap_or_default();
        let good =
            (1..=3).contains(&letters.len()) && letters.bytes().all(|b| b.is_ascii_lowercase());
        if good {
            Ok(())
        } else {
            Err(Error::usage(format!(
                "{target:?} is not a valid guest target for bus {}: expected a name such as {}b",
                self.as_str(),
                self.prefix()
            )))
        }
    }

    /// The first free target from `vdb` on. `vda` is left for the disk that the guest boots from.
    pub fn next_free(self, used: &BTreeSet<String>) -> String {
        let names = (1..).map(|index| format!("{}{}", self.prefix(), letters(index)));
        names.into_iter().find(|name| !used.contains(name)).unwrap_or_default()
    }
}

/// The letters for a number: `a` for 0, `z` for 25, `aa` for 26.
fn letters(mut index: u32) -> String {
    let mut letters = Vec::new();
    loop {
        letters.push(char::from(b'a' + (index % 26) as u8));
        if index < 26 {
            break;
        }
        index = index / 26 - 1;
    }
    letters.into_iter().rev().collect()
}

/// An address on a virtio-scsi controller.
#[derive(Debug, PartialEq, Eq)]
pub struct ScsiSlot {
    controller: u32,
    unit: u32,
    /// Whether the controller has to be added first.
    is_new: bool,
}

impl ScsiSlot {
    /// The first free address on a virtio-scsi controller that all these definitions have; on a new controller if they
    /// have none in common.
    pub fn find(definitions: &[&Document]) -> Self {
        let controllers = |document: &Document, model: Option<&str>| -> BTreeSet<u32> {
            let all = document.root().find_all("devices/controller");
            let all = all.filter(|node| node.attr("type").as_deref() == Some("scsi"));
            let all = all.filter(|node| model.is_none() || node.attr("model").as_deref() == model);
            all.filter_map(|node| attr_number(node, "index")).collect()
        };
        let shared = definitions.iter().map(|document| controllers(document, Some("virtio-scsi")));
        let shared = shared.reduce(|all, these| &all & &these).unwrap_or_default();
        let Some(&controller) = shared.first() else {
            let used = definitions.iter().flat_map(|document| controllers(document, None));
            let controller = used.max().map_or(0, |index| index + 1);
            return Self { controller, unit: 0, is_new: true };
        };
        let is_on_controller = |address: &Node<'_>| {
            address.attr("type").as_deref() == Some("drive")
                && attr_number(*address, "controller") == Some(controller)
        };
        let addresses = definitions.iter().flat_map(|document| {
            let devices = ["devices/disk/address", "devices/hostdev/address"];
            devices.into_iter().flat_map(|path| document.root().find_all(path))
        });
        let used: BTreeSet<u32> = addresses
            .filter(is_on_controller)
            .filter_map(|address| attr_number(address, "unit"))
            .collect();
        let unit = (0..).find(|unit| !used.contains(unit)).unwrap_or_default();
        Self { controller, unit, is_new: false }
    }

    /// The address of the disk.
    pub fn address(&self) -> Element {
        Element::new("address")
            .attr("type", "drive")
            .attr("controller", self.controller)
            .attr("bus", 0)
            .attr("target", 0)
            .attr("unit", self.unit)
    }

    /// The controller to add before the disk, if any.
    pub fn new_controller(&self) -> Option<Element> {
        let element = Element::new("controller")
            .attr("type", "scsi")
            .attr("index", self.controller)
            .attr("model", "virtio-scsi");
        self.is_new.then_some(element)
    }
}

/// Whether a running guest has a free port for another PCI device. A conventional bus always counts as free.
///
/// Source: libvirt `src/conf/domain_addr.h`: hot-plugged devices need a port that allows hot plug; a PCI Express port
/// has room for one device.
pub fn has_free_port(live: &Document) -> bool {
    let root = live.root();
    let buses = root.find_all("devices").flat_map(Node::children).filter_map(|device| {
        let address = device.child("address")?;
        (address.attr("type").as_deref() == Some("pci"))
            .then(|| attr_number(address, "bus"))
            .flatten()
    });
    let used: BTreeSet<u32> = buses.collect();
    let controllers = root.find_all("devices/controller");
    let mut controllers =
        controllers.filter(|controller| controller.attr("type").as_deref() == Some("pci"));
    controllers.any(|controller| match controller.attr("model").as_deref() {
        Some("pcie-root-port" | "pcie-switch-downstream-port") => {
            attr_number(controller, "index").is_some_and(|index| !used.contains(&index))
        }
        Some(model) => model == "pci-root" || model.ends_with("pci-bridge"),
        None => false,
    })
}

/// Parses a number of libvirt: hexadecimal with 0x, otherwise decimal.
fn attr_number(node: Node<'_>, name: &str) -> Option<u32> {
    let text = node.attr(name)?;
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_continue_after_z() {
        let mut used = BTreeSet::from(["vda".to_owned()]);
        for wanted in ["vdb", "vdc"] {
            let name = Bus::Virtio.next_free(&used);
            assert_eq!(name, wanted);
            used.insert(name);
        }
        used.extend(('a'..='z').map(|c| format!("vd{c}")));
        assert_eq!(Bus::Virtio.next_free(&used), "vdaa");
        assert_eq!(Bus::Scsi.next_free(&used), "sdb");
        assert_eq!((letters(0), letters(25), letters(26)), ("a".into(), "z".into(), "aa".into()));
        assert_eq!((letters(26 + 26 * 26 - 1), letters(26 + 26 * 26)), ("zz".into(), "aaa".into()));
    }

    #[test]
    fn check_target_refuses_a_target_of_another_bus() {
        for good in ["vdb", "vdaa"] {
            Bus::Virtio.check_target(good).unwrap();
        }
        for bad in ["", "vd", "sdb", "vdB", "vd1", "vdaaaa", "/dev/vdb", "vd'"] {
            assert!(Bus::Virtio.check_target(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_port_with_a_device_on_its_bus_is_not_free() {
        let live = |used: u32, more: &str| {
            let text = format!(
                "<domain><devices><controller type='pci' index='0' model='pcie-root'/>\
                 <controller type='pci' index='10' model='pcie-root-port'>\
                 <address type='pci' bus='0x00' slot='0x01'/></controller>{more}\
                 <disk><address type='pci' bus='{used:#04x}' slot='0x00'/></disk></devices></domain>"
            );
            has_free_port(&Document::parse(text).unwrap())
        };
        assert!(live(1, ""));
        assert!(!live(10, ""));
        assert!(live(10, "<controller type='pci' index='2' model='pcie-to-pci-bridge'/>"));
    }

    #[test]
    fn find_returns_a_free_unit_or_a_new_controller() {
        let document = |devices: &str| {
            Document::parse(format!("<domain><devices>{devices}</devices></domain>")).unwrap()
        };
        let none = document("<controller type='scsi' index='0' model='lsilogic'/>");
        let place = ScsiSlot::find(&[&none]);
        assert_eq!(place, ScsiSlot { controller: 1, unit: 0, is_new: true });
        let one = document(
            "<controller type='scsi' index='2' model='virtio-scsi'/>\
             <disk><address type='drive' controller='2' bus='0' target='0' unit='0'/></disk>\
             <disk><address type='drive' controller='0' bus='0' target='0' unit='1'/></disk>",
        );
        let place = ScsiSlot::find(&[&one]);
        assert_eq!(place, ScsiSlot { controller: 2, unit: 1, is_new: false });
        assert_eq!(ScsiSlot::find(&[&one, &none]).controller, 3);
    }
}
