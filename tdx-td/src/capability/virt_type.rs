//! The accelerator of a guest: KVM, or emulation.

use std::str::FromStr;

use clap::ValueEnum;
use common::Result;

/// How the guest's processors run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VirtType {
    /// In hardware.
    Kvm,
    /// In software emulation, which is slow.
    Qemu,
}

impl VirtType {
    /// The `type` of a domain, as libvirt spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
        }
    }
}

/// The flag that chooses a [`VirtType`].
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
