//! Checking the facts of a host against the requirements of guests.
//!
//! A check that depends on a failed check is reported as not applicable, so that failures are causes.

use crate::host::check::code::HostCode;
use crate::host::check::facts::{Facts, Vendor};
use crate::host::check::guest_kind::GuestKind;
use crate::host::check::item::CheckItem;
use crate::host::check::{access, firmware, libvirt, memory, sev, tdx, vfio};

/// Returns all checks of a host for these kinds of guests.
pub fn judge(facts: &Facts, kinds: &[GuestKind]) -> Vec<CheckItem> {
    let mut items = access::judge(facts, kinds);
    if kinds.contains(&GuestKind::Tdx) {
        items.extend(tdx::judge(facts));
    }
    if let Some(&kind) = kinds.iter().filter(|k| **k != GuestKind::Tdx && k.is_secure()).max() {
        items.extend(sev::judge(facts, kind));
    }
    if kinds.contains(&GuestKind::Vfio) {
        items.extend(vfio::judge(facts));
    }
    items.push(arguments(facts, kinds));
    items.extend(memory::judge(facts, kinds));
    items.push(firmware::judge(facts, kinds));
    let without: Vec<HostCode> =
        items.iter().filter(|item| item.is_failure()).map(|item| item.code).collect();
    items.extend(libvirt::judge(facts, kinds, &without));
    items
}

/// Checks the arguments of the kernel command line that no other check covers.
fn arguments(facts: &Facts, kinds: &[GuestKind]) -> CheckItem {
    let code = HostCode::KernelArguments;
    let words = match &facts.command_line {
        Ok(words) => words,
        Err(why) => return code.unknown(why),
    };
    let has = |word: &str| words.iter().any(|is| is == word);
    let tdx_runs = matches!(facts.parameter("kvm_intel", "tdx"), Ok(Some("Y")));
    if kinds.contains(&GuestKind::Tdx) && !has("nohibernate") && !tdx_runs {
        return code.warn(
            "nohibernate is missing",
            "add nohibernate to the kernel command line: TDX and hibernation exclude each other",
        );
    }
    let bad = ["amd_iommu=off", "iommu=off", "iommu=pt", "iommu.passthrough=1"];
    match bad.into_iter().find(|word| has(word)) {
        Some(word) if kinds.contains(&GuestKind::SevSnp) => code.warn(
            format!("{word} is set"),
            format!(
                "remove {word} from the kernel command line: SEV-SNP needs the IOMMU to translate addresses"
            ),
        ),
        _ => code.ok("the kernel command line has all required arguments and no harmful one"),
    }
}

/// Returns the kind of guests with the best protection: TDX on processors of Intel; on those of AMD the best
/// that this processor offers, SEV-SNP if it offers none.
pub fn best_kind(facts: &Facts) -> GuestKind {
    let cpu = facts.cpu.as_ref().ok();
    let has = |flag: &str| cpu.is_some_and(|cpu| cpu.flags.contains(flag));
    match cpu.and_then(|cpu| cpu.vendor) {
        Some(Vendor::Intel) => GuestKind::Tdx,
        Some(Vendor::Amd) if has("sev_es") && !has("sev_snp") => GuestKind::SevEs,
        Some(Vendor::Amd) if has("sev") && !has("sev_snp") => GuestKind::Sev,
        Some(Vendor::Amd) => GuestKind::SevSnp,
        None => GuestKind::None,
    }
}
