//! The disks of a definition, and the image chain of each.

use std::borrow::Cow;
use std::path::PathBuf;

use common::xml::Node;

use crate::domain::definition::parsed::Definition;
use crate::domain::item::Disk;

/// A file in the image chain of a disk: the disk's own source, or one of its backing files.
pub type Chain = Vec<PathBuf>;

impl Definition {
    /// Returns the files in the image chains of all disks, as far as the XML states them.
    pub fn chains(&self) -> Vec<Chain> {
        chains_of(self.root())
    }

    /// Returns the block devices of the host that are disks of the domain.
    pub fn block_devices(&self) -> Vec<PathBuf> {
        let disks = self.root().find_all("devices/disk");
        let device = |disk: Node<'_>| Some(PathBuf::from(disk.attr_at("source", "dev")?.as_ref()));
        disks.filter_map(device).collect()
    }

    /// Returns the volumes that are disks of the domain, each with the name of its pool.
    pub fn volumes(&self) -> Vec<(String, String)> {
        let volume = |source: Node<'_>| {
            Some((source.attr("pool")?.into_owned(), source.attr("volume")?.into_owned()))
        };
        self.root().find_all("devices/disk/source").filter_map(volume).collect()
    }
}

/// Returns the files in the image chains of all disks of a domain element, as far as the XML states them.
pub fn chains_of(domain: Node<'_>) -> Vec<Chain> {
    let disks = domain.find_all("devices/disk");
    disks.map(chain).filter(|chain| !chain.is_empty()).collect()
}

pub(super) fn chain(disk: Node<'_>) -> Chain {
    let mut files = Vec::new();
    let mut next = Some(disk);
    while let Some(node) = next {
        let file = node.attr_at("source", "file");
        files.extend(file.map(|file| PathBuf::from(file.as_ref())));
        next = node.child("backingStore");
    }
    files
}

pub(super) fn disk(node: Node<'_>) -> Disk {
    let owned = |value: Option<Cow<'_, str>>| value.map(Cow::into_owned);
    let source = node.child("source");
    let volume = source.and_then(|s| Some(format!("{}/{}", s.attr("pool")?, s.attr("volume")?)));
    let plain = ["file", "dev", "dir", "name"]
        .iter()
        .find_map(|name| owned(source.and_then(|source| source.attr(name))));
    Disk {
        target: owned(node.attr_at("target", "dev")).unwrap_or_default(),
        device: owned(node.attr("device")).unwrap_or_else(|| "disk".to_owned()),
        format: owned(node.attr_at("driver", "type")),
        source: volume.or(plain),
    }
}
