//! The meaning of libvirt's answer when a request to unplug a device from a running guest failed.

use virt::error::Error as VirtError;
use virt::sys;

/// The answer to a failed request to unplug a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnplugAnswer {
    /// QEMU or libvirt does not accept a request now: an earlier request is pending, the guest is busy, another
    /// command works on the domain, or the device is on a bus without hot unplug.
    NotNow,
    /// The guest refused, or the definition of the domain forbids the unplug.
    Refused,
    /// The request failed for another reason.
    Failed,
}

impl UnplugAnswer {
    /// Classifies an error by libvirt's code. The message is not used, because it is in the language of libvirtd.
    ///
    /// Source: libvirt `src/qemu/qemu_hotplug.c`, `qemuDomainDetachDeviceLive()` and
    /// `qemuDomainWaitForDeviceRemoval()`; `src/qemu/qemu_monitor_json.c`, `qemuMonitorJSONCheckErrorFull()`:
    /// every error of QEMU's is an internal error.
    pub fn from_error(error: &VirtError) -> Self {
        match (error.code().to_raw(), error.domain().to_raw()) {
            (sys::VIR_ERR_OPERATION_FAILED, sys::VIR_FROM_QEMU) => Self::Refused,
            (sys::VIR_ERR_INTERNAL_ERROR, sys::VIR_FROM_QEMU)
            | (sys::VIR_ERR_OPERATION_FAILED | sys::VIR_ERR_OPERATION_TIMEOUT, _) => Self::NotNow,
            _ => Self::Failed,
        }
    }
}
