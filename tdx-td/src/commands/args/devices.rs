//! The flags that pass host devices through to a new guest.

use clap::Args;
use common::system::pci::Bdf;
use common::{Error, Result};
use tdx_iommu::inventory::named_devices;
use tdx_iommu::inventory::named_devices::DeviceArg;

use crate::passthrough::{CcMode, DeviceRequest};

/// The flags that pass host devices through to a new guest.
#[derive(Debug, Args)]
#[command(next_help_heading = "Devices")]
pub struct DeviceArgs {
    /// GPUs or other PCI devices of this host to pass through, each with all functions of its slot
    #[arg(short, long, value_name = "BDF,…", value_delimiter = ',')]
    gpus: Vec<Bdf>,
    /// Same as --gpus; - reads the JSON output of tdx-gpu list or tdx-iommu scan from standard input
    #[arg(long, value_name = "BDF,…|-", value_delimiter = ',')]
    devices: Vec<DeviceArg>,
    /// Confidential-computing mode to set on the NVIDIA GPUs of the guest [default: for a trust domain,
    /// ppcie if the guest gets all GPUs and NVSwitches of the host and all of them support ppcie,
    /// otherwise on; for other guests, leave]
    #[arg(long, value_enum, value_name = "MODE")]
    cc: Option<CcMode>,
}

impl DeviceArgs {
    /// Whether the flags read the devices on standard input.
    pub fn on_stdin(&self) -> bool {
        self.devices.iter().any(|named| matches!(named, DeviceArg::Stdin))
    }

    /// Returns the devices that the flags name, and reads standard input for `-`.
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
                return Err(Error::invalid_input("standard input has no devices"));
            }
            if self.cc.is_some() {
                return Err(
                    Error::usage("--cc needs devices").hint("add --gpus BDF or --devices -")
                );
            }
        }
        Ok(DeviceRequest::new(requested, self.cc))
    }
}
