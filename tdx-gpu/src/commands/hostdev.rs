//! `tdx-gpu hostdev`: the XML by which libvirt gives devices to a guest.

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

/// Arguments of `hostdev`.
#[derive(Debug, Args)]
pub struct HostdevArgs {
    /// Devices; - for items with a bdf on standard input
    #[arg(value_name = "BDF", required = true)]
    devices: Vec<DeviceArg>,
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

/// Writes the XML of the devices that were named.
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
            return Err(Error::conflict(format!("{bdf} is a bridge: no guest can have it"))
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
