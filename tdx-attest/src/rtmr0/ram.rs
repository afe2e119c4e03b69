//! The memory of a trust domain, as QEMU lays it out and describes it to the firmware.
//!
//! Source: QEMU `hw/i386/pc_q35.c`, `pc_q35_init`; `target/i386/kvm/tdx.c`, `tdx_accept_ram_range`.

use crate::tdvf::{Section, SectionKind};

/// The memory of a guest with machine type q35. Unit: bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestMemory(pub u64);

/// A range of memory. Units: an address, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ram {
    pub(super) start: u64,
    pub(super) length: u64,
    /// Whether the host added the pages before the trust domain started. The firmware accepts the others.
    pub(super) is_added: bool,
}

impl Ram {
    const fn end(self) -> u64 {
        self.start + self.length
    }

    const fn unaccepted(start: u64, end: u64) -> Self {
        Self { start, length: end - start, is_added: false }
    }
}

/// The most memory that is placed below 4 GiB as a whole, and how much of a larger memory is. Unit: bytes.
const SPLIT: u64 = 0xb000_0000;
const LOW: u64 = 0x8000_0000;

/// Where the rest of a larger memory begins.
const HIGH: u64 = 1 << 32;

impl GuestMemory {
    /// The ranges of the memory by address, divided where the sections of the firmware begin and end.
    ///
    /// Errors: the reason why QEMU could not add a section: it is not within one range.
    pub(super) fn ranges(self, sections: &[Section]) -> Result<Vec<Ram>, String> {
        let mut ranges = match self.0 {
            size @ ..SPLIT => vec![Ram::unaccepted(0, size)],
            size => vec![Ram::unaccepted(0, LOW), Ram::unaccepted(HIGH, HIGH + (size - LOW))],
        };
        let areas = sections
            .iter()
            .filter(|section| matches!(section.kind, SectionKind::TdHob | SectionKind::TempMem));
        for area in areas.filter(|area| area.size > 0) {
            let end = area.address + area.size;
            let around =
                ranges.iter().position(|ram| ram.start <= area.address && end <= ram.end());
            let Some(around) = around else {
                return Err(format!(
                    "the memory of the guest does not contain {:#x} to {end:#x}",
                    area.address
                ));
            };
            let ram = ranges[around];
            let added = Ram { start: area.address, length: area.size, is_added: true };
            let parts =
                [Ram::unaccepted(ram.start, area.address), added, Ram::unaccepted(end, ram.end())];
            ranges.splice(around..=around, parts.into_iter().filter(|part| part.length > 0));
        }
        Ok(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(memory: u64, areas: &[(u64, u64)]) -> Result<Vec<(u64, u64, bool)>, String> {
        let area = |&(address, size)| Section {
            kind: SectionKind::TempMem,
            data: 0..0,
            address,
            size,
            is_measured: false,
        };
        let sections: Vec<Section> = areas.iter().map(area).collect();
        let ranges = GuestMemory(memory).ranges(&sections)?;
        Ok(ranges.into_iter().map(|ram| (ram.start, ram.length, ram.is_added)).collect())
    }

    #[test]
    fn memory_of_0xb0000000_bytes_and_more_is_split_at_2_gib() {
        let below = ranges(0xafff_f000, &[]).unwrap();
        assert_eq!(below, [(0, 0xafff_f000, false)]);
        let from = ranges(0xb000_0000, &[]).unwrap();
        assert_eq!(from, [(0, 0x8000_0000, false), (1 << 32, 0x3000_0000, false)]);
    }

    #[test]
    fn areas_divide_the_memory_around_them() {
        let divided =
            ranges(0x10_0000, &[(0x4000, 0x1000), (0, 0x2000), (0x5000, 0x1000)]).unwrap();
        let expected = [
            (0, 0x2000, true),
            (0x2000, 0x2000, false),
            (0x4000, 0x1000, true),
            (0x5000, 0x1000, true),
            (0x6000, 0xf_a000, false),
        ];
        assert_eq!(divided, expected);
        let outside = ranges(0x10_0000, &[(0xf_f000, 0x2000)]).unwrap_err();
        assert_eq!(outside, "the memory of the guest does not contain 0xff000 to 0x101000");
    }
}
