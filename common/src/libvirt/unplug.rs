//! What a failed request to unplug a device from a running guest means.

use virt::error::Error as VirtError;
use virt::sys;

/// What a request to unplug a device that failed was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnplugAnswer {
    /// QEMU or libvirt took no request now: one was made before, the guest is busy, another command is at work
    /// on the domain, or the device is where none can be unplugged.
    NotNow,
    /// The guest said no, or the definition of the domain does.
    Refused,
    /// Something else went wrong.
    Failed,
}

impl UnplugAnswer {
    /// Reads libvirt's code; its message is in the language of libvirtd.
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
