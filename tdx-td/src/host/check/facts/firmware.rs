//! Which firmware libvirt gives to each kind of guest.

use common::libvirt::Libvirt;
use common::system::sysroot::Host;

use crate::capability::Security;
use crate::firmware::choice::{Choice, Rules};
use crate::firmware::installed::{choose, is_usable};
use crate::firmware::selection::Wanted;
use crate::host::check::facts::reading::{Reading, reading};
use crate::host::check::guest_kind::Kind;

/// What libvirt does for guests of a kind that ask for firmware.
#[derive(Debug)]
pub struct Firmware {
    /// The kind.
    pub kind: Kind,
    /// What libvirt chooses for it.
    pub found: Reading<Found>,
}

/// Which firmware libvirt chooses.
#[derive(Debug)]
pub struct Found {
    /// What the guest asks for.
    pub wanted: Wanted,
    /// What libvirt chooses for that.
    pub choice: Choice,
    /// Whether the files of the chosen build exist.
    pub usable: bool,
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
