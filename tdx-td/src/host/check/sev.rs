//! Checks for AMD SEV guests of each generation.
//!
//! Source: Linux `Documentation/virt/kvm/x86/amd-memory-encryption.rst`; `drivers/crypto/ccp/sev-dev.c`,
//! `arch/x86/virt/svm/sev.c` and `drivers/iommu/amd/init.c` for what they log.

use crate::host::check::code::HostCode;
use crate::host::check::facts::Facts;
use crate::host::check::guest_kind::GuestKind;
use crate::host::check::item::CheckItem;
use crate::host::check::tdx::without_timestamp;

const UPDATE: &str = "update the BIOS, or the SEV firmware in /lib/firmware/amd";
const RMP: &str = "turn on SEV-SNP support and RMP table coverage in the BIOS";

/// Messages that the kernel logs if the secure processor does not work, each with the fix. The first that was
/// logged counts.
const FAILURES: [(&str, &str); 3] = [
    ("SEV: failed to get status", "update the BIOS, then power the machine off and on"),
    ("SEV: failed to INIT", UPDATE),
    ("no command queues or SEV", "turn on SEV in the BIOS"),
];

/// Messages that the kernel logs if SEV-SNP does not work, each with the fix. The IOMMU is involved in some.
const SNP_FAILURES: [(&str, &str); 6] = [
    ("Memory for the RMP table has not been reserved", RMP),
    ("RMP configuration not valid", RMP),
    ("Memory reserved for the RMP table does not cover", RMP),
    (
        "configured in passthrough mode",
        "remove iommu=pt from the kernel command line, and turn on the IOMMU",
    ),
    (
        "SNP cannot be supported",
        "remove amd_iommu= from the kernel command line, and update the BIOS",
    ),
    ("SEV-SNP: failed to INIT", UPDATE),
];

/// Returns this generation and the earlier ones, by the names of processor flags and module parameters.
fn generations(kind: GuestKind) -> &'static [&'static str] {
    match kind {
        GuestKind::SevSnp => &["sev", "sev_es", "sev_snp"],
        GuestKind::SevEs => &["sev", "sev_es"],
        _ => &["sev"],
    }
}

/// Checks whether KVM can run SEV guests of this kind.
pub fn judge(facts: &Facts, kind: GuestKind) -> Vec<CheckItem> {
    let cpu = cpu(facts, kind);
    let firmware = firmware(facts, kind, &cpu);
    let module = module(facts, kind, [&cpu, &firmware]);
    vec![cpu, firmware, module, guests(facts, kind)]
}

fn cpu(facts: &Facts, kind: GuestKind) -> CheckItem {
    let code = HostCode::CpuSev;
    let cpu = match &facts.cpu {
        Ok(cpu) => cpu,
        Err(why) => return code.unknown(why),
    };
    let lacks: Vec<&str> =
        generations(kind).iter().copied().filter(|flag| !cpu.flags.contains(*flag)).collect();
    if lacks.is_empty() {
        code.ok(generations(kind).join(" "))
    } else {
        code.fail(
            format!("missing CPU flags: {}", lacks.join(", ")),
            "turn on SME, SEV, SEV-ES and SNP in the BIOS; SEV-SNP needs an EPYC 7003 or newer",
        )
    }
}

fn firmware(facts: &Facts, kind: GuestKind, cpu: &CheckItem) -> CheckItem {
    let code = HostCode::SevFirmware;
    let logged = |(text, fix): (&'static str, _)| Some((facts.logged(&[text])?, fix));
    let snp = SNP_FAILURES.into_iter().filter(|_| kind == GuestKind::SevSnp);
    match FAILURES.into_iter().chain(snp).find_map(logged) {
        _ if cpu.is_failure() => code.not_checked(cpu.code),
        Some((line, fix)) => code.fail(without_timestamp(line), fix),
        None => match facts.logged(&["SEV-SNP API:", "SEV API:"]) {
            Some(line) => code.ok(without_timestamp(line)),
            None if facts.has("/dev/sev") => code.ok("/dev/sev exists"),
            None if !facts.has("/dev") => {
                code.unknown("the --sysroot directory does not contain /dev")
            }
            None => {
                code.fail("/dev/sev does not exist", "modprobe ccp, then see dmesg | grep -i sev")
            }
        },
    }
}

fn module(facts: &Facts, kind: GuestKind, causes: [&CheckItem; 2]) -> CheckItem {
    let code = HostCode::KvmAmdSev;
    let mut off = Vec::new();
    for &name in generations(kind) {
        match facts.parameter("kvm_amd", name) {
            Err(why) => return code.unknown(why),
            Ok(Some("Y" | "1")) => {}
            Ok(_) => off.push(name),
        }
    }
    let cause = causes.into_iter().find(|item| item.is_failure());
    match cause {
        _ if off.is_empty() => code.ok(format!("{} on", generations(kind).join(", "))),
        Some(cause) => code.not_checked(cause.code),
        None if !facts.has("/sys/module") => {
            code.unknown("the --sysroot directory does not contain /sys/module")
        }
        None if !facts.has("/sys/module/kvm_amd") => {
            code.fail("module kvm_amd is not loaded", "modprobe kvm_amd")
        }
        None => {
            let options: Vec<String> = off.iter().map(|name| format!("{name}=1")).collect();
            code.fail(
                format!("off, or not supported by this kernel: {}", off.join(", ")),
                format!(
                    "add 'options kvm_amd {}' to /etc/modprobe.d/sev.conf and reload kvm_amd; reserve SEV-ES \
                     ASIDs in the BIOS; SEV-SNP needs Linux 6.11",
                    options.join(" ")
                ),
            )
        }
    }
}

fn guests(facts: &Facts, kind: GuestKind) -> CheckItem {
    let code = HostCode::SevGuests;
    let (resource, most) = match kind {
        GuestKind::Sev => ("sev", "maxGuests"),
        _ => ("sev_es", "maxESGuests"),
    };
    let by_libvirt = facts.libvirt.capabilities.as_ref().ok().and_then(|capabilities| {
        capabilities.root().text_at(&format!("features/sev/{most}"))?.parse::<u64>().ok()
    });
    let all = facts.misc_count("capacity", resource).or(by_libvirt);
    let taken = facts.misc_count("current", resource).unwrap_or(0);
    match all {
        None => code.unknown("neither the kernel nor libvirt reports the number of ASIDs"),
        Some(0) => code.fail(
            "no ASIDs are reserved",
            "reserve ASIDs in the BIOS: for SEV-ES and SEV-SNP, set 'SEV-ES ASID Space Limit' to a value \
             above 1",
        ),
        Some(all) if taken >= all => code.fail(
            format!("all {all} ASIDs are in use"),
            "to see the guests, run tdx-td list; to shut one down, run tdx-td stop NAME",
        ),
        Some(all) => code.ok(format!("{taken} of {all} ASIDs are in use")),
    }
}
