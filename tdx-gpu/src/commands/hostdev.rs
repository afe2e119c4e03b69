//! `tdx-gpu hostdev`: the XML by which libvirt gives devices to a guest.

use std::borrow::Cow;
use std::cmp::Ordering;

use clap::Args;
use common::cli::Context;
use common::document::output::Outcome;
use common::document::{Document, Item};
use common::system::pci::Bdf;
use common::xml::Element;
use common::{Code, Error, Result};
use schemars::JsonSchema;
use serde::Serialize;
use tdx_iommu::inventory::named_devices;
use tdx_iommu::inventory::named_devices::Named;
use tdx_iommu::inventory::Inventory;
use tdx_iommu::inventory::identity::DeviceIdentity;

/// Arguments of `hostdev`.
#[derive(Debug, Args)]
pub struct HostdevArgs {
    /// Devices; - for items with a bdf on standard input
    #[arg(value_name = "BDF", required = true)]
    devices: Vec<Named>,
    /// The bare XML, one element after another, instead of a document
    #[arg(long)]
    xml: bool,
    /// By iommufd, which libvirt 12.1 and newer know
    #[arg(long)]
    iommufd: bool,
    /// libvirt binds the device itself when the guest starts
    #[arg(long)]
    managed: bool,
    /// Hide the option ROM from the guest, as for guests that are protected
    #[arg(long)]
    no_rom: bool,
}

/// A device as libvirt takes it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HostdevItem {
    /// Address.
    pub bdf: Bdf,
    /// What it is.
    #[serde(flatten)]
    pub identity: DeviceIdentity,
    /// A `<hostdev>` element.
    pub xml: String,
}

impl Item for HostdevItem {
    const COLUMNS: &'static [&'static str] = &["BDF", "XML"];
    const WRAPPED: &'static [&'static str] = &["XML"];

    fn key(&self) -> Cow<'_, str> {
        self.bdf.to_string().into()
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.bdf.cmp(&other.bdf)
    }

    fn row(&self) -> Vec<String> {
        let line: Vec<&str> = self.xml.split_whitespace().collect();
        vec![self.bdf.to_string(), line.join(" ")]
    }
}

/// How libvirt is to pass a device through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Way {
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
pub fn element(bdf: Bdf, way: Way) -> Element {
    let address = Element::new("address")
        .attr("domain", format_args!("{:#06x}", bdf.domain))
        .attr("bus", format_args!("{:#04x}", bdf.bus))
        .attr("slot", format_args!("{:#04x}", bdf.device))
        .attr("function", format_args!("{:#x}", bdf.function));
    let driver = way.iommufd.then(|| Element::new("driver").attr("iommufd", "yes"));
    Element::new("hostdev")
        .attr("mode", "subsystem")
        .attr("type", "pci")
        .attr("managed", if way.managed { "yes" } else { "no" })
        .child_opt(driver)
        .child(Element::new("source").child(address))
        .child_opt(way.no_rom.then(|| Element::new("rom").attr("bar", "off")))
}

/// Writes the XML of the devices that were named.
pub fn run(context: &Context, args: HostdevArgs) -> Result<Outcome> {
    let requested = named_devices::resolve(&args.devices)?;
    let inventory = Inventory::read(&context.host)?;
    requested.expect_same(&context.host, &inventory)?;
    let way = Way { iommufd: args.iommufd, managed: args.managed, no_rom: args.no_rom };
    let mut items = Vec::with_capacity(requested.devices.len());
    for bdf in requested.devices {
        let device = inventory.device(bdf)?;
        if device.is_bridge {
            return Err(Error::conflict(format!("{bdf} is a bridge: no guest can have it"))
                .code(Code::Nonendpoint));
        }
        items.push(HostdevItem { bdf, identity: device.into(), xml: element(bdf, way).to_xml()? });
    }
    if args.xml {
        let text: String = items.iter().map(|item| format!("{}\n", item.xml)).collect();
        return Ok(Outcome::raw(text));
    }
    Ok(Document::new("tdx.gpu.hostdevs", items).warnings(requested.warnings).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hexadecimal_whatever_their_size() {
        let xml = |bdf: &str, way| element(bdf.parse().unwrap(), way).to_xml().unwrap();
        assert_eq!(
            xml("17:00.1", Way::default()),
            "<hostdev mode='subsystem' type='pci' managed='no'>\n  <source>\n    \
             <address domain='0x0000' bus='0x17' slot='0x00' function='0x1'/>\n  </source>\n</hostdev>"
        );
        let vmd = xml("10000:b8:1f.7", Way { iommufd: true, managed: true, no_rom: true });
        assert!(vmd.contains("<rom bar='off'/>"), "{vmd}");
        assert!(vmd.contains("domain='0x10000' bus='0xb8' slot='0x1f' function='0x7'"), "{vmd}");
        assert!(vmd.contains("managed='yes'") && vmd.contains("<driver iommufd='yes'/>"), "{vmd}");
    }
}
