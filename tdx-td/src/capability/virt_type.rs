//! The accelerator of a guest: KVM or software emulation.

use std::str::FromStr;

use clap::ValueEnum;
use common::Result;

/// The accelerator of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VirtType {
    /// Hardware virtualization with KVM.
    Kvm,
    /// Software emulation by QEMU, which is slow.
    Qemu,
}

impl VirtType {
    /// Returns the `type` of a domain in libvirt's XML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
        }
    }
}

/// The value of `--virt-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VirtTypeArg {
    /// kvm if the host supports it, else qemu
    Auto,
    /// Hardware virtualization
    Kvm,
    /// Software emulation, which is slow
    Qemu,
}

impl FromStr for VirtTypeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        <Self as ValueEnum>::from_str(text, false)
    }
}
