//! The chain from the processor to KVM that a trust domain needs.
//!
//! Source: Linux `Documentation/arch/x86/tdx.rst`, `arch/x86/virt/vmx/tdx/tdx.c` and
//! `arch/x86/kvm/vmx/tdx.c` for what they log.

use crate::host::check::code::HostCode;
use crate::host::check::facts::{Facts, Kvm};
use crate::host::check::item::CheckItem;
use crate::security::launch::tdx::QGS_SOCKET;

/// The bit of a trust domain among the kinds of guests.
const TDX_VM: u32 = 1 << 5;

const BIOS: &str =
    "turn on TDX, TME-MT and the SEAM loader in the BIOS, with TME-MT/TDX key split above 0";
const UPDATE: &str = "update the BIOS, which brings a newer TDX module";

/// What the kernel logs when it cannot use the module, and what helps. The first that is there counts.
const FAILURES: [(&str, &str); 11] = [
    ("Hibernation support is enabled", "add nohibernate to the kernel command line"),
    ("too few private KeyIDs", BIOS),
    ("no TDX private KeyIDs", BIOS),
    ("not enabled by BIOS", BIOS),
    ("enable_virt_at_load", "remove kvm.enable_virt_at_load=0 from the kernel command line"),
    (
        "is required for TDX",
        "turn on all of TDX in the BIOS; in a virtual machine, let its host pass it on",
    ),
    (
        "module not loaded",
        "turn on the SEAM loader in the BIOS, or update it: it has to load the module",
    ),
    (
        "MAX_VCPU_PER_TD",
        "update the BIOS, or turn off hyper-threading: the module knows fewer processors",
    ),
    ("nitialization failed", UPDATE),
    ("Failed to initialize TDX module", UPDATE),
    ("SEAMCALL", UPDATE),
];

/// Judges whether KVM runs trust domains.
pub fn judge(facts: &Facts) -> Vec<CheckItem> {
    let cpu = cpu(facts);
    let kernel = kernel(facts);
    let module = module(facts, &cpu);
    let parameter = parameter(facts, [&cpu, &kernel, &module]);
    let kvm = kvm(facts, &parameter);
    vec![cpu, kernel, module, parameter, kvm, keys(facts), qgs(facts)]
}

fn is_on(facts: &Facts) -> bool {
    matches!(facts.parameter("kvm_intel", "tdx"), Ok(Some("Y" | "1")))
}

fn cpu(facts: &Facts) -> CheckItem {
    let code = HostCode::CpuTdx;
    match &facts.cpu {
        Err(why) => code.unknown(why),
        Ok(cpu) if cpu.flags.contains("tdx_host_platform") => code.ok("tdx_host_platform"),
        Ok(_) if is_on(facts) => code.ok("kvm_intel has it on"),
        Ok(cpu) if cpu.flags.contains("tdx_guest") => code.fail(
            "this machine is a trust domain itself",
            "run it on the host: trust domains have none of their own",
        ),
        Ok(_) => code.fail(
            "no tdx_host_platform",
            format!(
                "{BIOS}; processors have it from the 5th generation of Xeon on, some of the 4th"
            ),
        ),
    }
}

fn kernel(facts: &Facts) -> CheckItem {
    let code = HostCode::KernelTdx;
    let release = facts.release.as_deref().unwrap_or("of unknown release");
    match facts.parameter("kvm_intel", "tdx") {
        Err(why) => code.unknown(why),
        Ok(Some(_)) => code.ok(format!("Linux {release}")),
        Ok(None) if facts.has("/sys/module/kvm_intel") || is_before(release, (6, 16)) => code.fail(
            format!("Linux {release}: kvm_intel has no parameter tdx"),
            "run Linux 6.16 or newer with CONFIG_INTEL_TDX_HOST and CONFIG_KVM_INTEL_TDX, as Ubuntu 25.10 has",
        ),
        Ok(None) => code.unknown(format!("Linux {release}: kvm_intel is not loaded")),
    }
}

/// Whether a release is older than a version.
fn is_before(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(a), Some(b)) if (a, b) < version)
}

fn module(facts: &Facts, cpu: &CheckItem) -> CheckItem {
    let code = HostCode::TdxModule;
    if let Ok(Some(version)) = facts.text("/sys/devices/faux/tdx_host/version") {
        return code.ok(format!("version {version}"));
    }
    if is_on(facts) {
        return code.ok("kvm_intel has it in use; this kernel does not tell its version");
    }
    let failure = || {
        let logged = |(text, fix): (&'static str, _)| Some((facts.logged(&[text])?, fix));
        let of_tdx = |line: &str| line.contains("tdx") || line.contains("TDX");
        FAILURES.into_iter().filter_map(logged).find(|(line, _)| of_tdx(line))
    };
    let initialised = ["TDX-Module initialized", "virt/tdx: module initialized"];
    match failure() {
        _ if cpu.is_failure() => code.not_applicable("follows from CPU_TDX"),
        _ if facts.logged(&initialised).is_some() => code.ok("the kernel has initialised it"),
        Some((line, fix)) => code.fail(without_timestamp(line), fix),
        None if !facts.is_option_on("kvm_intel.tdx") => {
            code.not_applicable("nothing has asked for it: see KVM_INTEL_TDX")
        }
        None => match &facts.log {
            Err(why) => code.unknown(why),
            Ok(_) => code.unknown("the kernel's log says nothing of it"),
        },
    }
}

/// A message without the seconds that dmesg puts before it.
pub(crate) fn without_timestamp(line: &str) -> &str {
    match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((time, message)) if time.trim().parse::<f64>().is_ok() => message,
        _ => line,
    }
}

fn parameter(facts: &Facts, causes: [&CheckItem; 3]) -> CheckItem {
    let code = HostCode::KvmIntelTdx;
    let cause = causes.into_iter().find(|item| item.is_failure());
    match facts.parameter("kvm_intel", "tdx") {
        Err(why) => code.unknown(why),
        Ok(Some("Y" | "1")) => code.ok("it is on"),
        Ok(None) => match cause {
            Some(cause) => code.not_applicable(format!("follows from {}", cause.code.as_str())),
            None => code.unknown("kvm_intel is not loaded"),
        },
        // Which of the two a user mends first does not matter: both are told.
        Ok(Some(_)) if !facts.is_option_on("kvm_intel.tdx") => code.fail(
            "kvm_intel.tdx is off",
            "add kvm_intel.tdx=1 to the kernel command line, or 'options kvm_intel tdx=1' to \
             /etc/modprobe.d/tdx.conf, and reboot",
        ),
        Ok(Some(_)) => match cause {
            Some(cause) => code.not_applicable(format!("follows from {}", cause.code.as_str())),
            None => code.fail(
                "kvm_intel.tdx=1 was asked for, and is off",
                "dmesg | grep -i tdx tells why, as root",
            ),
        },
    }
}

fn kvm(facts: &Facts, parameter: &CheckItem) -> CheckItem {
    let code = HostCode::KvmTdx;
    match &facts.kvm {
        Kvm::Works(types) if types & TDX_VM != 0 => code.ok("KVM_CAP_VM_TYPES has bit 5"),
        Kvm::Works(_) if is_on(facts) => code.fail(
            "KVM_CAP_VM_TYPES lacks bit 5 although kvm_intel.tdx is on",
            "modprobe -r kvm_intel && modprobe kvm_intel, or reboot",
        ),
        Kvm::Works(_) => code.not_applicable(format!("follows from {}", parameter.code.as_str())),
        _ => code.unknown("KVM cannot be asked"),
    }
}

fn keys(facts: &Facts) -> CheckItem {
    let code = HostCode::TdxKeys;
    let (all, taken) = (facts.misc_count("capacity", "tdx"), facts.misc_count("current", "tdx"));
    match (all, taken.unwrap_or(0)) {
        (None, _) => code.not_applicable("the kernel does not count them"),
        (Some(all), taken) if taken >= all => code
            .fail(format!("all {all} are in use"), "stop a trust domain: tdx-td list shows them"),
        (Some(all), taken) => code.ok(format!("{taken} of {all} are in use")),
    }
}

fn qgs(facts: &Facts) -> CheckItem {
    let code = HostCode::Qgs;
    let places = [QGS_SOCKET, QGS_SOCKET.trim_start_matches("/var")];
    if places.into_iter().any(|place| facts.has(place)) {
        code.ok(QGS_SOCKET)
    } else {
        code.warn(
            format!("there is no {QGS_SOCKET}: trust domains run, and nobody can attest them"),
            "install Intel's tdx-qgs, have it listen on that socket, systemctl start qgsd",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_as_numbers() {
        for (release, older) in [
            ("6.8.0-1028-intel", true),
            ("6.15.11", true),
            ("6.16.0", false),
            ("7.0-rc1", false),
            ("6.17.0-5-generic", false),
            ("custom", false),
        ] {
            assert_eq!(is_before(release, (6, 16)), older, "{release}");
        }
    }

    #[test]
    fn times_are_left_out() {
        assert_eq!(without_timestamp("[   13.100393] virt/tdx: x"), "virt/tdx: x");
        assert_eq!(without_timestamp("[..] virt/tdx: x"), "[..] virt/tdx: x");
        assert_eq!(without_timestamp("virt/tdx: x"), "virt/tdx: x");
    }
}
