//! Reads the configuration space of a device: the type of header, the serial number, and ACS.

use std::os::fd::OwnedFd;

use rustix::io::pread;

/// The configuration space of a device: an open `config` attribute.
///
/// For users other than root, the kernel shows only the first 64 bytes. A read wakes a device in power state D3cold.
/// Source: Linux `Documentation/ABI/testing/sysfs-bus-pci`, `drivers/pci/pci-sysfs.c`; PCI Express
/// Base Specification, 7.5 and 7.9.
#[derive(Debug)]
pub struct ConfigSpace(OwnedFd);

/// The id of the extended capability access control services (ACS).
const ACS: u16 = 0x000d;
/// The id of the extended capability device serial number.
const SERIAL: u16 = 0x0003;

impl ConfigSpace {
    pub(crate) fn new(file: OwnedFd) -> Self {
        Self(file)
    }

    /// The type of header: 0 for an endpoint, 1 for a PCI-to-PCI bridge, 2 for a CardBus bridge. None if the device
    /// does not respond, such as a removed device or a virtual function.
    pub fn header_type(&self) -> Option<u8> {
        let [vendor, .., kind] = self.dwords::<4>(0)?;
        // Virtual functions do not implement vendor and device id.
        (vendor != u32::MAX).then_some((kind >> 16) as u8 & 0x7f)
    }

    /// The device serial number: sixteen hexadecimal digits, in the order in which vendors print them.
    pub fn serial(&self) -> Option<String> {
        let at = self.capability(SERIAL)??;
        let [low, high] = self.dwords::<2>(at + 4)?;
        // Some devices leave the number empty.
        ((low, high) != (0, 0)).then(|| format!("{high:08x}{low:08x}"))
    }

    /// Whether the device has the ACS capability; none when the capabilities cannot be read, such as without root.
    pub fn has_acs(&self) -> Option<bool> {
        Some(self.capability(ACS)?.is_some())
    }

    /// The offset of an extended capability. The outer option is none when the capabilities cannot be read.
    fn capability(&self, wanted: u16) -> Option<Option<u64>> {
        let mut at = 0x100;
        // The limit ends the list of a broken device.
        for _ in 0..64 {
            let Some([header]) = self.dwords::<1>(at) else {
                // A conventional device has 256 bytes and no extended capabilities.
                return (at == 0x100 && self.dwords::<1>(0xfc).is_some()).then_some(None);
            };
            let next = u64::from(header >> 20) & !3;
            match header as u16 {
                id if id == wanted => return Some(Some(at)),
                0xffff => return None,
                _ if next <= 0x100 => break,
                _ => at = next,
            }
        }
        Some(None)
    }

    fn dwords<const N: usize>(&self, at: u64) -> Option<[u32; N]> {
        let mut bytes = [0; 64];
        let bytes = &mut bytes[..4 * N];
        (pread(&self.0, &mut *bytes, at).ok()? == bytes.len()).then_some(())?;
        let mut dwords = [0; N];
        for (dword, bytes) in dwords.iter_mut().zip(bytes.chunks_exact(4)) {
            *dword = u32::from_le_bytes(bytes.try_into().ok()?);
        }
        Some(dwords)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn space(bytes: &[u8]) -> ConfigSpace {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        ConfigSpace::new(file.into())
    }

    /// A space whose extended capabilities are these, with the words that follow each header.
    fn extended(capabilities: &[(u16, [u32; 2])]) -> Vec<u8> {
        let mut bytes = vec![0; 0x1000];
        bytes[..4].copy_from_slice(&[0x86, 0x80, 0xd3, 0x10]);
        for (index, (id, words)) in capabilities.iter().enumerate() {
            let at = 0x100 + 0x40 * index;
            let last = index + 1 == capabilities.len();
            let next = if last { 0 } else { at as u32 + 0x40 };
            let header = u32::from(*id) | 1 << 16 | next << 20;
            for (n, dword) in [header, words[0], words[1]].into_iter().enumerate() {
                bytes[at + 4 * n..][..4].copy_from_slice(&dword.to_le_bytes());
            }
        }
        bytes
    }

    #[test]
    fn header_type_distinguishes_bridges_from_endpoints() {
        for (byte, kind) in [(0x00, 0), (0x80, 0), (0x01, 1), (0x81, 1), (0x02, 2)] {
            let mut bytes = extended(&[]);
            bytes[0x0e] = byte;
            assert_eq!(space(&bytes).header_type(), Some(kind));
        }
        for silent in [&[0xff; 64][..], &[], &[0; 10]] {
            assert_eq!(space(silent).header_type(), None);
        }
    }

    #[test]
    fn extended_capabilities_are_found_anywhere_in_the_list() {
        let bytes = extended(&[(1, [0; 2]), (SERIAL, [0x00a7_b9ff, 0x5254_00ff]), (ACS, [0; 2])]);
        assert_eq!(space(&bytes).serial().as_deref(), Some("525400ff00a7b9ff"));
        assert_eq!(space(&bytes).has_acs(), Some(true));
        let none = extended(&[(1, [0; 2])]);
        assert_eq!((space(&none).serial(), space(&none).has_acs()), (None, Some(false)));
        // What an ordinary user sees; a conventional device; one that does not answer.
        assert_eq!((space(&bytes[..64]).serial(), space(&bytes[..64]).has_acs()), (None, None));
        assert_eq!(space(&bytes[..256]).has_acs(), Some(false));
        assert_eq!(space(&[0xff; 4096]).has_acs(), None);
    }

    #[test]
    fn a_cyclic_list_of_capabilities_ends() {
        let mut bytes = extended(&[(1, [0; 2]), (2, [0; 2])]);
        // The second points at itself.
        bytes[0x140..0x144].copy_from_slice(&0x1401_0002_u32.to_le_bytes());
        assert_eq!(space(&bytes).has_acs(), Some(false));
    }
}
