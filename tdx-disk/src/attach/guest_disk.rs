//! The disks of a domain that are block devices of the host.

use common::system::sysroot::Host;
use common::xml::Node;
use virt::connect::Connect;

use crate::attach::target::Bus;
use crate::availability::guests;
use crate::availability::guests::Guest;
use crate::block::devices::BlockDevices;
use common::system::devt::DevT;

/// A disk of a domain that is a block device of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestDisk {
    /// Guest target, `vdb`.
    pub target: String,
    /// `virtio`, `scsi`, ….
    pub bus: String,
    /// The serial number that the guest sees.
    pub serial: Option<String>,
    /// Whether the guest may only read.
    pub readonly: bool,
    /// The path in the definition.
    pub source: String,
    /// The host's device, by the kernel's name; none when it is not there now.
    pub block: Option<String>,
    /// The number of the host's device.
    pub number: Option<DevT>,
    /// The element in the running definition.
    pub live: Option<String>,
    /// The element in the persistent definition.
    pub config: Option<String>,
}

impl GuestDisk {
    /// The name by which udev in the guest finds it.
    pub fn guest_path(&self) -> Option<String> {
        let bus = Bus::named(&self.bus)?;
        self.serial.as_deref().map(|serial| bus.guest_path(serial))
    }
}

/// The disks that a user means by a word: the one with this target, what runs before what stays; else
/// those of this path or device, which may have one target in what runs and another in what stays.
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

/// The disks of a domain that are block devices of the host, each once, sorted by target.
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

/// A disk element, if it is of a block device of the host.
fn read(
    host: &Host,
    blocks: &BlockDevices,
    disk: Node<'_>,
    connect: Option<&Connect>,
    is_live: bool,
) -> Option<GuestDisk> {
    let source = guests::source_path(connect, disk.child("source")?)?;
    let block = blocks.at_path(host, &source);
    // One that is gone is known by its type alone.
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

/// Every target that a domain uses, now or at its next start, whatever is behind it.
pub fn targets(guest: &Guest) -> std::collections::BTreeSet<String> {
    let target = |disk: Node<'_>| Some(disk.attr_at("target", "dev")?.into_owned());
    guest.disks().filter_map(|(disk, _)| target(disk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_no_device_of_the_host() {
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
