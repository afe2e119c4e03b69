//! The TD HOB: the list in which QEMU describes the memory of a trust domain to its firmware.
//!
//! Source: QEMU `hw/i386/tdvf-hob.c`; UEFI Platform Initialization specification, volume 3, "HOB Code Definitions".

use crate::rtmr0::ram::{GuestMemory, Ram};
use crate::tdvf::{Section, SectionKind};

/// The sizes of the handoff information table, of a description of memory, and of the end of the list. Unit: bytes.
const TABLE: u16 = 56;
const RESOURCE: u16 = 48;
const END: u16 = 8;

/// The types of memory: system memory, and memory that the firmware must accept before it uses it.
const SYSTEM_MEMORY: u32 = 0;
const UNACCEPTED: u32 = 7;

/// The attributes of all memory: present, initialized, tested.
const ATTRIBUTES: u32 = 7;

/// The part of the list that the firmware measures: all but its end.
///
/// Errors: the reason why QEMU could not write the list.
pub(super) fn measured(sections: &[Section], memory: GuestMemory) -> Result<Vec<u8>, String> {
    let mut places = sections.iter().filter(|section| section.kind == SectionKind::TdHob);
    let place = places.next().ok_or("the firmware has no section for the TD HOB")?;
    let ranges = memory.ranges(sections)?;
    let size = u64::from(TABLE) + u64::from(RESOURCE) * ranges.len() as u64 + u64::from(END);
    if size > place.size {
        return Err(format!("the TD HOB has {size} bytes and its section has {}", place.size));
    }
    let mut list = header(1, TABLE);
    list.extend(9u32.to_le_bytes()); // EFI_HOB_HANDOFF_TABLE_VERSION
    list.extend([0; 4 + 4 * 8]); // boot mode, and addresses that QEMU leaves out
    list.extend((place.address + size).to_le_bytes());
    list.extend(ranges.iter().flat_map(resource));
    Ok(list)
}

fn header(kind: u16, length: u16) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &length.to_le_bytes(), &[0; 4]].concat()
}

fn resource(ram: &Ram) -> Vec<u8> {
    let kind = if ram.is_added { SYSTEM_MEMORY } else { UNACCEPTED };
    let mut hob = header(3, RESOURCE);
    hob.extend([0; 16]); // no owner
    hob.extend([kind, ATTRIBUTES].map(u32::to_le_bytes).concat());
    hob.extend([ram.start, ram.length].map(u64::to_le_bytes).concat());
    hob
}
