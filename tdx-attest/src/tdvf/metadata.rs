//! The TDX metadata of an image: which of its parts the host adds to a trust domain, where, and whether measured.
//!
//! Source: Intel TDX Virtual Firmware Design Guide, "TDVF descriptor"; QEMU `hw/i386/tdvf.c`, whose checks these are.

use std::ops::Range;

use common::fields;

use crate::tdvf::guid::Guid;
use crate::tdvf::table;

/// The entry of the table of GUIDs that holds the distance of the descriptor from the end of the image.
const OFFSET: Guid = Guid::new(0xe47a_6535, 0x984a, 0x4798, 0x865e_4685_a7bf_8ec2);

/// The size of a page of a trust domain's private memory. Unit: bytes.
pub(super) const PAGE: u64 = 4096;

/// The most memory that the sections of an image may cover; OVMF's cover 5 MiB. Unit: bytes.
const MOST_MEMORY: u64 = 1 << 30;

/// The size of the descriptor without its sections, and that of a section. Unit: bytes.
const HEADER: usize = 16;
const ENTRY: usize = 32;

/// Bit 0 of a section's attributes: the content of the pages is measured (`MR.EXTEND`).
const EXTEND: u32 = 1;

/// The purpose of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionKind {
    /// The boot firmware volume (BFV): code.
    Bfv,
    /// The configuration firmware volume (CFV): variables.
    Cfv,
    /// Memory in which the host describes the memory of the trust domain.
    TdHob,
    /// Memory for the stack and heap of the firmware.
    TempMem,
}

/// A part of an image, or an area without a content, that the host adds to a trust domain.
#[derive(Debug, Clone)]
pub struct Section {
    /// The purpose of the section.
    pub kind: SectionKind,
    /// The content: offsets in the image. Empty for an area without a content. Unit: bytes.
    pub data: Range<usize>,
    /// The guest-physical address, a multiple of the page size.
    pub address: u64,
    /// The size in the memory of the trust domain, a multiple of the page size. Unit: bytes.
    pub size: u64,
    /// Whether the content is measured.
    pub is_measured: bool,
}

impl Section {
    /// The guest-physical addresses of the section's pages.
    pub(super) fn pages(&self) -> impl Iterator<Item = u64> {
        (0..self.size / PAGE).map(|page| self.address + page * PAGE)
    }

    /// The guest-physical addresses of the section.
    fn memory(&self) -> Range<u64> {
        self.address..self.address + self.size
    }
}

/// Reads the sections of an image, in the order of the metadata.
///
/// Errors: the reason why the metadata is not valid. An image that QEMU refuses is refused, and so are sections that
/// overlap, which the TDX module refuses.
pub(super) fn sections(image: &[u8]) -> Result<Vec<Section>, String> {
    let descriptor = descriptor(image)?;
    let (entries, _) = descriptor.as_chunks::<ENTRY>();
    let numbered = entries.iter().enumerate();
    let sections: Vec<Section> = numbered
        .map(|(number, entry)| {
            section(entry, image.len()).map_err(|why| format!("section {number} {why}"))
        })
        .collect::<Result<_, _>>()?;
    let memory = sections.iter().try_fold(0u64, |sum, section| sum.checked_add(section.size));
    if memory.is_none_or(|memory| memory > MOST_MEMORY) {
        return Err("the sections cover more than 1 GiB of memory".to_owned());
    }
    let mut sorted: Vec<Range<u64>> = sections.iter().map(Section::memory).collect();
    sorted.sort_by_key(|memory| memory.start);
    match sorted.windows(2).find(|pair| pair[1].start < pair[0].end) {
        Some(pair) => Err(format!("two sections contain the address {:#x}", pair[1].start)),
        None => Ok(sections),
    }
}

/// Returns the entries of the descriptor.
fn descriptor(image: &[u8]) -> Result<&[u8], String> {
    let entry = table::entry(image, OFFSET)?;
    let mut entry = entry.ok_or("the table of GUIDs has no entry for TDX metadata")?;
    let distance = fields::u32(&mut entry).ok_or("the entry for TDX metadata is too short")?;
    let start =
        usize::try_from(distance).ok().and_then(|distance| image.len().checked_sub(distance));
    let outside = "the TDX metadata is outside of the file";
    let mut bytes = &image[start.ok_or(outside)?..];
    let descriptor = bytes;
    let signature: [u8; 4] = fields::array(&mut bytes).ok_or(outside)?;
    if signature != *b"TDVF" {
        return Err(format!("the TDX metadata begins with {:02x?}, not with TDVF", signature));
    }
    let mut number = || fields::u32(&mut bytes).ok_or(outside);
    let (length, version, count) = (number()?, number()?, number()?);
    if version != 1 {
        return Err(format!("the TDX metadata has version {version}: only version 1 is known"));
    }
    let size =
        usize::try_from(count).ok().and_then(|count| count.checked_mul(ENTRY)?.checked_add(HEADER));
    if size.is_none_or(|size| usize::try_from(length) != Ok(size)) || count < 2 {
        return Err(format!(
            "the TDX metadata has {count} sections and a length of {length} bytes"
        ));
    }
    let whole = size.and_then(|size| descriptor.get(HEADER..size));
    whole.ok_or_else(|| outside.to_owned())
}

/// Reads a section of an image of this many bytes.
fn section(entry: &[u8; ENTRY], image: usize) -> Result<Section, String> {
    let Fields { offset, raw, address, size, kind, attributes } =
        Fields::read(entry).ok_or("is too short")?;
    let kind = match kind {
        0 => SectionKind::Bfv,
        1 => SectionKind::Cfv,
        2 => SectionKind::TdHob,
        3 => SectionKind::TempMem,
        other => return Err(format!("has the unknown type {other}")),
    };
    if attributes & !EXTEND != 0 {
        return Err(format!("has the unknown attributes {attributes:#x}"));
    }
    if address % PAGE != 0 || size % PAGE != 0 || address.checked_add(size).is_none() {
        return Err(format!("has no whole pages: address {address:#x}, size {size:#x}"));
    }
    let has_content = matches!(kind, SectionKind::Bfv | SectionKind::Cfv);
    if has_content != (raw > 0) || u64::from(raw) > size {
        return Err(format!("has {raw} bytes in the file for {size} bytes of memory"));
    }
    let is_measured = attributes & EXTEND != 0;
    if is_measured && u64::from(raw) != size {
        return Err(format!(
            "is measured and has {raw} bytes in the file for {size} bytes of memory: hosts measure the rest differently"
        ));
    }
    let data = content(offset, raw).filter(|data| data.end <= image);
    let data =
        data.ok_or_else(|| format!("is outside of the file: offset {offset:#x}, {raw} bytes"))?;
    Ok(Section { kind, data, address, size, is_measured })
}

/// The place of a content in the image; an empty one for no content, whatever the offset.
fn content(offset: u32, length: u32) -> Option<Range<usize>> {
    if length == 0 {
        return Some(0..0);
    }
    let (offset, length) = (usize::try_from(offset).ok()?, usize::try_from(length).ok()?);
    Some(offset..offset.checked_add(length)?)
}

/// The fields of a section in the metadata.
struct Fields {
    offset: u32,
    raw: u32,
    address: u64,
    size: u64,
    kind: u32,
    attributes: u32,
}

impl Fields {
    fn read(mut entry: &[u8]) -> Option<Self> {
        let entry = &mut entry;
        Some(Self {
            offset: fields::u32(entry)?,
            raw: fields::u32(entry)?,
            address: fields::u64(entry)?,
            size: fields::u64(entry)?,
            kind: fields::u32(entry)?,
            attributes: fields::u32(entry)?,
        })
    }
}
