//! The disks of a template. The format of each image is stated, and no image header can name other files.

use std::borrow::Cow;
use std::path::Path;

use common::xml::{Edit, Element, Node};
use common::{Error, ErrorKind, Result};
use tdx_pool::image;
use tdx_pool::image::{Format, StatedFormat};
use tdx_pool::volume::overlay::Base;

use crate::create::disk::Disk;
use crate::create::identity::DomainIdentity;
use crate::domain_xml::builder;
use crate::domain_xml::template::{BASE, OVERLAY, SEED};

/// Returns the path of the overlay and its base image.
///
/// Errors: `usage` for another kind of disk, for which templates have no placeholder.
pub(crate) fn expect_overlay<'a>(identity: &DomainIdentity<'a>) -> Result<(&'a Path, &'a Base)> {
    match identity.disk {
        Disk::Overlay { path, base } => Ok((path, base)),
        Disk::New { .. } | Disk::Given { .. } => {
            Err(Error::usage("--xml-template needs a base image for the overlay")
                .hint("add --td-image IMAGE"))
        }
    }
}

/// Fails for a disk with a format whose images may name other files, and for a CD or a cloud-init
/// seed with a format other than raw.
///
/// Errors: `invalid_input`.
pub(crate) fn check_formats(root: Node<'_>) -> Result<()> {
    for disk in disks(root) {
        let (file, format) = (source(disk), format(disk));
        let refused = |why: &str| {
            Error::invalid_input(format!(
                "the template uses {file} with format {format}, but {why}"
            ))
        };
        match Format::parse(&format) {
            Some(Format::Raw) => {}
            Some(Format::Qcow2) if is_raw_by_kind(disk) => {
                return Err(refused("CDs, floppies and seeds must be raw")
                    .hint("write <driver name='qemu' type='raw'/> into this disk"));
            }
            Some(Format::Qcow2) => {}
            None => {
                return Err(refused("disks must be raw or qcow2").hint(format!(
                    "convert the image: qemu-img convert -f {format} -O qcow2 {file} NEW.qcow2"
                )));
            }
        }
    }
    Ok(())
}

/// Checks the headers of the qcow2 images that a template names: they must not be backed by other files.
///
/// Errors: `invalid_input` for an image that is not qcow2, or that needs another file.
pub(crate) fn check_headers(root: Node<'_>) -> Result<()> {
    let placeholders = [OVERLAY, BASE, SEED];
    for disk in disks(root).filter(|disk| disk.child("backingStore").is_none()) {
        let file = source(disk);
        if Format::parse(&format(disk)) != Some(Format::Qcow2) || placeholders.contains(&&*file) {
            continue;
        }
        let path = Path::new(file.as_ref());
        let opened = match image::open(path) {
            // libvirt reports the missing file when the domain starts.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            opened => opened?,
        };
        image::check_stated(&opened, path, StatedFormat::by_definition(Format::Qcow2))?;
    }
    Ok(())
}

/// States the format and the image chain of every disk: the overlay is qcow2 backed by the base image, whose
/// owner is not changed. Every other image ends its chain, unless the template states its backing image.
///
/// Errors: `invalid_input` for an overlay or a base image that the template uses with another format.
pub(crate) fn state_formats<'a>(
    edit: &mut Edit<'a>,
    root: Node<'a>,
    identity: &DomainIdentity<'_>,
) -> Result<()> {
    let (overlay, base) = expect_overlay(identity)?;
    let (overlay, base_path) = (builder::utf8(overlay)?, builder::utf8(&base.path)?);
    let seed = identity.seed.map(builder::utf8).transpose()?;
    for disk in disks(root) {
        let file = source(disk);
        if file == overlay {
            expect_format(disk, "the overlay", Format::Qcow2)?;
            // A <backingStore> in the template is replaced: path and format of the base image are known.
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

/// Returns the disks that are files or block devices of the host.
fn disks(root: Node<'_>) -> impl Iterator<Item = Node<'_>> {
    root.find_all("devices/disk").filter(|disk| !source(*disk).is_empty())
}

fn source(disk: Node<'_>) -> Cow<'_, str> {
    disk.attr_at("source", "file").or_else(|| disk.attr_at("source", "dev")).unwrap_or_default()
}

/// Returns the format of a disk. Without one, libvirt uses raw.
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
        "the template uses {image} with format {format}, but its format is {expected}"
    ))
    .hint(format!("write <driver name='qemu' type='{expected}'/> into this disk")))
}
