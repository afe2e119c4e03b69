//! A small TDVF image, made of its parts, so that tests can make each part wrong.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails; unit tests may")]

/// A section of the metadata.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section {
    pub(crate) offset: u32,
    pub(crate) raw: u32,
    pub(crate) address: u64,
    pub(crate) size: u64,
    pub(crate) kind: u32,
    pub(crate) attributes: u32,
}

/// A variable: vendor, name, state and data.
pub(crate) type Variable = ([u8; 16], &'static str, u8, Vec<u8>);

/// The parts of an image of 64 KiB.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) sections: Vec<Section>,
    pub(crate) variables: Vec<Variable>,
    /// What the descriptor says of itself: signature, length, version, number of sections.
    pub(crate) descriptor: ([u8; 4], u32, u32, u32),
    /// The distance of the descriptor from the end.
    pub(crate) distance: u32,
}

/// The size of the image, and of its configuration volume at the start.
pub(crate) const SIZE: usize = 0x10000;
pub(crate) const CFV: usize = 0x4000;

/// Where the descriptor is, from the end.
const DISTANCE: u32 = 0x400;

/// The GUIDs of `PK` and `KEK`, of `db` and `dbx`, and of `SecureBootEnable`, as their bytes are stored.
pub(crate) const GLOBAL: [u8; 16] = [
    0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c,
];
pub(crate) const SECURITY: [u8; 16] = [
    0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f,
];
pub(crate) const ENABLE: [u8; 16] = [
    0xc7, 0x0b, 0xa3, 0xf0, 0x08, 0xaf, 0x56, 0x45, 0x99, 0xc4, 0x00, 0x10, 0x09, 0xc9, 0x3a, 0x44,
];

impl Parts {
    /// The sections as OVMF has them: code and variables at the end of 4 GiB, and areas below 9 MiB.
    pub(crate) fn new() -> Self {
        let code = u32::try_from(SIZE - CFV).unwrap();
        let variables = u32::try_from(CFV).unwrap();
        let base = (1u64 << 32) - SIZE as u64;
        let area =
            |kind, address, size| Section { offset: 0, raw: 0, address, size, kind, attributes: 0 };
        let sections = vec![
            Section {
                offset: variables,
                raw: code,
                address: base + CFV as u64,
                size: code.into(),
                kind: 0,
                attributes: 1,
            },
            Section {
                offset: 0,
                raw: variables,
                address: base,
                size: CFV as u64,
                kind: 1,
                attributes: 0,
            },
            area(3, 0x81_0000, 0x1_0000),
            area(3, 0x80_b000, 0x2000),
            area(2, 0x80_9000, 0x2000),
            area(3, 0x80_0000, 0x6000),
        ];
        let count = u32::try_from(sections.len()).unwrap();
        Self {
            sections,
            variables: Vec::new(),
            descriptor: (*b"TDVF", 16 + 32 * count, 1, count),
            distance: DISTANCE,
        }
    }

    /// The image.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut image = filler(SIZE);
        image[..CFV].copy_from_slice(&self.volume());
        let end = image.len();
        let (signature, length, version, count) = self.descriptor;
        let mut metadata = [&signature[..], &le(length), &le(version), &le(count)].concat();
        for section in &self.sections {
            metadata.extend([le(section.offset), le(section.raw)].concat());
            metadata.extend(section.address.to_le_bytes());
            metadata.extend(section.size.to_le_bytes());
            metadata.extend([le(section.kind), le(section.attributes)].concat());
        }
        let start = end - DISTANCE as usize;
        image[start..start + metadata.len()].copy_from_slice(&metadata);
        let table = self.table();
        image[end - 32 - table.len()..end - 32].copy_from_slice(&table);
        image
    }

    /// The table of GUIDs: another entry, that of the metadata, the footer.
    fn table(&self) -> Vec<u8> {
        let other = [&[7; 8][..], &[26, 0], &[0x55; 16]].concat();
        let metadata = [
            0x35, 0x65, 0x7a, 0xe4, 0x4a, 0x98, 0x98, 0x47, 0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf,
            0x8e, 0xc2,
        ];
        let metadata = [&le(self.distance)[..], &[22, 0], &metadata].concat();
        let footer = [
            0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a,
            0x08, 0x2d,
        ];
        [&other[..], &metadata, &other, &[26 + 22 + 26 + 18, 0], &footer].concat()
    }

    /// The configuration volume: its header, and a store with the variables.
    fn volume(&self) -> Vec<u8> {
        let mut volume = vec![0; 0x48];
        volume[0x28..0x2c].copy_from_slice(b"_FVH");
        volume[0x30] = 0x48;
        volume.extend([
            0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3,
            0x77, 0x92,
        ]);
        volume.extend(le(u32::try_from(CFV - 0x1000 - 0x48).unwrap()));
        volume.extend([0x5a, 0xfe, 0, 0, 0, 0, 0, 0]);
        for (vendor, name, state, data) in &self.variables {
            let name: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
            volume.extend([0xaa, 0x55, *state, 0]);
            volume.extend([0; 32]);
            volume.extend(le(u32::try_from(name.len()).unwrap()));
            volume.extend(le(u32::try_from(data.len()).unwrap()));
            volume.extend([&vendor[..], &name, data].concat());
            volume.resize(volume.len().next_multiple_of(4), 0xff);
        }
        volume.resize(CFV - 0x1000, 0xff);
        // Behind the store: what the firmware keeps there for updates of the variables.
        volume.resize(CFV, 0x5b);
        volume
    }
}

/// Bytes that repeat nowhere soon.
fn filler(count: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..count).map(|_| next()).collect()
}

fn le(number: u32) -> [u8; 4] {
    number.to_le_bytes()
}
