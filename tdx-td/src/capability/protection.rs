//! Checks whether the host supports a protection of guests: Intel TDX or AMD SEV.

use common::libvirt::{Context, Libvirt};
use common::system::sysroot::Host;
use common::{Error, Result};

use crate::capability::kvm::cpu_flags;
use crate::capability::libvirt::{domain_capabilities, offers_tdx, sectypes, version_text};
use crate::capability::security::Security;
use crate::capability::virt_type::VirtType;

/// Fails unless this host supports the protection. The error says what is missing.
///
/// Errors: `unsupported` (exit 6).
pub fn check_security(host: &Host, libvirt: &Libvirt, security: Security) -> Result<()> {
    match security {
        Security::None => Ok(()),
        Security::Tdx => check_tdx(host, libvirt),
        _ => check_sev(host, libvirt, security),
    }
}

const HINT: &str =
    "to see the fixes, run tdx-td host check; to create an ordinary guest, add --security none";

/// Source: <https://libvirt.org/formatdomaincaps.html#sev-capabilities>; Linux
/// `Documentation/virt/kvm/x86/amd-memory-encryption.rst` for the module's parameters.
fn check_sev(host: &Host, libvirt: &Libvirt, security: Security) -> Result<()> {
    let (name, parameter) = match security {
        Security::SevSnp => ("SEV-SNP", "sev_snp"),
        Security::SevEs => ("SEV-ES", "sev_es"),
        _ => ("SEV", "sev"),
    };
    // Without KVM the call fails.
    let capabilities = domain_capabilities(libvirt, VirtType::Kvm).ok();
    let offered = capabilities.is_some_and(|capabilities| {
        let features = capabilities.root().child("features");
        let sev = features.and_then(|features| features.child("sev"));
        let has_sev = sev.is_some_and(|sev| sev.attr("supported").as_deref() == Some("yes"));
        let most = |what| sev.and_then(|sev| sev.text_at(what)?.parse::<u32>().ok());
        match security {
            Security::SevSnp => sectypes(&capabilities).any(|kind| kind == "sev-snp"),
            Security::SevEs => has_sev && most("maxESGuests").is_none_or(|most| most > 0),
            _ => has_sev && most("maxGuests").is_none_or(|most| most > 0),
        }
    });
    if offered {
        return Ok(());
    }
    let path = format!("/sys/module/kvm_amd/parameters/{parameter}");
    let version = libvirt.connect().lib_version().context("read the version of libvirt")?;
    let missing = match host.read(&path)? {
        _ if !libvirt.is_local() => {
            "libvirt on the remote host does not offer this kind of guest".to_owned()
        }
        None => format!("module kvm_amd with parameter {parameter} is not loaded"),
        Some(value) if !matches!(value.trim(), "Y" | "1") => format!("kvm_amd.{parameter} is off"),
        // Source: https://libvirt.org/news.html, 10.5.0.
        Some(_) if security == Security::SevSnp && version < 10_005_000 => {
            let version = version_text(version);
            format!("libvirt {version} does not support SEV-SNP (10.5.0 and newer versions do)")
        }
        Some(_) => {
            "QEMU does not support this kind of guest, or the BIOS reserves no ASIDs for such \
             guests"
                .to_owned()
        }
    };
    Err(Error::unsupported(format!("this host does not support {name} guests: {missing}"))
        .hint(HINT))
}

/// Fails unless this host supports trust domains. The error says what is missing.
///
/// Errors: `unsupported` (exit 6).
fn check_tdx(host: &Host, libvirt: &Libvirt) -> Result<()> {
    let missing = missing_for_tdx(host, libvirt)?;
    if missing.is_empty() {
        return if libvirt.is_local() { check_keys(host) } else { Ok(()) };
    }
    let missing = missing.join("; ");
    Err(Error::unsupported(format!("this host does not support TDX trust domains: {missing}"))
        .hint(HINT))
}

/// Fails if all private key ids of the host are in use: each trust domain needs one.
///
/// Source: Linux `Documentation/admin-guide/cgroup-v2.rst`, "Misc": lines of name and number. On kernels
/// without the counter this does not fail, and QEMU fails at start.
fn check_keys(host: &Host) -> Result<()> {
    let count = |file: &str| -> Result<Option<u64>> {
        let text = host.read(file)?.unwrap_or_default();
        Ok(text.lines().find_map(|line| line.strip_prefix("tdx ")?.trim().parse().ok()))
    };
    match (count("/sys/fs/cgroup/misc.capacity")?, count("/sys/fs/cgroup/misc.current")?) {
        (Some(all), Some(taken)) if taken >= all => Err(Error::unsupported(format!(
            "all {all} TDX key ids of this host are in use"
        ))
        .hint("to see the trust domains, run tdx-td list; to shut one down, run tdx-td stop NAME")),
        _ => Ok(()),
    }
}

/// Returns what is missing for trust domains, from the processor to libvirt. Empty if nothing is.
///
/// libvirt below 11.10 lists TDX on any host whose QEMU is built with TDX, so the kernel is checked as well.
fn missing_for_tdx(host: &Host, libvirt: &Libvirt) -> Result<Vec<String>> {
    let version = libvirt.connect().lib_version().context("read the version of libvirt")?;
    let offered = offers_tdx(libvirt);
    if offered && (version >= 11_010_000 || !libvirt.is_local()) {
        return Ok(Vec::new());
    }
    let mut missing = Vec::new();
    let mut kernel_has_it = true;
    if libvirt.is_local() {
        let parameter = host.read("/sys/module/kvm_intel/parameters/tdx")?;
        kernel_has_it = parameter.as_deref().map(str::trim) == Some("Y");
        if !offered && !cpu_flags(host)?.contains(&"tdx_host_platform") {
            missing.push("the processor or the BIOS does not offer TDX".to_owned());
        }
        missing.extend(match parameter {
            None => Some(
                "the kernel's KVM does not support TDX (6.16 and newer versions do)".to_owned(),
            ),
            Some(_) if !kernel_has_it => Some("kvm_intel.tdx is off".to_owned()),
            Some(_) => None,
        });
    }
    match version {
        _ if offered => {}
        // Source: https://libvirt.org/news.html, 11.6.0.
        ..11_006_000 => {
            let version = version_text(version);
            missing.push(format!(
                "libvirt {version} does not support TDX (11.6.0 and newer versions do)"
            ));
        }
        _ if kernel_has_it => {
            missing.push("QEMU does not support TDX (10.1 and newer versions do)".to_owned());
        }
        _ => {}
    }
    Ok(missing)
}
