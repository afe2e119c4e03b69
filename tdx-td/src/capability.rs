//! What the host can run: accelerator, launch security, memory, processors.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use common::libvirt::{Context, Libvirt};
use common::system::sysroot::Host;
use common::units::GIB;
use common::xml::Document;
use common::{Error, Result};
use serde::{Deserialize, Serialize};

/// How the guest's processors run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VirtType {
    /// In hardware.
    Kvm,
    /// Emulated, slowly.
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
    /// kvm where the host has it, else qemu
    Auto,
    /// Hardware virtualization
    Kvm,
    /// Software emulation
    Qemu,
}

/// How the guest is protected from its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Security {
    /// Intel TDX: a trust domain
    Tdx,
    /// AMD SEV: memory is encrypted
    Sev,
    /// AMD SEV-ES: registers too
    SevEs,
    /// AMD SEV-SNP: and nothing can be changed
    SevSnp,
    /// An ordinary guest
    None,
}

impl Security {
    /// Whether it is AMD's.
    pub fn is_sev(self) -> bool {
        matches!(self, Self::Sev | Self::SevEs | Self::SevSnp)
    }

    /// Its name, as on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tdx => "tdx",
            Self::Sev => "sev",
            Self::SevEs => "sev-es",
            Self::SevSnp => "sev-snp",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for VirtTypeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        <Self as ValueEnum>::from_str(text, false)
    }
}

impl FromStr for Security {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        <Self as ValueEnum>::from_str(text, false)
    }
}

/// What the host has, whatever is asked of it.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Processors.
    pub cpus: u32,
}

impl Capacity {
    /// Returns the memory that a guest gets when nobody says how much: 8 GiB, or half of a host with less
    /// than 16, in whole 64 MiB. Unit: bytes.
    pub fn usual_memory(self) -> u64 {
        const STEP: u64 = 64 << 20;
        (self.memory_bytes / 2 / STEP * STEP).clamp(STEP, 8 * GIB)
    }
}

/// Asks libvirt's host what it has. Its memory is the larger of what libvirt says, which adds up the NUMA
/// nodes, and of what the kernel says: the nodes lack memory that was plugged in or given back later.
///
/// Source: proc_meminfo(5), `MemTotal`, KiB. On a remote connection only libvirt is asked.
pub fn capacity(host: &Host, libvirt: &Libvirt) -> Result<Capacity> {
    let info = libvirt.connect().node_info().context("ask about the host's memory")?;
    let text = match libvirt.is_local() {
        true => host.read("/proc/meminfo")?.unwrap_or_default(),
        false => String::new(),
    };
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let total = total.and_then(|total| total.trim().strip_suffix(" kB")?.trim().parse().ok());
    let kib: u64 = info.memory.max(total.unwrap_or_default());
    Ok(Capacity { memory_bytes: kib * 1024, cpus: info.cpus })
}

/// Settles the accelerator: what was asked for, or what the host has.
///
/// On this machine `auto` is kvm only when the processor's flags and `/dev/kvm` both offer it: the
/// device node alone proves nothing, in a container or a nested guest. Elsewhere libvirt is asked.
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
        // Whether the host runs secure guests is looked at by itself, in check_security.
        _ => Ok(VirtType::Kvm),
    }
}

/// Fails on a host without KVM.
///
/// Errors: `unsupported` (exit 6).
pub fn check_kvm(host: &Host, libvirt: &Libvirt) -> Result<()> {
    match has_kvm(host, libvirt)? {
        true => Ok(()),
        false => Err(Error::unsupported("this host has no KVM")
            .hint("--security none --virt-type qemu emulates a guest in software, slowly")),
    }
}

fn has_kvm(host: &Host, libvirt: &Libvirt) -> Result<bool> {
    if !libvirt.is_local() {
        return Ok(domain_capabilities(libvirt, VirtType::Kvm).is_ok());
    }
    let flags = cpu_flags(host)?;
    Ok(host.has("/dev/kvm") && ["vmx", "svm"].iter().any(|flag| flags.contains(flag)))
}

fn cpu_flags(host: &Host) -> Result<Vec<&'static str>> {
    let known = ["vmx", "svm", "tdx_host_platform"];
    let text = host.read("/proc/cpuinfo")?.unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    Ok(known.into_iter().filter(|flag| line.split_whitespace().any(|word| word == *flag)).collect())
}

pub(crate) fn domain_capabilities(libvirt: &Libvirt, virt_type: VirtType) -> Result<Document> {
    let text = libvirt
        .connect()
        .domain_capabilities(None, Some("x86_64"), Some("q35"), Some(virt_type.as_str()), 0)
        .context("ask what domains the host can run")?;
    Document::parse(text)
}

/// The machine types that QEMU has, by all their names.
///
/// Source: <https://libvirt.org/formatcaps.html#guest-capabilities>.
pub fn machines(libvirt: &Libvirt) -> Result<Vec<String>> {
    let text = libvirt.connect().capabilities().context("ask what the host is capable of")?;
    let capabilities = Document::parse(text)?;
    let archs = capabilities.root().find_all("guest/arch");
    let ours = archs.into_iter().filter(|arch| arch.attr("name").as_deref() == Some("x86_64"));
    Ok(ours.flat_map(|arch| arch.find_all("machine")).map(|machine| machine.text()).collect())
}

/// What a kind of device, such as `video`, can be.
///
/// Source: <https://libvirt.org/formatdomaincaps.html#devices>.
pub fn device_values(libvirt: &Libvirt, virt_type: VirtType, device: &str) -> Result<Vec<String>> {
    let capabilities = domain_capabilities(libvirt, virt_type)?;
    let path = format!("devices/{device}/enum/value");
    let values = capabilities.root().find_all(&path);
    Ok(values.map(|value| value.text()).collect())
}

/// Fails for more virtual CPUs than the machine type takes.
///
/// Errors: `unsupported` (exit 6).
pub fn check_vcpus(libvirt: &Libvirt, virt_type: VirtType, vcpus: u32) -> Result<()> {
    let capabilities = domain_capabilities(libvirt, virt_type)?;
    let most = capabilities.root().attr_at("vcpu", "max").and_then(|most| most.parse().ok());
    match most {
        Some(most) if vcpus > most => {
            Err(Error::unsupported(format!("a guest can have {most} vCPUs here, not {vcpus}")))
        }
        _ => Ok(()),
    }
}

/// Fails on a host that gives guests no vsock.
///
/// Errors: `unsupported` (exit 6).
pub fn check_vsock(host: &Host) -> Result<()> {
    match host.has("/dev/vhost-vsock") {
        true => Ok(()),
        false => Err(Error::unsupported("this host has no /dev/vhost-vsock for the guest's vsock")
            .hint("modprobe vhost_vsock")),
    }
}

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

/// The kinds of launch security that libvirt lists.
pub(crate) fn sectypes(capabilities: &Document) -> impl Iterator<Item = String> {
    let values = capabilities.root().find_all("features/launchSecurity/enum/value");
    values.map(|value| value.text())
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

/// Whether libvirt lists trust domains among what it can run, as upstream or Canonical's preview does.
pub fn offers_tdx(libvirt: &Libvirt) -> bool {
    // Without KVM libvirt has no answer at all.
    domain_capabilities(libvirt, VirtType::Kvm).is_ok_and(|capabilities| {
        let preview = capabilities.root().attr_at("features/tdx", "supported");
        sectypes(&capabilities).any(|kind| kind == "tdx") || preview.as_deref() == Some("yes")
    })
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

/// Whether libvirt runs passt for guests, which forwards ports without raw arguments for QEMU.
///
/// Source: <https://libvirt.org/formatdomaincaps.html>, `interface`, enum `backendType`.
pub fn has_passt(host: &Host, libvirt: &Libvirt, virt_type: VirtType) -> Result<bool> {
    let capabilities = domain_capabilities(libvirt, virt_type)?;
    let mut backends = capabilities.root().find_all("devices/interface/enum/value");
    let offered = backends.any(|value| value.text() == "passt");
    Ok(offered && (!libvirt.is_local() || host.has("/usr/bin/passt")))
}

/// Whether guests get devices by iommufd, which bounds no mappings, instead of a VFIO container.
///
/// Source: <https://libvirt.org/news.html>, 12.1.0; Linux `Documentation/driver-api/vfio.rst`, "IOMMUFD and
/// vfio_iommu_type1".
pub fn has_iommufd(host: &Host, libvirt: &Libvirt) -> Result<bool> {
    let version = libvirt.connect().lib_version().context("ask libvirt for its version")?;
    Ok(version >= 12_001_000 && host.has("/dev/iommu"))
}

pub(crate) fn version_text(version: u32) -> String {
    format!("{}.{}.{}", version / 1_000_000, version / 1000 % 1000, version % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_memory_is_half_of_a_little_host() {
        let usual = |memory_bytes| Capacity { memory_bytes, cpus: 1 }.usual_memory();
        assert_eq!(usual(64 * GIB), 8 * GIB);
        assert_eq!(usual(16 * GIB), 8 * GIB);
        assert_eq!(usual(4 * GIB), 2 * GIB);
        assert_eq!(usual(1), 64 << 20);
    }
}
