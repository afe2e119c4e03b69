//! Whether the host has KVM, and the accelerator that a guest gets.

use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use common::{Error, Result};

use crate::capability::libvirt::domain_capabilities;
use crate::capability::security::Security;
use crate::capability::virt_type::{VirtType, VirtTypeArg};

/// Returns the accelerator of a guest: the requested one, else the one that the host supports.
///
/// On this machine `auto` is kvm only if the processor's flags and `/dev/kvm` both offer it: in a container or a
/// nested guest the device node alone proves nothing. On a remote host, libvirt is queried.
///
/// Errors: `unsupported` when kvm was asked for by name, or is needed, and is not there.
pub fn virt_type(
    host: &Host,
    libvirt: &Libvirt,
    asked: VirtTypeArg,
    security: Security,
) -> Result<VirtType> {
    match (asked, security) {
        (VirtTypeArg::Qemu, _) => Ok(VirtType::Qemu),
        (VirtTypeArg::Kvm, Security::None) => check_kvm(host, libvirt).map(|()| VirtType::Kvm),
        (VirtTypeArg::Auto, Security::None) if !has_kvm(host, libvirt)? => Ok(VirtType::Qemu),
        // check_security checks whether the host supports protected guests.
        _ => Ok(VirtType::Kvm),
    }
}

/// Fails on a host without KVM.
///
/// Errors: `unsupported` (exit 6).
pub fn check_kvm(host: &Host, libvirt: &Libvirt) -> Result<()> {
    if has_kvm(host, libvirt)? {
        Ok(())
    } else {
        Err(Error::unsupported("this host does not support KVM").hint(
            "to see the reason, run tdx-td host check --for none; to run the guest in slow software \
             emulation, use --security none --virt-type qemu",
        ))
    }
}

fn has_kvm(host: &Host, libvirt: &Libvirt) -> Result<bool> {
    if !libvirt.is_local() {
        return Ok(domain_capabilities(libvirt, VirtType::Kvm).is_ok());
    }
    let flags = cpu_flags(host)?;
    Ok(host.has("/dev/kvm") && ["vmx", "svm"].iter().any(|flag| flags.contains(flag)))
}

pub(super) fn cpu_flags(host: &Host) -> Result<Vec<&'static str>> {
    let known = ["vmx", "svm", "tdx_host_platform"];
    let text = host.read("/proc/cpuinfo")?.unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    Ok(known.into_iter().filter(|flag| line.split_whitespace().any(|word| word == *flag)).collect())
}
