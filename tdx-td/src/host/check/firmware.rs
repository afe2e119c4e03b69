//! Whether there is firmware for what is to run.

use common::system::sysroot::Host;

use super::code::HostCode;
use super::facts::{Facts, Reading, reading};
use crate::capability::Security;
use crate::commands::firmware::{choose, is_usable};
use crate::commands::host::check::{CheckItem, Kind};
use crate::firmware::choice::{Choice, Rules};
use crate::firmware::selection::Wanted;
use common::libvirt::Libvirt;

/// What libvirt does for guests of a kind that ask for firmware.
#[derive(Debug)]
pub struct Firmware {
    kind: Kind,
    found: Reading<Found>,
}

#[derive(Debug)]
struct Found {
    wanted: Wanted,
    choice: Choice,
    /// Whether the files of the build are there.
    usable: bool,
}

impl Firmware {
    /// Looks for what each kind of guest needs, by the rules of the libvirt that was asked.
    pub fn of_every_kind(host: &Host, rules: Option<&Rules>) -> Vec<Self> {
        let rules = rules.cloned().unwrap_or_else(Rules::newest);
        let kinds = [Kind::Tdx, Kind::Sev, Kind::SevEs, Kind::SevSnp, Kind::None];
        let find = |kind| {
            let found = || {
                let wanted = Wanted::of_ordinary(security(kind))?;
                let choice = choose(host, &wanted, &rules)?;
                let usable = choice.build().is_some_and(|build| is_usable(host, build));
                Ok(Found { wanted, choice, usable })
            };
            Self { kind, found: reading(found()) }
        };
        kinds.into_iter().map(find).collect()
    }
}

/// The rules by which a libvirt chooses firmware for the guests that are judged.
pub fn rules(libvirt: &Libvirt) -> Option<Rules> {
    let wanted = Wanted::of_ordinary(Security::None).ok()?;
    libvirt.is_local().then(|| Rules::ask(libvirt, &wanted))
}

fn security(kind: Kind) -> Security {
    match kind {
        Kind::Tdx => Security::Tdx,
        Kind::Sev => Security::Sev,
        Kind::SevEs => Security::SevEs,
        Kind::SevSnp => Security::SevSnp,
        Kind::Vfio | Kind::None => Security::None,
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
        let result = match &firmware.found {
            Err(why) => return code.unknown(why),
            Ok(result) => result,
        };
        if let Some(why) = result.choice.complaint(&result.wanted) {
            let fix = match &result.choice {
                Choice::Blocked(_) => "tdx-td firmware names the files; correct or remove them",
                _ => package,
            };
            return code.fail(why, fix);
        }
        if let Some(build) = result.choice.build() {
            if !result.usable {
                let path = build.path.display();
                return code.fail(format!("{path} names files that are not there"), package);
            }
            found.push(build.executable.path.display().to_string());
        }
    }
    code.ok(found.join(", "))
}
