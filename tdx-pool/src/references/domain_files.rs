//! Finds the files that the XML of a domain, a snapshot or a saved state names.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use common::Result;
use common::image::add_paths;
use common::libvirt::Libvirt;
use common::xml::{Document, Node};

use crate::pool::Pool;

/// An image of a disk, and which of its properties the XML states.
#[derive(Debug)]
pub(crate) struct StatedImage {
    /// The path of the image.
    pub(crate) path: PathBuf,
    /// Whether the image is raw, so that QEMU reads no header from it.
    pub(crate) is_raw: bool,
    /// Whether the XML states the backing image, or states that the image has none.
    pub(crate) has_backing: bool,
    /// Whether the XML states the data file.
    pub(crate) has_data_file: bool,
}

/// Every file that libvirt XML names: each absolute path in an attribute or text, also within an argument for QEMU
/// (`file=/a,if=virtio`) or a `json:` name, and each volume that is named by its pool. An extra path is harmless; a
/// missing path could let a needed file be deleted.
pub(crate) fn files(document: &Document, pools: &mut PoolPaths<'_>) -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for node in document.root().descendants() {
        for value in node.attrs().map(|(_, value)| value.into_owned()).chain([node.text()]) {
            add_paths(&value, &mut files);
        }
        files.extend(volume_source(node, pools)?);
    }
    Ok(files)
}

/// The images of all disks, layer by layer: sources, backing stores, mirrors and data stores.
///
/// Source: <https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms>; `dataStore` since
/// libvirt 10.10.
pub(crate) fn stated_images(
    document: &Document,
    pools: &mut PoolPaths<'_>,
) -> Result<Vec<StatedImage>> {
    const DISKS: [&str; 4] =
        ["devices/disk", "domain/devices/disk", "inactiveDomain/devices/disk", "disks/disk"];
    let root = document.root();
    let mut images = Vec::new();
    for disk in DISKS.iter().flat_map(|path| root.find_all(path)) {
        // A disk without a type is raw for libvirt.
        let format = disk.attr_at("driver", "type");
        add_layer(disk, format.is_none_or(|format| format == "raw"), pools, &mut images)?;
    }
    Ok(images)
}

fn add_layer(
    node: Node<'_>,
    is_raw: bool,
    pools: &mut PoolPaths<'_>,
    images: &mut Vec<StatedImage>,
) -> Result<()> {
    let is_stated_raw = |node: Node<'_>| node.attr_at("format", "type").is_some_and(|f| f == "raw");
    let backing = node.child("backingStore");
    if let Some(source) = node.child("source") {
        let data = source.child("dataStore");
        let named = source.attr("file").or_else(|| source.attr("dev"));
        let mut paths = BTreeSet::new();
        named.iter().for_each(|name| add_paths(name, &mut paths));
        paths.extend(volume_source(source, pools)?);
        let (has_backing, has_data_file) = (backing.is_some(), data.is_some());
        let image = |path| StatedImage { path, is_raw, has_backing, has_data_file };
        images.extend(paths.into_iter().map(image));
        if let Some(data) = data {
            add_layer(data, is_stated_raw(data), pools, images)?;
        }
    }
    for below in backing.into_iter().chain(node.child("mirror")) {
        add_layer(below, is_stated_raw(below), pools, images)?;
    }
    Ok(())
}

/// The path of `<source pool='P' volume='V'/>`.
fn volume_source(node: Node<'_>, pools: &mut PoolPaths<'_>) -> Result<Option<PathBuf>> {
    match (node.attr("pool"), node.attr("volume")) {
        (Some(pool), Some(volume)) => Ok(pools.path(&pool)?.map(|path| path.join(volume.as_ref()))),
        _ => Ok(None),
    }
}

/// The directories of pools. libvirt is asked once for each pool.
pub(crate) struct PoolPaths<'a> {
    libvirt: &'a Libvirt,
    known: HashMap<String, Option<PathBuf>>,
}

impl<'a> PoolPaths<'a> {
    pub(crate) fn new(libvirt: &'a Libvirt) -> Self {
        Self { libvirt, known: HashMap::new() }
    }

    fn path(&mut self, name: &str) -> Result<Option<PathBuf>> {
        if !self.known.contains_key(name) {
            let path = Pool::by_name(self.libvirt, name)?.and_then(|pool| pool.path);
            self.known.insert(name.to_owned(), path);
        }
        Ok(self.known.get(name).cloned().flatten())
    }
}
