//! The other files that the header of an image names.
//!
//! Headers are read leniently: a damaged header still names the files that its repair needs, and an
//! additional name does no harm. Reads and allocations are bounded, whatever the header says.
//!
//! Of the formats that QEMU reads, qcow, qcow2, QED and VMDK can name other files. QEMU opens no
//! parent of a VHD, VHDX, VDI or Parallels image.
//! Source: QEMU `docs/interop/qcow2.rst`, `docs/interop/qed_spec.rst`, `block/qcow.c`, `block/vmdk.c`,
//! `block/vhdx.c`, `block/vpc.c`, `block/vdi.c`, `block/parallels.c`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The bytes that hold the header, the extensions and the names of almost every image.
pub(super) const USUAL_BYTES: usize = 4096;
/// The longest name that is read, in bytes. QEMU accepts 1,023; the kernel accepts no longer path than this.
const MAX_NAME: u64 = 4096;
/// The largest cluster of a qcow2 image, which holds all header extensions.
const MAX_CLUSTER_BITS: u32 = 21;
/// The number of data files that are read from the extensions of one header. QEMU writes one.
const MAX_DATA_FILES: usize = 16;

pub(super) const QCOW_MAGIC: &[u8] = b"QFI\xfb";
pub(super) const QED_MAGIC: &[u8] = b"QED\0";
const EXTENSION_END: u32 = 0;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
const QED_BACKING_FILE: u64 = 1;

/// The purpose of the other file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The image that backs an overlay.
    Backing,
    /// The guest's data: an external data file of qcow2, an extent of VMDK.
    Data,
}

/// A file that a header names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The purpose of the file.
    pub role: Role,
    /// The name in the header: any bytes, in QEMU's syntax.
    pub name: Vec<u8>,
}

/// The names in the header of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// The files that the header names.
    pub references: Vec<Reference>,
    /// Whether the header says that the guest's data is in another file, without a name of that file.
    pub is_data_file_unnamed: bool,
}

impl Header {
    pub(super) fn qcow(file: &File, start: &[u8]) -> io::Result<Self> {
        let mut header = Self::default();
        let version = be32(start, 4);
        let (offset, length) = (be64(start, 8), u64::from(be32(start, 16)));
        header.add_backing(file, start, offset, length)?;
        if version >= 3 {
            header.is_data_file_unnamed = be64(start, 72) & INCOMPATIBLE_DATA_FILE != 0;
        }
        if version >= 2 {
            let from = if version == 2 { 72 } else { be32(start, 100) as usize };
            let cluster = 1 << be32(start, 20).clamp(9, MAX_CLUSTER_BITS);
            // The extensions end at the name of the backing file.
            let end = usize::try_from(offset).ok().filter(|end| (1..cluster).contains(end));
            header.add_data_files(file, start, from, end.unwrap_or(cluster))?;
        }
        Ok(header)
    }

    pub(super) fn qed(file: &File, start: &[u8]) -> io::Result<Self> {
        let mut header = Self::default();
        if le64(start, 16) & QED_BACKING_FILE != 0 {
            let (offset, length) = (u64::from(le32(start, 56)), u64::from(le32(start, 60)));
            header.add_backing(file, start, offset, length)?;
        }
        Ok(header)
    }

    fn add_backing(
        &mut self,
        file: &File,
        start: &[u8],
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        if offset == 0 || length == 0 || length > MAX_NAME {
            return Ok(());
        }
        let inside = usize::try_from(offset).ok();
        let inside = inside.and_then(|at| start.get(at..at.checked_add(length as usize)?));
        let name = match inside {
            Some(name) => name.to_vec(),
            None => read_at(file, offset, length as usize)?,
        };
        self.add(Role::Backing, &name);
        Ok(())
    }

    /// Adds the data files that the extensions between `from` and `end` name.
    fn add_data_files(
        &mut self,
        file: &File,
        start: &[u8],
        from: usize,
        end: usize,
    ) -> io::Result<()> {
        let ended = self.walk_extensions(start.get(from..end.min(start.len())).unwrap_or_default());
        if !ended && start.len() == USUAL_BYTES && end > start.len() && from < end {
            let all = read_at(file, from as u64, end - from)?;
            self.references.retain(|reference| reference.role != Role::Data);
            self.walk_extensions(&all);
        }
        Ok(())
    }

    /// Reads extensions. Returns whether they end within these bytes.
    fn walk_extensions(&mut self, mut rest: &[u8]) -> bool {
        let mut found = 0;
        while rest.len() >= 8 {
            let (kind, length) = (be32(rest, 0), be32(rest, 4) as usize);
            if kind == EXTENSION_END || found == MAX_DATA_FILES {
                return true;
            }
            let Some(data) = rest.get(8..8 + length) else { return false };
            if kind == EXTENSION_DATA_FILE {
                found += 1;
                self.is_data_file_unnamed &= !self.add(Role::Data, data);
            }
            rest = rest.get(8 + length.next_multiple_of(8)..).unwrap_or_default();
        }
        false
    }

    /// Adds a name, which ends at its first zero byte as in QEMU. Returns false for an empty one.
    pub(super) fn add(&mut self, role: Role, name: &[u8]) -> bool {
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = &name[..name.len().min(MAX_NAME as usize)];
        if !name.is_empty() {
            self.references.push(Reference { role, name: name.to_vec() });
        }
        !name.is_empty()
    }
}

/// Reads at most `len` bytes at `at`; fewer only at the end of the file.
pub(super) fn read_at(file: &File, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        // A file has no bytes beyond the largest offset.
        let Some(at) = at.checked_add(filled as u64).filter(|at| *at <= i64::MAX as u64) else {
            break;
        };
        match file.read_at(&mut bytes[filled..], at) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The bytes at `at`, padded with zeros.
fn bytes<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|byte| from.get(at + byte).copied().unwrap_or(0))
}

fn be32(from: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes(from, at))
}

fn be64(from: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes(from, at))
}

fn le32(from: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes(from, at))
}

pub(super) fn le64(from: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes(from, at))
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
