//! Judging the facts of a host.
//!
//! A check that depends on a failed check is reported as not applicable, so that failures are causes.

use crate::host::check::code::HostCode;
use crate::host::check::facts::{Facts, Vendor};
use crate::host::check::guest_kind::GuestKind;
use crate::host::check::item::CheckItem;
use crate::host::check::{access, firmware, libvirt, memory, sev, tdx, vfio};

/// All that is to be said of a host on which such guests are to run.
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

/// The kernel's command line, as far as it is not said of what it turns on.
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
            "nohibernate is not there",
            "add nohibernate: TDX and hibernation exclude each other",
        );
    }
    let bad = ["amd_iommu=off", "iommu=off", "iommu=pt", "iommu.passthrough=1"];
    match bad.into_iter().find(|word| has(word)) {
        Some(word) if kinds.contains(&GuestKind::SevSnp) => code.warn(
            format!("{word} is there"),
            format!("remove {word}: SEV-SNP needs the IOMMU to translate"),
        ),
        _ => code.ok("nothing is missing or in the way"),
    }
}

/// The best protection that processors of the host's vendor have: of AMD's what this one offers.
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
