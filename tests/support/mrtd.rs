//! MRTD of an image, computed independently of the tools.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use sha2::{Digest, Sha384};

/// The MRTD of an image, computed from the definition: everything that is hashed, in one piece.
///
/// Nothing is checked: the image is valid.
pub(crate) fn expected_mrtd(image: &[u8], by_section: bool) -> String {
    let u16_at = |at: usize| usize::from(image[at]) | usize::from(image[at + 1]) << 8;
    let u32_at = |at: usize| u16_at(at) | u16_at(at + 2) << 16;
    let u64_at = |at: usize| u32_at(at) | u32_at(at + 4) << 32;
    let guid = [
        0x35, 0x65, 0x7a, 0xe4, 0x4a, 0x98, 0x98, 0x47, 0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e,
        0xc2,
    ];
    let place = (0..image.len() - 16).rfind(|at| image[*at..at + 16] == guid).unwrap();
    let metadata = image.len() - u32_at(place - 6);
    let mut hashed = Vec::new();
    let mut block = |name: &str, address: usize, chunk: &[u8]| {
        let mut bytes = [name.as_bytes(), &vec![0; 16 - name.len()]].concat();
        bytes.extend(address.to_le_bytes());
        bytes.resize(128, 0);
        hashed.extend(bytes);
        hashed.extend(chunk);
    };
    for section in 0..u32_at(metadata + 12) {
        let at = metadata + 16 + 32 * section;
        let (offset, address, size) = (u32_at(at), u64_at(at + 8), u64_at(at + 16));
        let measured = u32_at(at + 28) & 1 == 1;
        let mut steps: Vec<(&str, usize)> = Vec::new();
        for page in (0..size).step_by(4096) {
            steps.push(("MEM.PAGE.ADD", page));
            let chunks = (page..page + 4096).step_by(256);
            steps.extend(chunks.filter(|_| measured).map(|chunk| ("MR.EXTEND", chunk)));
        }
        if by_section {
            // A stable sort: all additions before all measurements.
            steps.sort_by_key(|(name, _)| *name == "MR.EXTEND");
        }
        for (name, from) in steps {
            let is_extend = name == "MR.EXTEND";
            let chunk = if is_extend { &image[offset + from..offset + from + 256] } else { &[] };
            block(name, address + from, chunk);
        }
    }
    hex(Sha384::digest(&hashed))
}

/// The bytes in hexadecimal digits.
pub(crate) fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
