//! How the kernel deals with the memory of guests.

use crate::host::check::code::HostCode;
use crate::host::check::facts::Facts;
use crate::host::check::guest_kind::GuestKind;
use crate::host::check::item::CheckItem;

/// Judges what makes guests faster, or tells on them.
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
            format!("no {flag}: guests cannot have pages of this size"),
            "in a virtual machine, let its host pass its processor through",
        ),
    }
}

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
            format!("{count} of {kib} KiB are set aside, which trust domains cannot use"),
            "sysctl vm.nr_hugepages=0, and nothing of hugepages on the kernel command line",
        ),
        (Some(count), Some(kib)) => code.ok(format!("{count} of {kib} KiB are set aside")),
        _ => code.unknown("/proc/meminfo does not count them"),
    }
}

/// Source: Linux `Documentation/admin-guide/mm/transhuge.rst`: the word in brackets holds.
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
        None => code.not_applicable("this kernel has none"),
    }
}

/// Source: Linux `Documentation/admin-guide/mm/ksm.rst`.
fn merging(facts: &Facts, secure: bool) -> CheckItem {
    let code = HostCode::Ksm;
    match facts.text("/sys/kernel/mm/ksm/run") {
        Err(why) => code.unknown(why),
        Ok(None) => code.not_applicable("this kernel has none"),
        Ok(Some("1")) if secure => code.warn(
            "it is on: it costs time, finds nothing in encrypted memory, and tells of the rest by timing",
            "echo 2 >/sys/kernel/mm/ksm/run; systemctl disable --now ksm ksmtuned",
        ),
        Ok(Some("1")) => code.ok("it is on, as ordinary guests may have it"),
        Ok(Some(_)) => code.ok("it is off"),
    }
}

/// libvirt sets its guests' own bound, so that this matters only to who runs QEMU by hand.
///
/// Source: proc_pid_limits(5), getrlimit(2).
fn memlock(facts: &Facts) -> CheckItem {
    let code = HostCode::Memlock;
    if !facts.this_machine {
        return code.not_applicable("nobody runs anything on a captured machine");
    }
    let text = match facts.text("/proc/self/limits") {
        Err(why) => return code.unknown(why),
        Ok(text) => text.unwrap_or_default(),
    };
    let line = text.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    match line.and_then(|line| line.split_whitespace().next()) {
        Some("unlimited") => code.ok("unlimited"),
        Some(bytes) => code
            .ok(format!("{bytes} bytes: libvirt raises it for its guests, QEMU by hand has this")),
        None => code.unknown("/proc/self/limits does not tell"),
    }
}
