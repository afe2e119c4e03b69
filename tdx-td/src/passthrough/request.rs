//! The host devices that a user requests for a new guest.

use clap::ValueEnum;
use tdx_iommu::inventory::named_devices::NamedDevices;

/// The value of `--cc`, the confidential-computing mode of NVIDIA GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CcMode {
    /// Do not change the mode
    Leave,
    /// Confidential computing, for each GPU on its own
    On,
    /// Protected PCIe, for all GPUs and NVSwitches of the host together
    Ppcie,
}

/// The host devices that a guest gets.
#[derive(Debug)]
pub struct DeviceRequest {
    pub(super) requested: NamedDevices,
    pub(super) cc: Option<CcMode>,
}

impl DeviceRequest {
    /// Creates a request for these devices, with a mode for the NVIDIA GPUs among them.
    pub fn new(requested: NamedDevices, cc: Option<CcMode>) -> Self {
        Self { requested, cc }
    }
}
