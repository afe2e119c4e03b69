//! The guest disks of a domain that are block devices of the host.

use common::system::sysroot::Host;
use common::xml::Node;
use virt::connect::Connect;

use crate::attach::target::Bus;
use crate::availability::guests;
use crate::availability::guests::Guest;
use crate::block::devices::BlockDevices;
use common::system::devt::DevT;

/// A guest disk that is a block device of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestDisk {
    /// The guest target, such as `vdb`.
    pub target: String,
    /// The bus: `virtio`, `scsi`, ….
    pub bus: String,
    /// The serial number that the guest sees.
    pub serial: Option<String>,
    /// Whether the guest disk is read-only.
    pub readonly: bool,
    /// The path in the definition.
    pub source: String,
    /// The kernel name of the device on the host; none when the device is absent.
    pub block: Option<String>,
    /// The number of the device on the host.
    pub number: Option<DevT>,
    /// The element in the running definition.
    pub live: Option<String>,
    /// The element in the persistent definition.
    pub config: Option<String>,
}

impl GuestDisk {
    /// The path that udev in the guest creates for the disk; none without a serial number.
    pub fn guest_path(&self) -> Option<String> {
        let bus = Bus::named(&self.bus)?;
        self.serial.as_deref().map(|serial| bus.guest_path(serial))
    }
}

/// The guest disks that a user means: the disk with the target `word`, in the running definition before the persistent
/// one; otherwise the disks with this path or device, which may have different targets in the two definitions.
pub fn matching_disks(
    mut disks: Vec<GuestDisk>,
    word: &str,
    path: &str,
    number: Option<DevT>,
) -> Vec<GuestDisk> {
    if let Some(at) = disks.iter().position(|disk| disk.target == word) {
        return vec![disks.swap_remove(at)];
    }
    let is_it =
        |disk: &GuestDisk| disk.source == path || (number.is_some() && disk.number == number);
    disks.retain(is_it);
    disks
}

/// The guest disks of a domain that are block devices of the host, without duplicates, sorted by target.
pub fn disks_of(
    host: &Host,
    blocks: &BlockDevices,
    guest: &Guest,
    connect: Option<&Connect>,
) -> Vec<GuestDisk> {
    let mut disks: Vec<GuestDisk> = Vec::new();
    for (document, is_live) in [(&guest.live, true), (&guest.config, false)] {
        let nodes = document.iter().flat_map(|document| document.root().find_all("devices/disk"));
        for disk in nodes.filter_map(|node| read(host, blocks, node, connect, is_live)) {
            let same = |known: &&mut GuestDisk| {
                known.target == disk.target
                    && (known.source == disk.source
                        || (known.number.is_some() && known.number == disk.number))
            };
            match disks.iter_mut().find(same) {
                Some(known) => known.config = disk.config,
                None => disks.push(disk),
            }
        }
    }
    disks.sort_by_key(|disk| target_order(&disk.target));
    disks
}

/// A key that sorts targets: `vdb` before `vdaa`.
pub fn target_order(target: &str) -> (usize, String) {
    (target.len(), target.to_owned())
}

/// The guest disk of a `<disk>` element; none if it is not a block device of the host.
fn read(
    host: &Host,
    blocks: &BlockDevices,
    disk: Node<'_>,
    connect: Option<&Connect>,
    is_live: bool,
) -> Option<GuestDisk> {
    let source = guests::source_path(connect, disk.child("source")?)?;
    let block = blocks.at_path(host, &source);
    // An absent device is recognized only by the type of the element.
    if block.is_none() && disk.attr("type").as_deref() != Some("block") {
        return None;
    }
    let text = |path: &str, name: &str| disk.attr_at(path, name).unwrap_or_default().into_owned();
    let xml = disk.source().to_owned();
    Some(GuestDisk {
        target: text("target", "dev"),
        bus: text("target", "bus"),
        serial: disk.text_at("serial"),
        readonly: disk.child("readonly").is_some(),
        source,
        block: block.map(|block| block.name.clone()),
        number: block.map(|block| block.number),
        live: is_live.then(|| xml.clone()),
        config: (!is_live).then_some(xml),
    })
}

/// All guest targets of a domain, in the running and the persistent definition, of disks of any kind.
pub fn targets(guest: &Guest) -> std::collections::BTreeSet<String> {
    let target = |disk: Node<'_>| Some(disk.attr_at("target", "dev")?.into_owned());
    guest.disks().filter_map(|(disk, _)| target(disk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching_disks_prefers_a_target_to_a_device() {
        let disk = |target: &str, minor: u32, is_live: bool| GuestDisk {
            target: target.to_owned(),
            bus: "virtio".to_owned(),
            serial: None,
            readonly: false,
            source: format!("/dev/{minor}"),
            block: Some(minor.to_string()),
            number: Some(DevT { major: 8, minor }),
            live: is_live.then(String::new),
            config: (!is_live).then(String::new),
        };
        let disks = [
            disk("vdb", 1, true),
            disk("vdb", 2, false),
            disk("vdc", 3, true),
            disk("vdd", 3, false),
        ];
        let called = |word: &str, minor: Option<u32>| {
            let number = minor.map(|minor| DevT { major: 8, minor });
            let found = matching_disks(disks.to_vec(), word, &format!("/dev/{word}"), number);
            found.into_iter().map(|d| (d.target, d.number.unwrap().minor)).collect::<Vec<_>>()
        };
        // Where the host has a /dev/vdb of its own, that is not what is meant.
        assert_eq!(called("vdb", Some(3)), [("vdb".to_owned(), 1)]);
        assert_eq!(called("sdx", Some(3)), [("vdc".to_owned(), 3), ("vdd".to_owned(), 3)]);
        assert_eq!(called("2", None), [("vdb".to_owned(), 2)]);
        assert_eq!(called("sdx", None), []);
    }
}
