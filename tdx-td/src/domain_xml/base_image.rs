//! Protects the base image, which other guests read as well, from a definition made from a template.

use std::borrow::Cow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use common::libvirt::{Context, Libvirt};
use common::xml::{Document, Edit, Element, Node};
use common::{Error, Result};
use tdx_pool::pool::Pool;
use tdx_pool::volume::overlay::Base;

use super::part::Part;

/// The base image, with what is needed to find it in a definition.
#[derive(Debug)]
pub struct BaseImage<'a> {
    /// The image.
    pub base: &'a Base,
    /// Whether the path of the image is one of this host.
    pub is_local: bool,
    /// The volumes that the definition names.
    pub volumes: &'a [VolumePath],
}

/// A volume and its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumePath {
    /// Name of the pool.
    pub pool: String,
    /// Name of the volume.
    pub volume: String,
    /// Path of the volume.
    pub path: PathBuf,
}

impl VolumePath {
    /// Returns the paths of all volumes that a definition names.
    ///
    /// Errors: `not_found` for a pool or a volume that does not exist.
    pub fn all(libvirt: &Libvirt, root: Node<'_>) -> Result<Vec<Self>> {
        let nodes = root.find_all("devices").flat_map(Node::descendants);
        let named = nodes.filter_map(|node| node.attr("pool").zip(node.attr("volume")));
        let path_of = |pool: &str, volume: &str| {
            let absent =
                || Error::not_found(format!("volume '{volume}' not found in pool '{pool}'"));
            let pool = Pool::by_name(libvirt, pool)?.ok_or_else(absent)?;
            let found = pool.volume(volume)?.ok_or_else(absent)?;
            found.path().context(format_args!("read the path of volume '{volume}'"))
        };
        let volume = |(pool, volume): (Cow<'_, str>, Cow<'_, str>)| {
            let path = path_of(&pool, &volume)?.into();
            Ok(Self { pool: pool.into_owned(), volume: volume.into_owned(), path })
        };
        named.map(volume).collect()
    }
}

impl BaseImage<'_> {
    /// Whether a path leads to the base image, by its own name or another one.
    fn is_at(&self, path: &str) -> bool {
        let (path, base) = (Path::new(path), self.base.path.as_path());
        if !path.is_absolute() {
            return false;
        }
        let same_file = || match (path.metadata(), base.metadata()) {
            (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
            // The image may not be imported yet.
            _ => normal(path) == normal(base),
        };
        path == base || (self.is_local && same_file())
    }

    /// Whether a directory contains the base image.
    fn is_below(&self, folder: &str) -> bool {
        let folder = Path::new(folder);
        folder.is_absolute() && normal(&self.base.path).starts_with(normal(folder))
    }

    fn is_source(&self, node: Node<'_>) -> bool {
        let volume = node.attr("volume").zip(node.attr("pool"));
        let by_volume = volume.is_some_and(|(volume, pool)| {
            let mut known = self.volumes.iter();
            let found = known.find(|known| known.volume == volume && known.pool == pool);
            found.is_some_and(|known| known.path.to_str().is_some_and(|path| self.is_at(path)))
        });
        by_volume || node.attrs().any(|(_, value)| self.is_at(&value))
    }

    /// Fails for a definition whose guest, or whose QEMU, could write to the base image.
    ///
    /// Errors: `invalid_input`, which names the element.
    pub fn check(&self, document: &Document) -> Result<()> {
        let root = document.root();
        let devices = root.find_all("devices").flat_map(Node::descendants);
        let written = |node: &Node<'_>| self.is_written_by(*node);
        let by_device = devices.into_iter().find(written);
        let path = self.base.path.to_string_lossy();
        let names_it = |node: &Node<'_>| {
            let value = node.attr("value").unwrap_or_default();
            value.contains(path.as_ref()) || value.split(['=', ',']).any(|part| self.is_at(part))
        };
        let raw = || root.descendants().find(|n| n.local_name() == "arg" && names_it(n));
        let nvram = || root.find_all("os/nvram").find(|node| self.is_at(&node.text()));
        match by_device.or_else(raw).or_else(nvram) {
            None => Ok(()),
            Some(node) => Err(Error::invalid_input(format!(
                "{} allows the guest to write to the base image {}",
                Part::element(node),
                self.base.path.display()
            ))
            .hint(
                "name the base image only in the <backingStore> of the disk with OVERLAY_IMG_PATH, \
                 or in a disk with <readonly/>",
            )),
        }
    }

    fn is_written_by(&self, node: Node<'_>) -> bool {
        if is_read_only(node) {
            return false;
        }
        let shares_folder = node.name() == "source"
            && node.attr("dir").is_some_and(|folder| self.is_below(&folder));
        shares_folder || self.is_source(node)
    }

    /// Tells libvirt not to change the owner of the base image, for every element that names the image. The
    /// disk of the overlay is skipped.
    ///
    /// Source: <https://libvirt.org/formatdomain.html>, "Security label".
    pub fn keep_owner<'a>(&self, edit: &mut Edit<'a>, root: Node<'a>, overlay: &str) -> Result<()> {
        let disks = root.find_all("devices/disk");
        let others = disks.filter(|d| d.attr_at("source", "file").as_deref() != Some(overlay));
        let sources = others.flat_map(Node::descendants).filter(|node| node.name() == "source");
        let label = Element::new("seclabel").attr("model", "dac").attr("relabel", "no").to_xml()?;
        for source in sources.filter(|source| self.is_source(*source)) {
            let is_owner = |node: &Node<'_>| {
                node.name() == "seclabel" && node.attr("model").as_deref() == Some("dac")
            };
            match source.children().find(is_owner) {
                Some(there) => edit.replace(there, &label),
                None => edit.insert_into(source, &label),
            };
        }
        Ok(())
    }
}

/// Whether the guest can only read what an element names: an element below `<backingStore>`, or the source of a
/// read-only disk or file system.
fn is_read_only(node: Node<'_>) -> bool {
    let mut around = std::iter::successors(Some(node), |node| node.parent());
    if around.any(|node| node.name() == "backingStore") {
        return true;
    }
    let Some(device) = node.parent().filter(|_| node.name() == "source") else {
        return false;
    };
    let is_cdrom = device.attr("device").as_deref() == Some("cdrom");
    let kinds = ["disk", "filesystem"].contains(&device.name());
    kinds && (device.child("readonly").is_some() || (device.name() == "disk" && is_cdrom))
}

/// Returns a path without symbolic links and dots, as far as the path exists.
fn normal(path: &Path) -> PathBuf {
    if let Ok(path) = path.canonicalize() {
        return path;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => normal(parent).join(name),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use tdx_pool::image::Format;

    use super::*;

    fn base(path: &Path) -> Base {
        Base {
            name: "base.qcow2".to_owned(),
            path: path.to_owned(),
            format: Format::Qcow2,
            capacity_bytes: 1 << 20,
        }
    }

    #[test]
    fn check_refuses_every_way_to_write_to_the_base_image() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("base.qcow2");
        std::fs::write(&path, "x").unwrap();
        std::os::unix::fs::symlink(&path, folder.path().join("link")).unwrap();
        std::fs::hard_link(&path, folder.path().join("other")).unwrap();
        let (pool, volume) = ("p".to_owned(), "v".to_owned());
        let volumes = [VolumePath { pool, volume, path: path.clone() }];
        let base = base(&path);
        let image = BaseImage { base: &base, is_local: true, volumes: &volumes };
        let at = |name: &str| folder.path().join(name).display().to_string();
        let check = |inside: &str| {
            let text = format!("<domain xmlns:q='urn:q'>{inside}</domain>");
            image.check(&Document::parse(text).unwrap())
        };
        let devices = |inside: &str| check(&format!("<devices>{inside}</devices>"));
        for bad in [
            format!("<disk><source file='{}'/></disk>", at("base.qcow2")),
            format!("<disk><source file='{}'/></disk>", at("./base.qcow2")),
            format!("<disk><source file='{}'/></disk>", at("link")),
            format!("<disk><source file='{}'/></disk>", at("other")),
            format!("<disk type='block'><source dev='{}'/></disk>", at("base.qcow2")),
            "<disk type='volume'><source pool='p' volume='v'/></disk>".to_owned(),
            format!("<disk device='floppy'><source file='{}'/></disk>", at("base.qcow2")),
            format!("<serial type='file'><source path='{}'/></serial>", at("base.qcow2")),
            format!("<serial type='pty'><log file='{}'/></serial>", at("base.qcow2")),
            format!("<filesystem><source dir='{}'/></filesystem>", at("")),
            format!(
                "<disk><source file='/o'><dataStore><source file='{}'/></dataStore></source></disk>",
                at("base.qcow2")
            ),
        ] {
            let error = devices(&bad).expect_err(&bad);
            assert!(error.message().contains("(line 1)"), "{error}");
        }
        let raw =
            format!("<q:commandline><q:arg value='file={},if=x'/></q:commandline>", at("link"));
        check(&raw).unwrap_err();
        check(&format!("<os><nvram>{}</nvram></os>", at("base.qcow2"))).unwrap_err();
        for good in [
            format!("<disk><source file='{}'/><readonly/></disk>", at("base.qcow2")),
            format!("<disk device='cdrom'><source file='{}'/></disk>", at("base.qcow2")),
            format!(
                "<disk><source file='/o'/><backingStore><source file='{}'/></backingStore></disk>",
                at("base.qcow2")
            ),
            "<disk type='volume'><source pool='p' volume='other'/></disk>".to_owned(),
            format!("<filesystem><source dir='{}'/><readonly/></filesystem>", at("")),
            "<disk><source file='/elsewhere'/></disk>".to_owned(),
        ] {
            devices(&good).unwrap();
        }
    }

    #[test]
    fn keep_owner_labels_each_source_that_is_the_base_image() {
        let base = base(Path::new("/pool/base.qcow2"));
        let image = BaseImage { base: &base, is_local: false, volumes: &[] };
        let document = Document::parse(
            "<domain><devices><disk><source file='/pool/overlay'/></disk>\
             <disk><source file='/pool/base.qcow2'/><readonly/></disk>\
             <disk><source file='/pool/base.qcow2'><seclabel model='dac' relabel='yes'/></source>\
             </disk><disk><source file='/x'/></disk></devices></domain>",
        )
        .unwrap();
        let mut edit = document.edit();
        image.keep_owner(&mut edit, document.root(), "/pool/overlay").unwrap();
        let text = edit.finish().unwrap();
        let label = "<source file='/pool/base.qcow2'><seclabel model='dac' relabel='no'/></source>";
        assert_eq!(text.matches(label).count(), 2, "{text}");
        assert_eq!(text.matches("seclabel").count(), 2, "{text}");
    }
}
