//! The firmware that libvirt chooses for each kind of guest.

use common::libvirt::Libvirt;
use common::system::sysroot::Host;

use crate::capability::Security;
use crate::firmware::choice::{FirmwareChoice, Rules};
use crate::firmware::installed::{choose, has_files};
use crate::firmware::query::FirmwareQuery;
use crate::host::check::facts::reading::{Fact, fact};
use crate::host::check::guest_kind::GuestKind;

/// The firmware for a kind of guest.
#[derive(Debug)]
pub struct FirmwareFacts {
    /// The kind of guest.
    pub kind: GuestKind,
    /// The firmware that libvirt chooses.
    pub found: Fact<ChosenFirmware>,
}

/// The firmware that libvirt chooses for a query.
#[derive(Debug)]
pub struct ChosenFirmware {
    /// The query of the guest.
    pub wanted: FirmwareQuery,
    /// libvirt's choice.
    pub choice: FirmwareChoice,
    /// Whether the files of the chosen build exist.
    pub usable: bool,
}

impl FirmwareFacts {
    /// Looks for the firmware of each kind of guest, by the rules of the libvirt that was asked.
    pub fn for_every_kind(host: &Host, rules: Option<&Rules>) -> Vec<Self> {
        let rules = rules.cloned().unwrap_or_else(Rules::newest);
        let kinds =
            [GuestKind::Tdx, GuestKind::Sev, GuestKind::SevEs, GuestKind::SevSnp, GuestKind::None];
        let find = |kind| {
            let found = || {
                let wanted = FirmwareQuery::for_ordinary_guest(security(kind))?;
                let choice = choose(host, &wanted, &rules)?;
                let usable = choice.build().is_some_and(|build| has_files(host, build));
                Ok(ChosenFirmware { wanted, choice, usable })
            };
            Self { kind, found: fact(found()) }
        };
        kinds.into_iter().map(find).collect()
    }
}

/// Returns the rules by which a libvirt chooses firmware; `None` for a remote libvirt.
pub fn rules(libvirt: &Libvirt) -> Option<Rules> {
    let wanted = FirmwareQuery::for_ordinary_guest(Security::None).ok()?;
    libvirt.is_local().then(|| Rules::ask(libvirt, &wanted))
}

fn security(kind: GuestKind) -> Security {
    match kind {
        GuestKind::Tdx => Security::Tdx,
        GuestKind::Sev => Security::Sev,
        GuestKind::SevEs => Security::SevEs,
        GuestKind::SevSnp => Security::SevSnp,
        GuestKind::Vfio | GuestKind::None => Security::None,
    }
}
