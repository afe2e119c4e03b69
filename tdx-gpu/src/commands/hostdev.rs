//! `tdx-gpu hostdev`: prints the XML that gives devices to a libvirt guest.

use std::borrow::Cow;
use std::cmp::Ordering;

use clap::Args;
use common::cli::Context;
use common::document::output::Outcome;
use common::document::{Document, Item};
use common::system::pci::Bdf;
use common::{Code, Error, Result};
use schemars::JsonSchema;
use serde::Serialize;
use tdx_iommu::inventory::Inventory;
use tdx_iommu::inventory::identity::DeviceIdentity;

use crate::vfio::hostdev;
use crate::vfio::hostdev::HostdevOptions;
use tdx_iommu::inventory::named_devices;
use tdx_iommu::inventory::named_devices::DeviceArg;

const EXAMPLES: &str = "Examples:
  tdx-gpu hostdev 17:00.0
  tdx-gpu hostdev 17:00.0 --xml | virsh attach-device vm /dev/stdin";

/// Arguments of `hostdev`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct HostdevArgs {
    /// PCI addresses of the devices; - reads the JSON output of tdx-gpu list or tdx-iommu scan from
    /// standard input
    #[arg(value_name = "BDF", required = true)]
    devices: Vec<DeviceArg>,
    /// Print only the XML elements, without a JSON document
    #[arg(long)]
    xml: bool,
    /// Use iommufd; needs libvirt 12.1 or newer
    #[arg(long)]
    iommufd: bool,
    /// Let libvirt bind the device to VFIO when the guest starts, and release it when the guest stops
    #[arg(long)]
    managed: bool,
    /// Hide the option ROM from the guest; recommended for trust domains and AMD SEV guests
    #[arg(long)]
    no_rom: bool,
}

/// A device in a document of `tdx-gpu hostdev`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HostdevItem {
    /// The PCI address.
    pub bdf: Bdf,
    /// The properties that identify the device.
    #[serde(flatten)]
    pub identity: DeviceIdentity,
    /// The `<hostdev>` element.
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

/// Prints the XML of the named devices.
pub fn run(context: &Context, args: HostdevArgs) -> Result<Outcome> {
    let requested = named_devices::read(&args.devices)?;
    let inventory = Inventory::read(&context.host)?;
    requested.expect_same(&context.host, &inventory)?;
    let options =
        HostdevOptions { iommufd: args.iommufd, managed: args.managed, no_rom: args.no_rom };
    let mut items = Vec::with_capacity(requested.devices.len());
    for bdf in requested.devices {
        let device = inventory.device(bdf)?;
        if device.is_bridge {
            return Err(Error::conflict(format!(
                "{bdf} is a bridge, which cannot be given to a guest"
            ))
            .code(Code::Nonendpoint));
        }
        items.push(HostdevItem {
            bdf,
            identity: device.into(),
            xml: hostdev::element(bdf, options).to_xml()?,
        });
    }
    if args.xml {
        let text: String = items.iter().map(|item| format!("{}\n", item.xml)).collect();
        return Ok(Outcome::raw(text));
    }
    Ok(Document::new("tdx.gpu.hostdevs", items).warnings(requested.warnings).into())
}
