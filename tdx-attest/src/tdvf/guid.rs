//! GUIDs as UEFI stores them.

/// A GUID in the order of its bytes in images and event logs.
///
/// Source: UEFI specification 2.10, appendix A, "GUID and Time Formats".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// The GUID `a-b-c-d`, where `d` is the number of the last two groups. The first three groups are little-endian.
    pub const fn new(a: u32, b: u16, c: u16, d: u64) -> Self {
        let ([a0, a1, a2, a3], [b0, b1], [c0, c1]) =
            (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
        let [d0, d1, d2, d3, d4, d5, d6, d7] = d.to_be_bytes();
        Self([a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, d2, d3, d4, d5, d6, d7])
    }
}
