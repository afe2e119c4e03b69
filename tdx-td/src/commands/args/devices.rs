//! Which devices of the host a new guest gets.

use clap::Args;
use common::system::pci::Bdf;
use common::{Error, Result};
use tdx_iommu::inventory::named_devices;
use tdx_iommu::inventory::named_devices::DeviceArg;

use crate::passthrough::{CcMode, DeviceRequest};

/// Which devices of the host the guest gets.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// GPUs or other PCI devices of this host, each with all functions of its slot
    #[arg(short, long, value_name = "BDF,…", value_delimiter = ',')]
    gpus: Vec<Bdf>,
    /// The same; - for items with a bdf on standard input
    #[arg(long, value_name = "BDF,…|-", value_delimiter = ',')]
    devices: Vec<DeviceArg>,
    /// Mode of NVIDIA GPUs among them [default: for a trust domain ppcie for a whole baseboard with
    /// its switches, else on; for others leave]
    #[arg(long, value_enum, value_name = "MODE")]
    cc: Option<CcMode>,
}

impl DeviceArgs {
    /// Whether the devices are on standard input.
    pub fn on_stdin(&self) -> bool {
        self.devices.iter().any(|named| matches!(named, DeviceArg::Stdin))
    }

    /// Returns the devices that the flags ask for, reading standard input where the flags say so.
    ///
    /// Errors: `usage` for a mode without devices; those of [`named_devices::read`].
    pub fn read(&self) -> Result<DeviceRequest> {
        let mut requested = named_devices::read(&self.devices)?;
        for bdf in &self.gpus {
            if !requested.devices.insert(*bdf) {
                requested.warnings.push(format!("{bdf} was named more than once"));
            }
        }
        if requested.devices.is_empty() {
            if self.on_stdin() {
                return Err(Error::invalid_input("no devices came on standard input"));
            }
            if self.cc.is_some() {
                return Err(Error::usage("--cc is for devices: add --gpus"));
            }
        }
        Ok(DeviceRequest::new(requested, self.cc))
    }
}
