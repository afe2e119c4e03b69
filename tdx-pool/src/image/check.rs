//! Whether a file is an image that can be taken.

use std::fs::File;
use std::path::Path;

use common::error::{IoContext, Result};
use common::shell::quote_path;
use rustix::fs::{Mode, OFlags};

use crate::image::description::Image;
use crate::image::qcow2::Header;
use crate::image::source::{Kind, Source, no_image};
use crate::image::{foreign, tables};

/// Opens an image for reading, without ever waiting for the other end of a named pipe.
///
/// Errors: `not_found`, `permission`, `io`; `invalid_input` for a socket, which cannot be opened.
pub fn open(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NXIO) => {
            Err(no_image(path, "a socket or a device that is not there"))
        }
        opened => opened.map(File::from).at("open", path),
    }
}

/// Fails for what can hold no image in any format: a folder, a pipe, a socket, a character device.
///
/// Errors: `invalid_input`; `io`.
pub fn check_kind(file: &File, name: &Path) -> Result<()> {
    match Source::new(file, name)?.kind {
        Kind::Other(what) => Err(no_image(name, what)),
        Kind::File | Kind::Block => Ok(()),
    }
}

/// Reads what `file` is. `name` is for messages only.
///
/// Errors: `invalid_input` if it is neither a regular file nor a block device, or a qcow2 header
/// that QEMU would not open either; `io` if unreadable.
/// Source: QEMU `docs/interop/qcow2.rst`.
pub fn probe(file: &File, name: &Path) -> Result<Image> {
    let source = Source::new(file, name)?;
    if let Kind::Other(what) = source.kind {
        return Err(no_image(name, what));
    }
    let Some(header) = Header::read(&source)? else {
        return Ok(Image::raw(source.size));
    };
    tables::check_places(&source, &header)?;
    Ok(header.to_image(source.size))
}

/// Reads what `file` is and refuses what cannot become a base image.
///
/// Accepted is a regular file that is complete by itself: a bootable raw disk, or a qcow2 image
/// without backing or data file, neither encrypted nor marked corrupt, with every table and cluster
/// that it refers to inside the file. The cost is one pass over the qcow2 tables, at most the bytes
/// of the file that are not holes. Moves the position of `file`.
///
/// Errors: `invalid_input`, with a hint that says how to make a base image of it; `io`.
pub fn check_base(file: &File, name: &Path) -> Result<Image> {
    let source = Source::new(file, name)?;
    match source.kind {
        Kind::File => {}
        Kind::Block => {
            return Err(source
                .invalid("is a block device, not an image file")
                .hint(foreign::convert(name, "raw", "makes an image of it")));
        }
        Kind::Other(what) => return Err(no_image(name, what)),
    }
    if source.size == 0 {
        return Err(source.invalid("is empty").hint("copy or download it again"));
    }
    let Some(header) = Header::read(&source)? else {
        foreign::check_raw(&source)?;
        return Ok(Image::raw(source.size));
    };
    let image = header.to_image(source.size);
    check_alone(&source, &image)?;
    tables::check(&source, &header)?;
    Ok(image)
}

/// Refuses a qcow2 image that needs another file, a key or a repair.
pub(super) fn check_alone(source: &Source<'_>, image: &Image) -> Result<()> {
    let name = source.name;
    let flatten = || foreign::convert(name, "qcow2", "flattens it, if you trust what it names");
    let refused = if let Some(backing) = &image.backing {
        let message = format!("is an overlay of {}", backing.name.display());
        source.invalid(message).hint(flatten())
    } else if image.data_file {
        source.invalid("keeps its data in an external data file").hint(flatten())
    } else if image.encrypted {
        source
            .invalid("is an encrypted qcow2 image")
            .hint("qemu-img convert, given the key with --object secret, makes a plain copy")
    } else if image.corrupt {
        let repair = format!("qemu-img check -r all -- {} repairs it", quote_path(name));
        source.invalid("is marked corrupt").hint(repair)
    } else if image.virtual_size_bytes == 0 {
        source.invalid("is a disk of zero bytes")
    } else {
        return Ok(());
    };
    Err(refused)
}
