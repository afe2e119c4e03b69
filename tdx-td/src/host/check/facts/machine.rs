//! The facts of a machine, read once.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;

use common::system::sysroot::Host;
use common::system::{syscalls, sysfs};
use common::units::Size;
use tdx_gpu::vfio::dma_entry_limit;
use tdx_iommu::inventory::Inventory;

use crate::host::check::facts::firmware::FirmwareFacts;
use crate::host::check::facts::libvirt::LibvirtFacts;
use crate::host::check::facts::reading::{Fact, fact};

/// The vendor of the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// Intel.
    Intel,
    /// AMD.
    Amd,
}

/// The processor.
#[derive(Debug)]
pub struct Cpu {
    /// Vendor of the processor; `None` for other vendors.
    pub vendor: Option<Vendor>,
    /// Flags of the processor, as the kernel lists them.
    pub flags: BTreeSet<String>,
}

/// The state of `/dev/kvm`.
#[derive(Debug)]
pub enum Kvm {
    /// It does not exist.
    Absent,
    /// It works. The value has the kinds of guests that it runs, as [`syscalls::kvm_vm_types`] returns them.
    Works(u32),
    /// This user may not open it.
    Refused,
    /// It exists, but is not KVM, or the hardware does not work.
    Broken(String),
    /// The state could not be determined.
    Unknown(String),
}

/// Module parameters that the checks use.
const PARAMETERS: [(&str, &str); 4] =
    [("kvm_intel", "tdx"), ("kvm_amd", "sev"), ("kvm_amd", "sev_es"), ("kvm_amd", "sev_snp")];

/// Files and directories of which only the existence matters.
const PLACES: [&str; 13] = [
    "/dev",
    "/dev/iommu",
    "/dev/sev",
    "/dev/vhost-vsock",
    "/.dockerenv",
    "/run/.containerenv",
    "/run/tdx-qgs/qgs.socket",
    "/var/run/tdx-qgs/qgs.socket",
    "/sys/module",
    "/sys/module/kvm_amd",
    "/sys/module/kvm_intel",
    "/etc/qemu",
    "/usr/share/qemu",
];

/// Text files that the checks use.
const TEXTS: [&str; 11] = [
    "/etc/group",
    "/proc/1/environ",
    "/proc/meminfo",
    "/proc/self/limits",
    "/proc/self/status",
    "/run/systemd/container",
    "/sys/devices/faux/tdx_host/version",
    "/sys/fs/cgroup/misc.capacity",
    "/sys/fs/cgroup/misc.current",
    "/sys/kernel/mm/ksm/run",
    "/sys/kernel/mm/transparent_hugepage/enabled",
];

/// All facts of a host that the checks use.
#[derive(Debug)]
pub struct Facts {
    /// Whether the facts are those of the machine that the command runs on.
    pub this_machine: bool,
    /// The first processor.
    pub cpu: Fact<Cpu>,
    /// The kernel's release, such as 6.17.0-5-generic.
    pub release: Fact<String>,
    /// The words of the kernel's command line.
    pub command_line: Fact<Vec<String>>,
    /// Options of modules, such as kvm_intel.tdx=1, from the command line and from modprobe.d.
    pub options: Vec<String>,
    /// Messages of the kernel log.
    pub log: Fact<Vec<String>>,
    /// The state of `/dev/kvm`.
    pub kvm: Kvm,
    /// Whether the kernel lists IOMMU groups.
    pub iommu: Fact<bool>,
    /// Whether the module vfio-pci is installed for this kernel, loaded or not.
    pub vfio_pci: Fact<bool>,
    /// The largest number of mappings that VFIO allows; `None` while its module is not loaded.
    pub dma_entry_limit: Fact<Option<u64>>,
    /// Size of the host's memory.
    pub memory: Fact<Size>,
    /// The firmware for each kind of guest.
    pub firmware: Vec<FirmwareFacts>,
    /// The facts that libvirt reports.
    pub libvirt: LibvirtFacts,
    texts: Vec<(String, Fact<Option<String>>)>,
    places: BTreeSet<&'static str>,
}

impl Facts {
    /// Reads all facts. A fact that cannot be read is unknown, which is not an error.
    pub fn read(host: &Host, libvirt: LibvirtFacts) -> Self {
        let this_machine = host.is_this_machine();
        let text = |path: &str| fact(host.read(path));
        let parameters = PARAMETERS.map(|(module, name)| parameter_path(module, name));
        let texts = TEXTS.iter().map(|path| (*path).to_owned()).chain(parameters);
        let known = |text: Option<String>, path: &str| text.ok_or(format!("{path} does not exist"));
        let command_line = text("/proc/cmdline").and_then(|t| known(t, "/proc/cmdline"));
        let command_line: Fact<Vec<String>> =
            command_line.map(|text| text.split_whitespace().map(str::to_owned).collect());
        let release = text("/proc/sys/kernel/osrelease")
            .and_then(|text| known(text, "/proc/sys/kernel/osrelease"))
            .map(|release| release.trim().to_owned());
        Self {
            this_machine,
            cpu: text("/proc/cpuinfo").and_then(|t| known(t, "/proc/cpuinfo")).map(|t| cpu(&t)),
            options: options(host, command_line.as_deref().unwrap_or_default()),
            command_line,
            log: log(host),
            kvm: kvm(host),
            iommu: fact(Inventory::read(host)).map(|inventory| inventory.has_iommu),
            vfio_pci: release.as_ref().map_or_else(
                |why| Err(why.clone()),
                |release| has_module(host, release, "vfio-pci"),
            ),
            release,
            dma_entry_limit: fact(dma_entry_limit::current(host)),
            memory: fact(dma_entry_limit::host_memory(host)),
            firmware: FirmwareFacts::for_every_kind(host, libvirt.rules.as_ref()),
            libvirt,
            texts: texts.map(|path| (path.clone(), text(&path))).collect(),
            places: PLACES.into_iter().filter(|place| host.has(place)).collect(),
        }
    }

    /// Whether a file or directory of `PLACES` exists.
    pub fn has(&self, place: &str) -> bool {
        self.places.contains(place)
    }

    /// Returns the trimmed text of a file of `TEXTS` or of a module parameter; `None` if it does not exist.
    pub fn text(&self, path: &str) -> Fact<Option<&str>> {
        let found = self.texts.iter().find(|(name, _)| name == path);
        match found.map(|(_, text)| text) {
            Some(Ok(text)) => Ok(text.as_deref().map(str::trim)),
            Some(Err(why)) => Err(why.clone()),
            None => Ok(None),
        }
    }

    /// Returns a parameter of a module; `None` if the module is not loaded or has no such parameter.
    pub fn parameter(&self, module: &str, name: &str) -> Fact<Option<&str>> {
        self.text(&parameter_path(module, name))
    }

    /// Whether a module's option is turned on in the command line or in modprobe.d.
    pub fn is_option_on(&self, option: &str) -> bool {
        let last =
            self.options.iter().rev().find_map(|o| o.strip_prefix(option)?.strip_prefix('='));
        last.is_some_and(|value| matches!(value, "1" | "y" | "Y" | "on"))
    }

    /// Returns the last message of the kernel log that contains one of these texts.
    pub fn logged(&self, texts: &[&str]) -> Option<&str> {
        let log = self.log.as_deref().unwrap_or_default();
        let is = |line: &&String| texts.iter().any(|text| line.contains(text));
        log.iter().rev().find(is).map(String::as_str)
    }

    /// Returns the number of a resource in a file of the misc cgroup controller.
    ///
    /// Source: Linux `Documentation/admin-guide/cgroup-v2.rst`, "Misc": lines of name and number.
    pub fn misc_count(&self, file: &str, name: &str) -> Option<u64> {
        let text = self.text(&format!("/sys/fs/cgroup/misc.{file}")).ok()??;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line?.trim().parse().ok()
    }
}

fn parameter_path(module: &str, name: &str) -> String {
    format!("/sys/module/{module}/parameters/{name}")
}

fn cpu(text: &str) -> Cpu {
    let line = |key: &str| {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim())
    };
    let vendor = match line("vendor_id") {
        Some("GenuineIntel") => Some(Vendor::Intel),
        Some("AuthenticAMD") => Some(Vendor::Amd),
        _ => None,
    };
    let flags = line("flags").unwrap_or_default().split_whitespace().map(str::to_owned);
    Cpu { vendor, flags: flags.collect() }
}

/// Returns the options of modules; later ones override earlier ones. Source: modprobe.d(5).
fn options(host: &Host, command_line: &[String]) -> Vec<String> {
    let mut options = Vec::new();
    let mut files = std::collections::BTreeMap::new();
    for folder in ["/usr/lib/modprobe.d", "/lib/modprobe.d", "/run/modprobe.d", "/etc/modprobe.d"] {
        for name in sysfs::names(host, folder) {
            if name.ends_with(".conf") {
                let path = format!("{folder}/{name}");
                files.insert(name, path);
            }
        }
    }
    for path in files.into_values() {
        let text = host.read(&path).ok().flatten().unwrap_or_default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if let (Some("options"), Some(module)) = (words.next(), words.next()) {
                options.extend(words.map(|word| format!("{}.{word}", module.replace('-', "_"))));
            }
        }
    }
    let words = command_line.iter().filter(|word| word.contains('.'));
    options.extend(words.map(|word| word.replace('-', "_")));
    options
}

/// Reads the kernel log: from the kernel on this machine, else the captured file.
fn log(host: &Host) -> Fact<Vec<String>> {
    const CAPTURED: &str = "/var/log/dmesg";
    if host.is_this_machine() {
        return syscalls::kernel_log().map_err(|error| format!("cannot read /dev/kmsg: {error}"));
    }
    let bytes = fact(host.read_bytes(CAPTURED))?;
    let bytes =
        bytes.ok_or_else(|| format!("the --sysroot directory does not contain {CAPTURED}"))?;
    Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
}

fn kvm(host: &Host) -> Kvm {
    const NODE: &str = "/dev/kvm";
    if !host.is_this_machine() {
        return match (host.has(NODE), host.has("/dev")) {
            (true, _) => Kvm::Unknown(
                "/dev/kvm exists; to check that it works, run tdx-td host check on that host"
                    .into(),
            ),
            (false, true) => Kvm::Absent,
            (false, false) => Kvm::Unknown("the --sysroot directory does not contain /dev".into()),
        };
    }
    let types = |kvm: File| match syscalls::kvm_vm_types(&kvm) {
        Ok(types) => Kvm::Works(types),
        Err(error) => Kvm::Broken(error.to_string()),
    };
    match OpenOptions::new().read(true).write(true).open(NODE) {
        Ok(kvm) => types(kvm),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Kvm::Absent,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Kvm::Refused,
        Err(error) => Kvm::Broken(error.to_string()),
    }
}

/// Whether a kernel has a module: loaded, installed or built in. Source: depmod(8), `modules.dep`.
fn has_module(host: &Host, release: &str, module: &str) -> Fact<bool> {
    if host.has(&format!("/sys/module/{}", module.replace('-', "_"))) {
        return Ok(true);
    }
    let mut read = false;
    for list in ["modules.dep", "modules.builtin"] {
        let text = fact(host.read(&format!("/lib/modules/{release}/{list}")))?;
        read |= text.is_some();
        let is = |line: &str| line.contains(&format!("/{module}.ko"));
        if text.is_some_and(|text| text.lines().any(is)) {
            return Ok(true);
        }
    }
    if read { Ok(false) } else { Err(format!("/lib/modules/{release}/modules.dep does not exist")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_has_flags_and_vendor() {
        let cpu = cpu(
            "processor\t: 0\nvendor_id\t: GenuineIntel\nvmx flags\t: x\nflags\t\t: fpu pse36 vmx\n",
        );
        assert_eq!(cpu.vendor, Some(Vendor::Intel));
        assert!(
            cpu.flags.contains("vmx") && !cpu.flags.contains("pse") && !cpu.flags.contains("x")
        );
    }
}
