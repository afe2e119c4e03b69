//! Whether the host can protect guests by TDX or AMD SEV.

use common::libvirt::{Context, Libvirt};
use common::system::sysroot::Host;
use common::{Error, Result};

use crate::capability::kvm::cpu_flags;
use crate::capability::libvirt::{domain_capabilities, offers_tdx, sectypes, version_text};
use crate::capability::security::Security;
use crate::capability::virt_type::VirtType;

/// Fails unless guests can be protected like this here, saying what is missing.
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
    "tdx-td host check says what to do about it; --security none makes an ordinary guest";

/// Source: <https://libvirt.org/formatdomaincaps.html#sev-capabilities>; Linux
/// `Documentation/virt/kvm/x86/amd-memory-encryption.rst` for the module's parameters.
fn check_sev(host: &Host, libvirt: &Libvirt, security: Security) -> Result<()> {
    let (name, parameter) = match security {
        Security::SevSnp => ("SEV-SNP", "sev_snp"),
        Security::SevEs => ("SEV-ES", "sev_es"),
        _ => ("SEV", "sev"),
    };
    // Without KVM libvirt has no answer at all.
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
    let version = libvirt.connect().lib_version().context("ask libvirt for its version")?;
    let missing = match host.read(&path)? {
        _ if !libvirt.is_local() => "libvirt there offers none".to_owned(),
        None => format!("kvm_amd with {parameter} is not loaded"),
        Some(value) if !matches!(value.trim(), "Y" | "1") => format!("kvm_amd.{parameter} is off"),
        // Source: https://libvirt.org/news.html, 10.5.0.
        Some(_) if security == Security::SevSnp && version < 10_005_000 => {
            format!("libvirt {} knows none (10.5.0 and newer do)", version_text(version))
        }
        Some(_) => "QEMU has none, or the BIOS keeps no ids for it".to_owned(),
    };
    Err(Error::unsupported(format!("this host runs no {name} guests: {missing}")).hint(HINT))
}

/// Fails unless libvirt can run trust domains here, saying what is missing.
///
/// Errors: `unsupported` (exit 6).
fn check_tdx(host: &Host, libvirt: &Libvirt) -> Result<()> {
    let missing = missing_for_tdx(host, libvirt)?;
    if missing.is_empty() {
        return if libvirt.is_local() { check_keys(host) } else { Ok(()) };
    }
    Err(Error::unsupported(format!("this host runs no TDX trust domains: {}", missing.join("; ")))
        .hint(HINT))
}

/// Fails when every private key id of the host is taken: each trust domain needs one.
///
/// Source: Linux `Documentation/admin-guide/cgroup-v2.rst`, "Misc": lines of name and number. Kernels
/// without the counter say nothing, and QEMU fails at start.
fn check_keys(host: &Host) -> Result<()> {
    let count = |file: &str| -> Result<Option<u64>> {
        let text = host.read(file)?.unwrap_or_default();
        Ok(text.lines().find_map(|line| line.strip_prefix("tdx ")?.trim().parse().ok()))
    };
    match (count("/sys/fs/cgroup/misc.capacity")?, count("/sys/fs/cgroup/misc.current")?) {
        (Some(all), Some(taken)) if taken >= all => {
            Err(Error::unsupported(format!("all {all} TDX key ids of this host are in use"))
                .hint("stop a trust domain; tdx-td list shows those that run"))
        }
        _ => Ok(()),
    }
}

/// Each link of the chain from processor to libvirt that is missing, in words. Empty: none is.
///
/// Below 11.10 libvirt lists TDX on any host whose QEMU has it built in, so the kernel is asked too.
fn missing_for_tdx(host: &Host, libvirt: &Libvirt) -> Result<Vec<String>> {
    let version = libvirt.connect().lib_version().context("ask libvirt for its version")?;
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
            missing.push("the BIOS or the processor does not offer it".to_owned());
        }
        missing.extend(match parameter {
            None => Some("the kernel's KVM has none (6.16 and newer have)".to_owned()),
            Some(_) if !kernel_has_it => Some("kvm_intel.tdx is off".to_owned()),
            Some(_) => None,
        });
    }
    match version {
        _ if offered => {}
        // Source: https://libvirt.org/news.html, 11.6.0.
        ..11_006_000 => {
            let version = version_text(version);
            missing.push(format!("libvirt {version} knows no TDX (11.6.0 and newer do)"));
        }
        _ if kernel_has_it => missing.push("QEMU has none (10.1 and newer have)".to_owned()),
        _ => {}
    }
    Ok(missing)
}
