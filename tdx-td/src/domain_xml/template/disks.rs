//! The disks of a template: how each image is read is stated, and no header says which other files
//! are.

use std::borrow::Cow;
use std::path::Path;

use common::xml::{Edit, Element, Node};
use common::{Error, ErrorKind, Result};
use tdx_pool::image::{self, Format, StatedFormat};
use tdx_pool::volume::overlay::Base;

use crate::create::disk::Disk;
use crate::create::identity::DomainIdentity;
use crate::domain_xml::builder;
use crate::domain_xml::template::{BASE, OVERLAY, SEED};

/// Errors: `usage` for a disk of another kind, which templates have no placeholder for.
pub(crate) fn overlay_of<'a>(identity: &DomainIdentity<'a>) -> Result<(&'a Path, &'a Base)> {
    match identity.disk {
        Disk::Overlay { path, base } => Ok((path, base)),
        Disk::New { .. } | Disk::Given { .. } => {
            Err(Error::usage("a template's disk stands on a base image: name it with --td-image"))
        }
    }
}

/// Fails for a disk that is used in a format which may name other files, and for a CD or a cloud-init
/// seed that is not used raw.
///
/// Errors: `invalid_input`.
pub(crate) fn check_formats(root: Node<'_>) -> Result<()> {
    for disk in disks(root) {
        let (file, format) = (source(disk), format(disk));
        let refused = |why: &str| {
            Error::invalid_input(format!("the template uses {file} as {format}, but {why}"))
        };
        match Format::parse(&format) {
            Some(Format::Raw) => {}
            Some(Format::Qcow2) if is_raw_by_kind(disk) => {
                return Err(refused("CDs, floppies and seeds are raw")
                    .hint("<driver name='qemu' type='raw'/> belongs to its disk"));
            }
            Some(Format::Qcow2) => {}
            None => {
                return Err(refused("disks are raw or qcow2").hint(format!(
                    "qemu-img convert -f {format} -O qcow2 makes a qcow2 image of it"
                )));
            }
        }
    }
    Ok(())
}

/// Reads the headers of the qcow2 images that a template names itself: their chains end with them.
///
/// Errors: `invalid_input` for an image that is not qcow2, or needs another file.
pub(crate) fn check_headers(root: Node<'_>) -> Result<()> {
    let placeholders = [OVERLAY, BASE, SEED];
    for disk in disks(root).filter(|disk| disk.child("backingStore").is_none()) {
        let file = source(disk);
        if Format::parse(&format(disk)) != Some(Format::Qcow2) || placeholders.contains(&&*file) {
            continue;
        }
        let path = Path::new(file.as_ref());
        let opened = match image::open(path) {
            // Then the guest cannot have it either, and libvirt says so.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            opened => opened?,
        };
        image::check_stated(&opened, path, StatedFormat::by_definition(Format::Qcow2))?;
    }
    Ok(())
}

/// Has the overlay used as a qcow2 image over its base, the base left to its owner, and every other
/// image backed by nothing unless the template names what it is backed by.
///
/// Errors: `invalid_input` for an overlay or a base image that is used in another format.
pub(crate) fn settle<'a>(
    edit: &mut Edit<'a>,
    root: Node<'a>,
    identity: &DomainIdentity<'_>,
) -> Result<()> {
    let (overlay, base) = overlay_of(identity)?;
    let (overlay, base_path) = (builder::utf8(overlay)?, builder::utf8(&base.path)?);
    let seed = identity.seed.map(builder::utf8).transpose()?;
    for disk in disks(root) {
        let file = source(disk);
        if file == overlay {
            expect_format(disk, "the overlay", Format::Qcow2)?;
            // Whatever the template says of the base: where it is and what is in it, is known.
            let backing = builder::backing_store(base, identity.keep_base_owner)?.to_xml()?;
            match disk.child("backingStore") {
                Some(there) => edit.replace(there, &backing),
                None => edit.insert_into(disk, &backing),
            };
            continue;
        }
        if file == base_path {
            expect_format(disk, "the base image", base.format)?;
        }
        if disk.child("backingStore").is_none() {
            edit.insert_into(disk, &builder::end_of_chain().to_xml()?);
        }
        if Some(&*file) == seed && disk.child("readonly").is_none() {
            edit.insert_into(disk, &Element::new("readonly").to_xml()?);
        }
    }
    Ok(())
}

/// The disks that are files or block devices of the host.
fn disks(root: Node<'_>) -> impl Iterator<Item = Node<'_>> {
    root.find_all("devices/disk").filter(|disk| !source(*disk).is_empty())
}

fn source(disk: Node<'_>) -> Cow<'_, str> {
    disk.attr_at("source", "file").or_else(|| disk.attr_at("source", "dev")).unwrap_or_default()
}

/// How a disk is used: libvirt takes one of which nothing is said for raw.
fn format(disk: Node<'_>) -> Cow<'_, str> {
    disk.attr_at("driver", "type").unwrap_or_else(|| "raw".into())
}

fn is_raw_by_kind(disk: Node<'_>) -> bool {
    let device = disk.attr("device");
    matches!(device.as_deref(), Some("cdrom" | "floppy")) || source(disk) == SEED
}

fn expect_format(disk: Node<'_>, image: &str, expected: Format) -> Result<()> {
    let format = format(disk);
    if format == expected.as_str() {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "the template uses {image} as {format}, but it is {expected}"
    ))
    .hint(format!("<driver name='qemu' type='{expected}'/> belongs to its disk")))
}
