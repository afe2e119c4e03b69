//! Checks whether a file is an image that these tools accept.

use std::fs::File;
use std::path::Path;

use common::error::{IoContext, Result};
use common::shell::quote_path;
use rustix::fs::{Mode, OFlags};

use crate::image::description::Image;
use crate::image::qcow2::Header;
use crate::image::source::{Kind, Source, no_image};
use crate::image::{foreign, tables};

/// Opens an image for reading, without waiting for the other end of a named pipe.
///
/// Errors: `not_found`, `permission`, `io`; `invalid_input` for a socket, which cannot be opened.
pub fn open(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NXIO) => {
            Err(no_image(path, "a socket or the node of a device that does not exist"))
        }
        opened => opened.map(File::from).at("open", path),
    }
}

/// Fails for a file that cannot be an image of any format: a directory, a pipe, a socket, a character device.
///
/// Errors: `invalid_input`; `io`.
pub fn check_kind(file: &File, name: &Path) -> Result<()> {
    match Source::new(file, name)?.kind {
        Kind::Other(what) => Err(no_image(name, what)),
        Kind::File | Kind::Block => Ok(()),
    }
}

/// Reads the description of an image from its header. `name` is only for messages.
///
/// Errors: `invalid_input` if the file is neither a regular file nor a block device, or has a qcow2 header that QEMU
/// would refuse; `io` if the file cannot be read.
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

/// Reads the description of an image and refuses an image that cannot be a base image.
///
/// A base image is a regular file that needs no other file: a bootable raw disk, or a qcow2 image that has no backing
/// file and no data file, is neither encrypted nor marked corrupt, and contains every table and cluster that it refers
/// to. The check reads the qcow2 tables once, at most the bytes of the file that are not holes. It moves the position
/// of `file`.
///
/// Errors: `invalid_input`, with a hint how to make a base image of the file; `io`.
pub fn check_base(file: &File, name: &Path) -> Result<Image> {
    let source = Source::new(file, name)?;
    match source.kind {
        Kind::File => {}
        Kind::Block => {
            return Err(source
                .invalid("is a block device, not an image file")
                .hint(foreign::convert(name, "raw", "make an image of the block device")));
        }
        Kind::Other(what) => return Err(no_image(name, what)),
    }
    if source.size == 0 {
        return Err(source.invalid("is empty").hint("copy or download the image again"));
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
    let flatten = || {
        let purpose =
            "merge the image with the files that it names (only if you trust these files)";
        foreign::convert(name, "qcow2", purpose)
    };
    let refused = if let Some(backing) = &image.backing {
        let message = format!("is an overlay of {}", backing.name.display());
        source.invalid(message).hint(flatten())
    } else if image.data_file {
        source.invalid("keeps its data in an external data file").hint(flatten())
    } else if image.encrypted {
        source.invalid("is an encrypted qcow2 image").hint(
            "make a decrypted copy with qemu-img convert, and pass the key with --object secret",
        )
    } else if image.corrupt {
        let repair = format!("to repair it, run: qemu-img check -r all -- {}", quote_path(name));
        source.invalid("is marked corrupt").hint(repair)
    } else if image.virtual_size_bytes == 0 {
        source.invalid("is an image of a disk of zero bytes")
    } else {
        return Ok(());
    };
    Err(refused)
}
