//! The stated format of an image, and the check that its header agrees.
//!
//! A guest can write any header into its raw disk, but must not thereby choose how the host reads the disk. The format
//! of an image that a guest could have written is therefore stated by another source: the user, the record of the
//! import, or the file name. The header can only contradict the stated format.

use std::fs::File;
use std::path::Path;

use common::error::{Error, Result};

use crate::image::check::check_alone;
use crate::image::description::Image;
use crate::image::format::Format;
use crate::image::qcow2::{Header, MAGIC};
use crate::image::source::{Kind, Source, no_image};
use crate::image::{foreign, tables};

/// The formats that the user, a piped item and a domain state for an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SaidFormat {
    /// The format that `--image-format` states.
    pub flag: Option<Format>,
    /// The format in the item that `tdx-pool import` printed.
    pub item: Option<Format>,
    /// The format with which an existing domain uses the image.
    pub definition: Option<Format>,
}

/// A format, and the source that states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatedFormat {
    /// The format.
    pub format: Format,
    by: &'static str,
}

impl StatedFormat {
    /// The format that `--image-format` states.
    pub fn by_flag(format: Format) -> Self {
        Self { format, by: "--image-format" }
    }

    /// The format in the record of an import.
    pub(crate) fn by_record(format: Format) -> Self {
        Self { format, by: "the record of its import" }
    }

    /// The format in a piped item.
    pub(crate) fn by_item(format: Format) -> Self {
        Self { format, by: "standard input" }
    }

    /// The format in the definition of a domain or in a template.
    pub fn by_definition(format: Format) -> Self {
        Self { format, by: "the domain definition" }
    }

    /// The format that a file name states with the ending `.raw` or `.qcow2`, in upper or lower case.
    pub fn by_name(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        let format = match extension.as_str() {
            "raw" => Format::Raw,
            "qcow2" => Format::Qcow2,
            _ => return None,
        };
        Some(Self { format, by: "its file name" })
    }

    /// Fails if the format of the header, `found`, differs from the stated format.
    ///
    /// Errors: `invalid_input`.
    pub(crate) fn check(self, found: Format, name: &Path) -> Result<()> {
        match (self.format, found) {
            (Format::Raw, Format::Qcow2) => Err(self.has_qcow2_header(name)),
            (Format::Qcow2, Format::Raw) => Err(self.has_no_qcow2_header(name)),
            (Format::Raw, Format::Raw) | (Format::Qcow2, Format::Qcow2) => Ok(()),
        }
    }

    /// The error for an image without a stated format.
    pub fn missing(name: &Path) -> Error {
        Error::invalid_input(format!(
            "the format of {} is not known: its name ends in neither .raw nor .qcow2",
            name.display()
        ))
        .hint("add --image-format raw or --image-format qcow2")
    }

    fn has_qcow2_header(self, name: &Path) -> Error {
        let data = foreign::convert(name, "raw", DATA);
        let (name, by) = (name.display(), self.by);
        Error::invalid_input(format!("{name} has a qcow2 header, but {by} says raw"))
            .hint(format!("to use the image as qcow2, add --image-format qcow2; {data}"))
    }

    fn has_no_qcow2_header(self, name: &Path) -> Error {
        let (name, by) = (name.display(), self.by);
        Error::invalid_input(format!("{name} has no qcow2 header, but {by} says qcow2"))
            .hint("to use the image as a raw disk, add --image-format raw")
    }

    fn looks_foreign(self, name: &Path, (what, format): (&str, &str)) -> Error {
        let image = foreign::convert(name, format, "convert the image to qcow2");
        let data = foreign::convert(name, "raw", DATA);
        let (name, by, stated) = (name.display(), self.by, self.format);
        let refused = Error::invalid_input(format!(
            "{name} has the header of {what}, but {by} says {stated}"
        ));
        match stated {
            Format::Raw => refused.hint(format!("{image}; {data}")),
            Format::Qcow2 => refused.hint(image),
        }
    }
}

const DATA: &str = "keep the header as data that a guest wrote to its raw disk";

/// Reads an image whose format is stated, and refuses an image that needs another file.
///
/// A header is refused if it contradicts the stated format, or if it names a backing file, a data file or encryption.
/// In a raw disk, a LUKS header is data.
///
/// Errors: `invalid_input`, with a hint; `io` if the file cannot be read.
pub fn check_stated(file: &File, name: &Path, stated: StatedFormat) -> Result<Image> {
    let source = Source::new(file, name)?;
    if let Kind::Other(what) = source.kind {
        return Err(no_image(name, what));
    }
    let start = source.read(0, 1024)?;
    if let Some(other) = foreign::guessed_by_qemu(&start) {
        return Err(stated.looks_foreign(name, other));
    }
    let is_qcow2 = start.starts_with(MAGIC);
    stated.check(if is_qcow2 { Format::Qcow2 } else { Format::Raw }, name)?;
    let Some(header) = is_qcow2.then(|| Header::read(&source)).transpose()?.flatten() else {
        return Ok(Image::raw(source.size));
    };
    tables::check_places(&source, &header)?;
    let image = header.to_image(source.size);
    check_alone(&source, &image)?;
    Ok(image)
}

/// The length of the header of a file that begins with `start`, which [`check_stated`] reads. Unit: bytes.
pub(crate) fn header_length(start: &[u8]) -> usize {
    let cluster_bits = start.get(20..24).filter(|_| start.starts_with(MAGIC));
    match cluster_bits {
        Some([0, 0, 0, bits @ 9..=21]) => 1 << bits,
        _ => start.len(),
    }
}
