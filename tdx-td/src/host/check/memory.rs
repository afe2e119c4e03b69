//! Checks of the kernel's memory settings.

use crate::host::check::code::HostCode;
use crate::host::check::facts::Facts;
use crate::host::check::guest_kind::GuestKind;
use crate::host::check::item::CheckItem;

/// Checks the memory settings that affect the speed or the secrets of guests.
pub fn judge(facts: &Facts, kinds: &[GuestKind]) -> Vec<CheckItem> {
    let secure = kinds.iter().any(|kind| kind.is_secure());
    vec![
        pages(facts, HostCode::CpuPse, "pse"),
        pages(facts, HostCode::CpuPdpe1gb, "pdpe1gb"),
        hugepages(facts, kinds.contains(&GuestKind::Tdx)),
        transparent(facts),
        merging(facts, secure),
        memlock(facts),
    ]
}

fn pages(facts: &Facts, code: HostCode, flag: &str) -> CheckItem {
    match &facts.cpu {
        Err(why) => code.unknown(why),
        Ok(cpu) if cpu.flags.contains(flag) => code.ok(flag),
        Ok(_) => code.warn(
            format!("CPU flag {flag} is missing: guests cannot use pages of this size"),
            "in a virtual machine, set the CPU mode of this machine to host-passthrough",
        ),
    }
}

/// Checks that no huge pages are reserved that trust domains cannot use.
///
/// Source: Linux `Documentation/admin-guide/mm/hugetlbpage.rst`; `Documentation/virt/kvm/x86/intel-tdx.rst`:
/// private memory is mapped in small pages.
fn hugepages(facts: &Facts, tdx: bool) -> CheckItem {
    let code = HostCode::Hugepages;
    let text = match facts.text("/proc/meminfo") {
        Err(why) => return code.unknown(why),
        Ok(text) => text.unwrap_or_default(),
    };
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
    };
    match (number("HugePages_Total:"), number("Hugepagesize:")) {
        (Some(count @ 1..), Some(kib)) if tdx => code.warn(
            format!("{count} pages of {kib} KiB are reserved, which trust domains cannot use"),
            "sysctl vm.nr_hugepages=0, and remove hugepages= from the kernel command line",
        ),
        (Some(count), Some(kib)) => {
            code.ok(format!("{count} huge pages of {kib} KiB are reserved"))
        }
        _ => code.unknown("/proc/meminfo has no number of huge pages"),
    }
}

/// Checks that transparent huge pages are on.
///
/// Source: Linux `Documentation/admin-guide/mm/transhuge.rst`: the word in brackets is the current value.
fn transparent(facts: &Facts) -> CheckItem {
    let code = HostCode::Thp;
    let text = match facts.text("/sys/kernel/mm/transparent_hugepage/enabled") {
        Err(why) => return code.unknown(why),
        Ok(text) => text.unwrap_or_default(),
    };
    match text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']')) {
        Some("never") => {
            code.warn("never", "echo madvise >/sys/kernel/mm/transparent_hugepage/enabled")
        }
        Some(word) => code.ok(word),
        None => code.not_applicable("this kernel does not support transparent huge pages"),
    }
}

/// Checks that KSM is off.
///
/// Source: Linux `Documentation/admin-guide/mm/ksm.rst`.
fn merging(facts: &Facts, secure: bool) -> CheckItem {
    let code = HostCode::Ksm;
    match facts.text("/sys/kernel/mm/ksm/run") {
        Err(why) => code.unknown(why),
        Ok(None) => code.not_applicable("this kernel does not support KSM"),
        Ok(Some("1")) if secure => code.warn(
            "KSM is on: it costs processor time, finds nothing in encrypted memory, and leaks information by \
             timing",
            "echo 2 >/sys/kernel/mm/ksm/run; systemctl disable --now ksm ksmtuned",
        ),
        Ok(Some("1")) => code.ok("KSM is on, which is allowed for ordinary guests"),
        Ok(Some(_)) => code.ok("KSM is off"),
    }
}

/// Checks the limit of locked memory. libvirt sets its own limit, so this matters only for QEMU without libvirt.
///
/// Source: proc_pid_limits(5), getrlimit(2).
fn memlock(facts: &Facts) -> CheckItem {
    let code = HostCode::Memlock;
    if !facts.this_machine {
        return code.not_applicable("not checked with --sysroot");
    }
    let text = match facts.text("/proc/self/limits") {
        Err(why) => return code.unknown(why),
        Ok(text) => text.unwrap_or_default(),
    };
    let line = text.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    match line.and_then(|line| line.split_whitespace().next()) {
        Some("unlimited") => code.ok("unlimited"),
        Some(bytes) => code.ok(format!("{bytes} bytes; libvirt raises this limit for its guests")),
        None => code.unknown("/proc/self/limits does not have this limit"),
    }
}
