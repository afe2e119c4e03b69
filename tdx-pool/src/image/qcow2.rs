//! Reads the header of a qcow2 image and checks it against QEMU's limits.
//!
//! Source: QEMU `docs/interop/qcow2.rst`; the limits are those of its `block/qcow2.c`.

use common::error::{Error, Result};

use crate::image::backing::Backing;
use crate::image::description::Image;
use crate::image::foreign;
use crate::image::format::Format;
use crate::image::source::Source;

pub(super) const MAGIC: &[u8] = b"QFI\xfb";
/// Large enough for the header, its extensions and the backing file's name as QEMU writes them. Unit: bytes.
const USUAL_LENGTH: usize = 4096;
/// The length of the fixed fields that are read, including the compression type. Unit: bytes.
const FIELDS_LENGTH: usize = 105;

pub(super) const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
const MAX_SNAPSHOTS: u64 = 65_536;
const MAX_BACKING_NAME: u64 = 1023;

const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const KNOWN_FEATURES: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2;

const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xE279_2ACA;

/// A header whose fields passed the checks.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) cluster_size: u64,
    pub(super) l1_offset: u64,
    pub(super) l1_entries: u64,
    pub(super) refcount_offset: u64,
    pub(super) refcount_entries: u64,
    pub(super) snapshots_offset: u64,
    pub(super) snapshots: u64,
    pub(super) backing: Option<Backing>,
    virtual_size: u64,
    encrypted: bool,
    features: u64,
}

/// The fields that version 2 of the format lacks or fixes to one value.
struct VersionedFields {
    version: u32,
    features: u64,
    /// The width of a reference count in bits, as a power of two.
    refcount_order: u32,
    /// The length of the header in bytes.
    length: u32,
}

impl Header {
    /// Reads the header; none for a file that is not qcow2. Needs one small read, and a second read only if the backing
    /// file's name is further in the file than QEMU puts it.
    pub(super) fn read(source: &Source<'_>) -> Result<Option<Self>> {
        let start = source.read(0, USUAL_LENGTH)?;
        if !start.starts_with(MAGIC) {
            return Ok(None);
        }
        if start.len() < FIELDS_LENGTH {
            return Err(source.truncated(FIELDS_LENGTH as u64));
        }
        let (length, mut header) = Self::parse(source, &start)?;
        header.backing = header.read_backing(source, start, length)?;
        Ok(Some(header))
    }

    /// Returns the header without its backing file, and its length.
    fn parse(source: &Source<'_>, start: &[u8]) -> Result<(u64, Self)> {
        let version = be32(start, 4);
        let versioned = match version {
            2 => VersionedFields { version, features: 0, refcount_order: 4, length: 72 },
            3 => VersionedFields {
                version,
                features: be64(start, 72),
                refcount_order: be32(start, 96),
                length: be32(start, 100),
            },
            1 => return Err(foreign::QCOW1.refuse(source)),
            _ => {
                return Err(source
                    .invalid(format!("is a qcow2 image of unknown version {version}"))
                    .hint("copy or download the image again"));
            }
        };
        let unknown = versioned.features & !KNOWN_FEATURES;
        if unknown != 0 {
            return Err(source.invalid(format!("needs unknown qcow2 features {unknown:#x}")).hint(
                foreign::convert(source.name, "qcow2", "make a copy without these features"),
            ));
        }

        let cluster_bits = be32(start, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(damaged(
                source,
                &format!("its cluster size of 2^{cluster_bits} bytes is not allowed"),
            ));
        }
        let header = Self {
            cluster_size: 1 << cluster_bits,
            virtual_size: be64(start, 24),
            encrypted: be32(start, 32) != 0,
            l1_entries: be32(start, 36).into(),
            l1_offset: be64(start, 40),
            refcount_offset: be64(start, 48),
            refcount_entries: u64::from(be32(start, 56)) << (cluster_bits - 3),
            snapshots: be32(start, 60).into(),
            snapshots_offset: be64(start, 64),
            features: versioned.features,
            backing: None,
        };
        match header.find_flaw(start, &versioned) {
            Some(flaw) => Err(damaged(source, flaw)),
            None => Ok((versioned.length.into(), header)),
        }
    }

    /// The reason why QEMU would refuse an image with this header, if it would.
    fn find_flaw(&self, start: &[u8], versioned: &VersionedFields) -> Option<&'static str> {
        let &VersionedFields { version, refcount_order, length, .. } = versioned;
        let compression = if length > 104 { start[104] } else { 0 };
        let aligned = |offset: u64| offset.is_multiple_of(self.cluster_size);
        let l2_reach = self.cluster_size * self.cluster_size / self.l2_entry_size() as u64;
        let flaws = [
            (version == 3 && length < 104, "its header is too short"),
            (u64::from(length) > self.cluster_size, "its header is longer than a cluster"),
            (refcount_order > 6, "its reference counts are too wide"),
            (be32(start, 32) > 2, "its encryption method is unknown"),
            (compression > 1, "its compression type is unknown"),
            (
                (compression != 0) != self.has(COMPRESSION_TYPE),
                "its compression type contradicts its feature bits",
            ),
            (
                self.has(EXTENDED_L2) && self.cluster_size < 1 << 14,
                "its clusters are too small for subclusters",
            ),
            (self.virtual_size > i64::MAX as u64, "its virtual size is too large"),
            (self.l1_entries * 8 > MAX_L1_BYTES, "its L1 table is too large"),
            (
                self.virtual_size.div_ceil(l2_reach) > self.l1_entries,
                "its L1 table is too small for the disk",
            ),
            (
                self.l1_entries > 0 && (self.l1_offset == 0 || !aligned(self.l1_offset)),
                "the offset of its L1 table is invalid",
            ),
            (self.refcount_entries == 0, "it has no reference counts"),
            (
                self.refcount_entries * 8 > MAX_REFCOUNT_TABLE_BYTES,
                "its reference count table is too large",
            ),
            (
                self.refcount_offset == 0 || !aligned(self.refcount_offset),
                "the offset of its reference count table is invalid",
            ),
            (self.snapshots > MAX_SNAPSHOTS, "it has more than 65536 snapshots"),
            (!aligned(self.snapshots_offset), "the offset of its snapshot table is invalid"),
        ];
        flaws.iter().find(|(is_flawed, _)| *is_flawed).map(|(_, flaw)| *flaw)
    }

    fn read_backing(
        &self,
        source: &Source<'_>,
        mut start: Vec<u8>,
        header_length: u64,
    ) -> Result<Option<Backing>> {
        let (offset, length) = (be64(&start, 8), u64::from(be32(&start, 16)));
        if offset == 0 {
            return Ok(None);
        }
        if length > MAX_BACKING_NAME
            || offset < header_length
            || offset > self.cluster_size - length.min(self.cluster_size)
        {
            return Err(damaged(source, "the offset of its backing file's name is invalid"));
        }
        // The name is in the first cluster, so at most 2 MiB are read.
        let (offset, end) = (offset as usize, (offset + length) as usize);
        if end > start.len() {
            start = source.read(0, end)?;
        }
        let Some(name) = start.get(offset..end) else {
            return Err(source.truncated(end as u64));
        };
        let format = match backing_format(&start[header_length as usize..offset]) {
            Ok(format) => format,
            Err(flaw) => return Err(damaged(source, flaw)),
        };
        Ok((length > 0).then(|| Backing::new(name, format)))
    }

    fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// The size of one entry of an L2 table. Unit: bytes.
    pub(super) fn l2_entry_size(&self) -> usize {
        if self.has(EXTENDED_L2) { 16 } else { 8 }
    }

    /// The description of the image, whose file has `file_size_bytes`.
    pub(super) fn to_image(&self, file_size_bytes: u64) -> Image {
        Image {
            format: Format::Qcow2,
            virtual_size_bytes: self.virtual_size,
            file_size_bytes,
            data_file: self.has(DATA_FILE),
            encrypted: self.encrypted,
            corrupt: self.has(CORRUPT),
            dirty: self.has(DIRTY),
            backing: self.backing.clone(),
        }
    }
}

/// Finds the format of the backing file in the header extensions.
fn backing_format(mut extensions: &[u8]) -> Result<Option<&[u8]>, &'static str> {
    while extensions.len() >= 8 {
        let (kind, length) = (be32(extensions, 0), be32(extensions, 4) as usize);
        let rest = &extensions[8..];
        if kind == EXTENSION_END {
            break;
        }
        let Some(data) = rest.get(..length) else {
            return Err("a header extension is too long");
        };
        if kind == EXTENSION_BACKING_FORMAT {
            return Ok(Some(data));
        }
        extensions = rest.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(None)
}

/// The error for a qcow2 image that QEMU would refuse.
pub(super) fn damaged(source: &Source<'_>, flaw: &str) -> Error {
    source
        .invalid(format!("is a damaged qcow2 image: {flaw}"))
        .hint("copy or download the image again")
}

pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}

pub(super) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}
