//! Checks for trust domains, from the processor to KVM.
//!
//! Source: Linux `Documentation/arch/x86/tdx.rst`, `arch/x86/virt/vmx/tdx/tdx.c` and
//! `arch/x86/kvm/vmx/tdx.c` for what they log.

use crate::host::check::code::HostCode;
use crate::host::check::facts::{Facts, Kvm};
use crate::host::check::item::CheckItem;
use crate::security::launch::tdx::QGS_SOCKET;

/// The bit of trust domains in `KVM_CAP_VM_TYPES`.
const TDX_VM: u32 = 1 << 5;

const BIOS: &str =
    "turn on TDX, TME-MT and the SEAM loader in the BIOS, with TME-MT/TDX key split above 0";
const UPDATE: &str = "update the BIOS to get a newer TDX module";

/// Messages that the kernel logs if it cannot use the TDX module, each with the fix. The first that was logged
/// counts.
const FAILURES: [(&str, &str); 11] = [
    ("Hibernation support is enabled", "add nohibernate to the kernel command line"),
    ("too few private KeyIDs", BIOS),
    ("no TDX private KeyIDs", BIOS),
    ("not enabled by BIOS", BIOS),
    ("enable_virt_at_load", "remove kvm.enable_virt_at_load=0 from the kernel command line"),
    (
        "is required for TDX",
        "turn on all TDX options in the BIOS; in a virtual machine, set the CPU mode of this machine to \
         host-passthrough",
    ),
    (
        "module not loaded",
        "turn on the SEAM loader in the BIOS, or update the BIOS: the BIOS loads the TDX module",
    ),
    (
        "MAX_VCPU_PER_TD",
        "update the BIOS, or turn off hyper-threading: the TDX module supports fewer processors",
    ),
    ("nitialization failed", UPDATE),
    ("Failed to initialize TDX module", UPDATE),
    ("SEAMCALL", UPDATE),
];

/// Checks whether KVM can run trust domains.
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
        Ok(_) if is_on(facts) => code.ok("kvm_intel.tdx is on"),
        Ok(cpu) if cpu.flags.contains("tdx_guest") => code.fail(
            "this machine is itself a trust domain, which cannot run trust domains",
            "run guests on the host of this machine",
        ),
        Ok(_) => code.fail(
            "CPU flag tdx_host_platform is missing",
            format!(
                "{BIOS}; TDX needs a Xeon of the 5th generation or newer (some of the 4th have it)"
            ),
        ),
    }
}

fn kernel(facts: &Facts) -> CheckItem {
    let code = HostCode::KernelTdx;
    let release = facts.release.as_deref().unwrap_or("(unknown release)");
    match facts.parameter("kvm_intel", "tdx") {
        Err(why) => code.unknown(why),
        Ok(Some(_)) => code.ok(format!("Linux {release}")),
        Ok(None) if facts.has("/sys/module/kvm_intel") || is_before(release, (6, 16)) => code.fail(
            format!("Linux {release}: kvm_intel has no parameter tdx"),
            "install Linux 6.16 or newer with CONFIG_INTEL_TDX_HOST and CONFIG_KVM_INTEL_TDX, such as that of \
             Ubuntu 25.10",
        ),
        Ok(None) => code.unknown(format!("Linux {release}: module kvm_intel is not loaded")),
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
        return code.ok(
            "kvm_intel uses the TDX module; this kernel does not report the version of the TDX \
             module",
        );
    }
    let failure = || {
        let logged = |(text, fix): (&'static str, _)| Some((facts.logged(&[text])?, fix));
        let of_tdx = |line: &str| line.contains("tdx") || line.contains("TDX");
        FAILURES.into_iter().filter_map(logged).find(|(line, _)| of_tdx(line))
    };
    let initialised = ["TDX-Module initialized", "virt/tdx: module initialized"];
    match failure() {
        _ if cpu.is_failure() => code.not_checked(cpu.code),
        _ if facts.logged(&initialised).is_some() => {
            code.ok("the kernel initialized the TDX module")
        }
        Some((line, fix)) => code.fail(without_timestamp(line), fix),
        None if !facts.is_option_on("kvm_intel.tdx") => {
            code.not_applicable("TDX is not turned on: see check KVM_INTEL_TDX")
        }
        None => match &facts.log {
            Err(why) => code.unknown(why),
            Ok(_) => code.unknown("the kernel log has no message about the TDX module"),
        },
    }
}

/// Returns a message without the timestamp that dmesg puts before it.
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
        Ok(Some("Y" | "1")) => code.ok("kvm_intel.tdx is on"),
        Ok(None) => match cause {
            Some(cause) => code.not_checked(cause.code),
            None => code.unknown("module kvm_intel is not loaded"),
        },
        // Reported even if an earlier check failed: the user can fix both in any order.
        Ok(Some(_)) if !facts.is_option_on("kvm_intel.tdx") => code.fail(
            "kvm_intel.tdx is off",
            "add kvm_intel.tdx=1 to the kernel command line, or 'options kvm_intel tdx=1' to \
             /etc/modprobe.d/tdx.conf, and reboot",
        ),
        Ok(Some(_)) => match cause {
            Some(cause) => code.not_checked(cause.code),
            None => code.fail(
                "kvm_intel.tdx is off, although kvm_intel.tdx=1 is configured",
                "to see the reason, run as root: dmesg | grep -i tdx",
            ),
        },
    }
}

fn kvm(facts: &Facts, parameter: &CheckItem) -> CheckItem {
    let code = HostCode::KvmTdx;
    match &facts.kvm {
        Kvm::Works(types) if types & TDX_VM != 0 => {
            code.ok("KVM supports trust domains (bit 5 of KVM_CAP_VM_TYPES)")
        }
        Kvm::Works(_) if is_on(facts) => code.fail(
            "KVM does not support trust domains (bit 5 of KVM_CAP_VM_TYPES), although kvm_intel.tdx is on",
            "modprobe -r kvm_intel && modprobe kvm_intel, or reboot",
        ),
        Kvm::Works(_) => code.not_checked(parameter.code),
        _ => code.unknown("/dev/kvm cannot be used"),
    }
}

fn keys(facts: &Facts) -> CheckItem {
    let code = HostCode::TdxKeys;
    let (all, taken) = (facts.misc_count("capacity", "tdx"), facts.misc_count("current", "tdx"));
    match (all, taken.unwrap_or(0)) {
        (None, _) => code.not_applicable("the kernel does not report the number of key ids"),
        (Some(all), taken) if taken >= all => code.fail(
            format!("all {all} key ids are in use"),
            "to see the trust domains, run tdx-td list; to shut one down, run tdx-td stop NAME",
        ),
        (Some(all), taken) => code.ok(format!("{taken} of {all} key ids are in use")),
    }
}

fn qgs(facts: &Facts) -> CheckItem {
    let code = HostCode::Qgs;
    let places = [QGS_SOCKET, QGS_SOCKET.trim_start_matches("/var")];
    if places.into_iter().any(|place| facts.has(place)) {
        code.ok(QGS_SOCKET)
    } else {
        code.warn(
            format!("{QGS_SOCKET} does not exist: trust domains run, but cannot be attested"),
            "install Intel's tdx-qgs, configure that socket, then systemctl start qgsd",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_before_compares_numbers() {
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
    fn without_timestamp_removes_only_a_timestamp() {
        assert_eq!(without_timestamp("[   13.100393] virt/tdx: x"), "virt/tdx: x");
        assert_eq!(without_timestamp("[..] virt/tdx: x"), "[..] virt/tdx: x");
        assert_eq!(without_timestamp("virt/tdx: x"), "virt/tdx: x");
    }
}
