//! What a disk image file is, read from its header; no external program is run.
//!
//! Everything here treats the file as hostile: reads and allocations are bounded. A guest can write a
//! qcow2 header into its own raw disk, so a chain walked by headers alone may lead to files that QEMU
//! would not open: good for sparing them, never for trusting them.

mod backing;
mod foreign;
mod qcow2;
pub mod record;
mod source;
mod stated;
mod tables;

use std::fmt;
use std::fs::File;
use std::path::Path;

use clap::ValueEnum;
use common::error::{IoContext, Result};
use common::shell::quote_path;
use rustix::fs::{Mode, OFlags};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use backing::Backing;
use qcow2::Header;
use source::{Kind, Source, no_image};
pub(crate) use stated::header_length;
pub use stated::{SaidFormat, StatedFormat, check_stated};

/// The format of an image file, by the name QEMU and libvirt give it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// QEMU's own: grows on demand, can have a backing file.
    Qcow2,
    /// The bytes of the disk and nothing else.
    Raw,
}

impl Format {
    /// The name that QEMU and libvirt use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }

    /// The format of this name; none for a name of any other.
    pub fn parse(name: &str) -> Option<Self> {
        Self::from_str(name, false).ok()
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the header of an image says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// How the file stores the disk.
    pub format: Format,
    /// The size of the disk as the guest sees it.
    pub virtual_size_bytes: u64,
    /// The length of the file, holes included.
    pub file_size_bytes: u64,
    /// The image that this one is an overlay of.
    pub backing: Option<Backing>,
    /// The guest's data lies in another file.
    pub data_file: bool,
    /// The guest's data is encrypted.
    pub encrypted: bool,
    /// QEMU found the image damaged and marked it so.
    pub corrupt: bool,
    /// The image was not closed cleanly; only its reference counts may be stale.
    pub dirty: bool,
}

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
        return Ok(raw(source.size));
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
        return Ok(raw(source.size));
    };
    let image = header.to_image(source.size);
    check_alone(&source, &image)?;
    tables::check(&source, &header)?;
    Ok(image)
}

/// Refuses a qcow2 image that needs another file, a key or a repair.
fn check_alone(source: &Source<'_>, image: &Image) -> Result<()> {
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

fn raw(size: u64) -> Image {
    Image {
        format: Format::Raw,
        virtual_size_bytes: size,
        file_size_bytes: size,
        backing: None,
        data_file: false,
        encrypted: false,
        corrupt: false,
        dirty: false,
    }
}

#[cfg(test)]
mod tests;
