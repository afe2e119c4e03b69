//! Finds the device that shows the host's console in a framebuffer of the firmware.

use common::system::pci::Bdf;
use common::system::sysroot::Host;

/// The names of such memory in `/proc/iomem`, which are those of the drivers that use it.
const NAMES: [&str; 5] = ["BOOTFB", "simpledrm", "simple-framebuffer", "efifb", "vesafb"];

/// The name of the framebuffer that is in one of the device's BARs, if any.
///
/// Also none for users other than root, because the kernel shows addresses only to root.
/// Source: Linux `Documentation/filesystems/proc.rst`, `/proc/iomem`; `Documentation/PCI/sysfs-pci.rst`,
/// attribute `resource`: first and last address and flags of each BAR.
pub fn on_device(host: &Host, bdf: Bdf) -> Option<String> {
    let resource = format!("/sys/bus/pci/devices/{bdf}/resource");
    let bars = host.read(&resource).ok()??;
    let bars: Vec<(u64, u64)> = bars.lines().filter_map(bar).collect();
    let memory = host.read("/proc/iomem").ok()??;
    let inside = |(first, last): (u64, u64)| bars.iter().any(|b| b.0 <= first && last <= b.1);
    let mut framebuffers = memory.lines().filter_map(framebuffer);
    framebuffers.find(|(range, _)| inside(*range)).map(|(_, name)| name.to_owned())
}

/// Parses a line of `resource`: `0x00000000e0000000 0x00000000e0ffffff 0x0000000000040200`.
fn bar(line: &str) -> Option<(u64, u64)> {
    let mut numbers = line.split_whitespace().map(|n| n.strip_prefix("0x"));
    let mut number = || u64::from_str_radix(numbers.next()??, 16).ok();
    let (first, last) = (number()?, number()?);
    (first != 0).then_some((first, last))
}

/// Parses a line of `/proc/iomem`: `  e0000000-e02fffff : BOOTFB`.
fn framebuffer(line: &str) -> Option<((u64, u64), &str)> {
    let (range, name) = line.trim().split_once(" : ")?;
    let (first, last) = range.split_once('-')?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    let range = (number(first)?, number(last)?);
    (NAMES.contains(&name) && range.0 != 0).then_some((range, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framebuffers_are_found_in_bars() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let bdf: Bdf = "01:00.0".parse().unwrap();
        let write = |path: &str, text: &str| {
            let path = host.path(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(on_device(&host, bdf), None);
        write(
            "/sys/bus/pci/devices/0000:01:00.0/resource",
            "0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
             0x00000000e0000000 0x00000000efffffff 0x0000000000042208\n",
        );
        for (iomem, wanted) in [
            ("e0000000-efffffff : 0000:01:00.0\n    e0000000-e02fffff : BOOTFB\n", Some("BOOTFB")),
            ("    e0000000-e02fffff : efifb\n", Some("efifb")),
            ("    d0000000-d02fffff : BOOTFB\n", None),
            ("    e0000000-e02fffff : nvidia\n", None),
            // What an ordinary user sees.
            ("    00000000-00000000 : BOOTFB\n", None),
            ("", None),
        ] {
            write("/proc/iomem", iomem);
            assert_eq!(on_device(&host, bdf).as_deref(), wanted, "{iomem}");
        }
    }
}
