//! Which devices of the host a new guest asks for.

use clap::ValueEnum;
use tdx_iommu::inventory::named_devices::NamedDevices;

/// The flag that chooses the mode of confidential computing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CcMode {
    /// As it is
    Leave,
    /// Each GPU by itself in confidential-computing mode
    On,
    /// Protected PCIe: every GPU and NVSwitch of the baseboard
    Ppcie,
}

/// The devices of the host that a guest is to get.
#[derive(Debug)]
pub struct DeviceRequest {
    pub(super) requested: NamedDevices,
    pub(super) cc: Option<CcMode>,
}

impl DeviceRequest {
    /// Asks for these devices, and for a mode of the NVIDIA GPUs among them.
    pub fn new(requested: NamedDevices, cc: Option<CcMode>) -> Self {
        Self { requested, cc }
    }
}
