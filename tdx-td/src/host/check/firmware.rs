//! Whether there is firmware for what is to run.

use common::host::Host;

use super::code::HostCode;
use super::facts::{Facts, Reading, reading};
use super::{CheckItem, Kind};
use crate::firmware::descriptor::Descriptor;
use crate::firmware::selection::{Feature, Wanted};
use crate::firmware::{is_usable, select};

/// What libvirt would take for guests of a kind.
#[derive(Debug)]
pub struct Firmware {
    kind: Kind,
    /// The build, and whether its files are there; none when there is none.
    found: Reading<Option<(Descriptor, bool)>>,
}

impl Firmware {
    /// Looks for what each kind of guest needs.
    pub fn of_every_kind(host: &Host) -> Vec<Self> {
        let kinds = [Kind::Tdx, Kind::Sev, Kind::SevEs, Kind::SevSnp, Kind::None];
        let find = |kind| {
            let mut wanted = Wanted::uefi();
            wanted.features.extend(feature(kind).map(Feature::with));
            let with_files = |build: Descriptor| {
                let usable = is_usable(host, &build);
                (build, usable)
            };
            Self { kind, found: reading(select(host, &wanted)).map(|found| found.map(with_files)) }
        };
        kinds.into_iter().map(find).collect()
    }
}

/// The feature that firmware for guests of a kind has.
fn feature(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Tdx => Some("intel-tdx"),
        Kind::Sev => Some("amd-sev"),
        Kind::SevEs => Some("amd-sev-es"),
        Kind::SevSnp => Some("amd-sev-snp"),
        Kind::Vfio | Kind::None => None,
    }
}

/// Judges the firmware for all that is to run: the first that is missing is told.
pub fn judge(facts: &Facts, kinds: &[Kind]) -> CheckItem {
    let code = HostCode::Firmware;
    let captured = facts.this_machine || facts.has("/usr/share/qemu") || facts.has("/etc/qemu");
    if !captured {
        return code.unknown("no descriptors were captured");
    }
    let mut found = Vec::new();
    let secure = kinds.iter().any(|kind| kind.is_secure());
    for firmware in &facts.firmware {
        if !kinds.contains(&firmware.kind) && (secure || firmware.kind != Kind::None) {
            continue;
        }
        let package = match firmware.kind {
            Kind::Tdx => "install the package ovmf-inteltdx, or a newer ovmf or edk2-ovmf",
            _ => "install the package ovmf, or edk2-ovmf",
        };
        let what = feature(firmware.kind).unwrap_or("UEFI");
        match &firmware.found {
            Err(why) => return code.unknown(why),
            Ok(None) => return code.fail(format!("no descriptor of {what} for q35"), package),
            Ok(Some((build, false))) => {
                let path = build.path.display();
                return code.fail(format!("{path} names files that are not there"), package);
            }
            Ok(Some((build, true))) => found.push(build.executable.path.display().to_string()),
        }
    }
    code.ok(found.join(", "))
}
