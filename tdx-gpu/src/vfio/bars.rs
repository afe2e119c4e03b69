//! Computes the address space that the memory of devices needs in a guest.

use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::{Result, units::GIB};

/// The size of the window that QEMU's q35 machine reserves for 64-bit memory of devices. Firmware that does not compute
/// the size itself reserves as much. Unit: bytes.
///
/// Source: QEMU `include/hw/pci-host/q35.h`, `Q35_PCI_HOST_HOLE64_SIZE_DEFAULT`; edk2
/// `OvmfPkg`, `PcdPciMmio64Size`.
pub const DEFAULT_WINDOW: u64 = 32 * GIB;

/// The size of the 64-bit window that a guest with these devices needs. Unit: bytes; a power of two.
///
/// Each device is behind a port of its own, whose window is aligned to the largest region of the device.
/// Errors: `io`, `permission`.
pub fn window(host: &Host, devices: impl IntoIterator<Item = Bdf>) -> Result<u64> {
    let mut sum: u64 = 0;
    for bdf in devices {
        let text = host.read(&format!("/sys/bus/pci/devices/{bdf}/resource"))?.unwrap_or_default();
        sum = sum.saturating_add(rounded(wide_region_bytes(&text)));
    }
    Ok(rounded(sum))
}

/// The next power of two; zero for zero.
fn rounded(bytes: u64) -> u64 {
    if bytes == 0 { 0 } else { bytes.checked_next_power_of_two().unwrap_or(1 << 63) }
}

/// The total size of the 64-bit memory regions of a device. Unit: bytes.
///
/// Source: Linux `Documentation/PCI/sysfs-pci.rst`: one line per region with start, end and flags; the first six
/// regions are the BARs; `include/linux/ioport.h` for `IORESOURCE_MEM` and `IORESOURCE_MEM_64`.
fn wide_region_bytes(resource: &str) -> u64 {
    const MEM: u64 = 0x200;
    const MEM_64: u64 = 0x10_0000;
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let size = |line: &str| {
        let mut numbers = line.split_whitespace().map_while(number);
        let (start, end, flags) = (numbers.next()?, numbers.next()?, numbers.next()?);
        let is_wide = flags & MEM != 0 && flags & MEM_64 != 0 && end > start;
        is_wide.then(|| (end - start).saturating_add(1))
    };
    resource.lines().take(6).filter_map(size).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    const H100: &str = "\
        0x0000204000000000 0x0000204000ffffff 0x000000000014220c\n\
        0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
        0x0000200000000000 0x0000201fffffffff 0x000000000014220c\n\
        0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
        0x0000204001000000 0x0000204002ffffff 0x000000000014220c\n\
        0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
        0x0000000090000000 0x00000000900fffff 0x000000000004e200\n";

    #[test]
    fn wide_region_bytes_counts_only_regions_of_64_bits() {
        assert_eq!(wide_region_bytes(H100), (128 << 30) + (48 << 20));
        assert_eq!(wide_region_bytes("0x91000000 0x91ffffff 0x40200\n0x3000 0x307f 0x40101\n"), 0);
        assert_eq!(wide_region_bytes("junk\n0x0 0xffffffffffffffff 0x14220c\n"), u64::MAX);
    }

    #[test]
    fn window_is_rounded_up_to_a_power_of_two() {
        let root = tempfile::tempdir().unwrap();
        let bdfs: Vec<Bdf> = (0..8).map(|n| format!("{n}7:00.0").parse().unwrap()).collect();
        for bdf in &bdfs {
            let folder = root.path().join(format!("sys/bus/pci/devices/{bdf}"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("resource"), H100).unwrap();
        }
        let host = Host::new(root.path());
        assert_eq!(window(&host, bdfs.iter().copied()).unwrap(), 2048 * GIB);
        assert_eq!(window(&host, bdfs.into_iter().take(1)).unwrap(), 256 * GIB);
        assert_eq!(window(&host, []).unwrap(), 0);
    }
}
