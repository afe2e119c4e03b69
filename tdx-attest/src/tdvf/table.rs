//! The table of GUIDs at the end of an OVMF image.
//!
//! The table is read from its end: the footer, then the entries, the last one first. An entry is its data, its length
//! in two bytes, and its GUID. The length counts all three parts.
//!
//! Source: edk2 `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm`; QEMU `hw/i386/pc_sysfw_ovmf.c`.

use common::fields;

use crate::tdvf::guid::Guid;

/// The GUID of the footer, whose length is that of the whole table.
const FOOTER: Guid = Guid::new(0x96b5_82de, 0x1fb2, 0x45f7, 0xbaea_a366_c55a_082d);

/// How many bytes of the image follow the table.
const BEHIND: usize = 32;

/// How many bytes of an entry follow its data.
const TAIL: usize = 18;

/// Returns the data of the entry with a GUID; `None` if the table has no such entry.
///
/// Errors: the reason why the image has no valid table.
pub(super) fn entry(image: &[u8], wanted: Guid) -> Result<Option<&[u8]>, String> {
    let table = image.len().checked_sub(BEHIND).map(|end| &image[..end]);
    let (entries, size) =
        table.and_then(|table| last(table, FOOTER)).ok_or("the table of GUIDs is missing")?;
    let start = entries.len().checked_sub(size - TAIL);
    let mut rest = &entries[start.ok_or("the table of GUIDs is longer than the file")?..];
    while !rest.is_empty() {
        let (before, guid, size) =
            split(rest).ok_or("the table of GUIDs is too short for an entry")?;
        let data = (before.len() + TAIL).checked_sub(size);
        let data = data.filter(|_| size >= TAIL).ok_or_else(|| {
            format!("an entry of the table of GUIDs has a length of {size} bytes")
        })?;
        if guid == wanted {
            return Ok(Some(&before[data..]));
        }
        rest = &rest[..data];
    }
    Ok(None)
}

/// Splits the length and the GUID off the end of `bytes`.
fn split(bytes: &[u8]) -> Option<(&[u8], Guid, usize)> {
    let (before, mut tail) = bytes.split_at_checked(bytes.len().checked_sub(TAIL)?)?;
    let size = fields::u16(&mut tail)?;
    Some((before, Guid(fields::array(&mut tail)?), size.into()))
}

/// Splits an entry with this GUID off the end of `bytes`. Returns the bytes before the length, and the length.
fn last(bytes: &[u8], wanted: Guid) -> Option<(&[u8], usize)> {
    let (before, guid, size) = split(bytes)?;
    (guid == wanted && size >= TAIL).then_some((before, size))
}
