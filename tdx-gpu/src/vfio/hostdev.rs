//! The `<hostdev>` element with which libvirt gives a PCI device to a guest.

use common::system::pci::Bdf;
use common::xml::Element;

/// The options of a `<hostdev>` element.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostdevOptions {
    /// Whether the guest uses iommufd instead of a VFIO container.
    pub iommufd: bool,
    /// Whether libvirt binds the device itself.
    pub managed: bool,
    /// Whether the option ROM is hidden from the guest.
    pub no_rom: bool,
}

/// The `<hostdev>` of a device.
///
/// Numbers are written with 0x, because libvirt parses a leading zero as octal. The option ROM should be hidden from a
/// protected guest, whose firmware would measure and run code that the host supplies. Other guests can need the option
/// ROM: the firmware uses it to show its screen on a GPU, and to boot from a network card.
/// Source: <https://libvirt.org/formatdomain.html#usb-pci-scsi-devices>.
pub fn element(bdf: Bdf, options: HostdevOptions) -> Element {
    let address = Element::new("address")
        .attr("domain", format_args!("{:#06x}", bdf.domain))
        .attr("bus", format_args!("{:#04x}", bdf.bus))
        .attr("slot", format_args!("{:#04x}", bdf.device))
        .attr("function", format_args!("{:#x}", bdf.function));
    let driver = options.iommufd.then(|| Element::new("driver").attr("iommufd", "yes"));
    Element::new("hostdev")
        .attr("mode", "subsystem")
        .attr("type", "pci")
        .attr("managed", if options.managed { "yes" } else { "no" })
        .child_opt(driver)
        .child(Element::new("source").child(address))
        .child_opt(options.no_rom.then(|| Element::new("rom").attr("bar", "off")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn element_writes_addresses_in_hexadecimal() {
        let xml = |bdf: &str, options| element(bdf.parse().unwrap(), options).to_xml().unwrap();
        assert_eq!(
            xml("17:00.1", HostdevOptions::default()),
            "<hostdev mode='subsystem' type='pci' managed='no'>\n  <source>\n    \
             <address domain='0x0000' bus='0x17' slot='0x00' function='0x1'/>\n  </source>\n</hostdev>"
        );
        let vmd =
            xml("10000:b8:1f.7", HostdevOptions { iommufd: true, managed: true, no_rom: true });
        assert!(vmd.contains("<rom bar='off'/>"), "{vmd}");
        assert!(vmd.contains("domain='0x10000' bus='0xb8' slot='0x1f' function='0x7'"), "{vmd}");
        assert!(vmd.contains("managed='yes'") && vmd.contains("<driver iommufd='yes'/>"), "{vmd}");
    }
}
