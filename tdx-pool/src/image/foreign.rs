//! Recognizes files that are not accepted as images, so that messages can name their format and a remedy.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use common::error::{Error, Result};
use common::shell::quote_path;

use crate::image::source::{NAME_ONE, Source};

/// A file format that is recognized only for messages.
#[derive(Debug)]
pub(super) struct Foreign {
    name: &'static str,
    /// The offset of `magic`.
    offset: u64,
    magic: &'static [u8],
    remedy: Remedy,
}

#[derive(Debug)]
enum Remedy {
    /// qemu-img can convert the format, which it knows by this name.
    Convert(&'static str),
    /// This command unpacks the file.
    Unpack(&'static str),
    None,
}

use Remedy::{Convert, Unpack};

pub(super) const QCOW1: Foreign =
    Foreign::new("an image in QEMU's old qcow format", 0, b"QFI\xfb\0\0\0\x01", Convert("qcow"));

const VHD: Foreign = Foreign::new("a VHD image", 0, b"conectix", Convert("vpc"));
/// Tested last, because many CD images are bootable disks as well.
const ISO: Foreign = Foreign::new("a CD image", 0x8001, b"CD001", Remedy::None);

/// The formats whose start no bootable raw disk has.
const FORMATS: &[Foreign] = &[
    Foreign::new("a VMDK image", 0, b"KDMV", Convert("vmdk")),
    Foreign::new("a VMDK image", 0, b"COWD", Convert("vmdk")),
    Foreign::new("a VMDK description", 0, b"# Disk DescriptorFile", Convert("vmdk")),
    Foreign::new("a VirtualBox VDI image", 64, b"\x7f\x10\xda\xbe", Convert("vdi")),
    Foreign::new("a VHDX image", 0, b"vhdxfile", Convert("vhdx")),
    VHD,
    Foreign::new("a QED image", 0, b"QED\0", Convert("qed")),
    Foreign::new("a Parallels image", 0, b"WithoutFreeSpace", Convert("parallels")),
    Foreign::new("a Parallels image", 0, b"WithouFreSpacExt", Convert("parallels")),
    Foreign::new("a Bochs image", 0, b"Bochs Virtual HD Image", Convert("bochs")),
    Foreign::new("a cloop image", 0, b"#!/bin/sh\n#V2.0 Format\n", Convert("cloop")),
    Foreign::new("a LUKS-encrypted volume", 0, b"LUKS\xba\xbe", Remedy::None),
    Foreign::new("a gzip-compressed file", 0, b"\x1f\x8b\x08", Unpack("gzip -dk")),
    Foreign::new("an xz-compressed file", 0, b"\xfd7zXZ\0", Unpack("xz -dk")),
    Foreign::new("a zstd-compressed file", 0, b"\x28\xb5\x2f\xfd", Unpack("zstd -d")),
    Foreign::new("a bzip2-compressed file", 0, b"BZh", Unpack("bzip2 -dk")),
    Foreign::new("a zip archive", 0, b"PK\x03\x04", Unpack("unzip")),
    Foreign::new("a 7-Zip archive", 0, b"7z\xbc\xaf\x27\x1c", Unpack("7z x")),
    Foreign::new("a tar archive", 257, b"ustar", Unpack("tar -xf")),
    Foreign::new("a squashfs file system", 0, b"hsqs", Remedy::None),
    Foreign::new("an ELF program", 0, b"\x7fELF", Remedy::None),
    Foreign::new("a Linux kernel", 514, b"HdrS", Remedy::None),
];

impl Foreign {
    const fn new(name: &'static str, offset: u64, magic: &'static [u8], remedy: Remedy) -> Self {
        Self { name, offset, magic, remedy }
    }

    fn is_in(&self, start: &[u8]) -> bool {
        start.get(self.offset as usize..).is_some_and(|rest| rest.starts_with(self.magic))
    }

    /// The error that names the format and the remedy.
    pub(super) fn refuse(&self, source: &Source<'_>) -> Error {
        let refused = source.invalid(format!("is {}, not a qcow2 or raw image", self.name));
        match self.remedy {
            Convert(format) => {
                refused.hint(convert(source.name, format, "convert the image to qcow2"))
            }
            Unpack(command) => {
                let file = quote_path(source.name);
                refused.hint(format!("decompress the file first: {command} {file}"))
            }
            Remedy::None => refused.hint(NAME_ONE),
        }
    }
}

/// The image format, other than qcow2 and LUKS, that QEMU would guess for a file that begins with `start`: its
/// description for messages, and QEMU's name for it.
pub(super) fn guessed_by_qemu(start: &[u8]) -> Option<(&'static str, &'static str)> {
    let known = [&QCOW1].into_iter().chain(FORMATS);
    known.filter(|format| format.is_in(start)).find_map(|format| match format.remedy {
        Convert(name) => Some((format.name, name)),
        Unpack(_) | Remedy::None => None,
    })
}

/// Refuses a raw file that is not a bootable disk.
///
/// The test is the boot signature, which an MBR, the protective MBR of a GPT and a FAT file system have in common.
pub(super) fn check_raw(source: &Source<'_>) -> Result<()> {
    let start = source.read(0, 1024)?;
    if let Some(format) = FORMATS.iter().find(|format| format.is_in(&start)) {
        return Err(format.refuse(source));
    }
    // A VHD of fixed size is a raw disk with a footer.
    if source.read(source.size.saturating_sub(512), 8)? == VHD.magic {
        return Err(VHD.refuse(source));
    }
    if start.get(510..512) != Some(b"\x55\xaa") {
        if source.read(ISO.offset, ISO.magic.len())? == ISO.magic {
            return Err(ISO.refuse(source));
        }
        return Err(source
            .invalid("is not a disk image: it is neither qcow2 nor a raw disk with a boot record")
            .hint(NAME_ONE));
    }
    if !source.size.is_multiple_of(512) {
        let size = source.size;
        return Err(source
            .invalid(format!("is not a complete raw disk: {size} bytes is not a multiple of 512"))
            .hint("copy or download the image again"));
    }
    Ok(())
}

/// The hint with the command that converts `image` to a qcow2 image without a backing file. The command states the
/// format, because qemu-img would guess the format from a header that a guest may have written.
pub(super) fn convert(image: &Path, format: &str, purpose: &str) -> String {
    // A name that is probably free, in a directory other than /dev.
    let folder = image.parent().filter(|folder| !folder.starts_with("/dev"));
    let name = image.file_name().unwrap_or_default().as_bytes();
    let name = match name.strip_suffix(b".qcow2") {
        Some(stem) => [stem, b"-flat.qcow2"].concat(),
        None => [name, b".qcow2"].concat(),
    };
    let output = folder.unwrap_or(Path::new("")).join(OsStr::from_bytes(&name));
    let (image, output) = (quote_path(image), quote_path(&output));
    format!("to {purpose}, run: qemu-img convert -f {format} -O qcow2 -- {image} {output}")
}
