//! The `<hostdev>` element by which libvirt gives a PCI device to a guest.

use common::system::pci::Bdf;
use common::xml::Element;

/// How libvirt passes a device through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostdevOptions {
    /// By iommufd instead of the VFIO container.
    pub iommufd: bool,
    /// libvirt binds it itself.
    pub managed: bool,
    /// The guest does not see its option ROM.
    pub no_rom: bool,
}

/// The `<hostdev>` of a device.
///
/// Numbers are written with 0x: libvirt reads others by C's rules, where a leading zero is octal. A
/// protected guest is to be without the option ROM: its firmware would measure and run what the host gives.
/// Other guests can need it: the firmware shows its screen on a GPU by it, and boots from a network card.
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
    fn addresses_are_hexadecimal_whatever_their_size() {
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
