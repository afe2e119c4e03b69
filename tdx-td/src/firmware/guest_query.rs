//! The firmware query of a guest that these tools define.

use super::query::{Feature, FirmwareQuery};
use crate::capability::Security;
use crate::scenario::library::Scenario;
use crate::scenario::profile::{AutoOr, Guest, OnOff};
use common::Result;

impl FirmwareQuery {
    /// Returns the query of the definition that `builder` writes for these settings.
    pub fn for_guest(guest: &Guest, security: Security) -> Self {
        let ordinary = security == Security::None;
        let keys = |on| [("secure-boot", on), ("enrolled-keys", on)];
        let boot = match guest.secure_boot {
            AutoOr::Is(OnOff(on)) => Some(on),
            // Firmware with enrolled keys boots only signed images. Firmware without them boots all images.
            AutoOr::Auto if ordinary => Some(false),
            // libvirt looks for firmware that supports the protection. Debian's only build for TDX has
            // enrolled keys: a query without them would find nothing.
            AutoOr::Auto => None,
        };
        let boot = boot.map(keys).into_iter().flatten();
        let protection = protection(security).iter().map(|name| (*name, true));
        let sleep = [("acpi-s3", guest.suspend_to_mem), ("acpi-s4", guest.suspend_to_disk)];
        let sleep = sleep.into_iter().filter(|(_, on)| *on == Some(OnOff(true)));
        let features = boot.chain(protection).chain(sleep.map(|(name, _)| (name, true)));
        let feature = |(name, present): (&str, bool)| Feature { name: name.to_owned(), present };
        Self {
            machine: Some(guest.machine.clone()),
            features: features.map(feature).collect(),
            // An ordinary guest requests stored variables, so that libvirt does not choose the stateless builds,
            // which are for AMD SEV.
            stateless: ordinary.then_some(false),
            smm: match guest.smm {
                AutoOr::Auto => None,
                AutoOr::Is(OnOff(on)) => Some(on),
            },
            ..Self::uefi()
        }
    }

    /// Returns the query of a guest without a scenario.
    ///
    /// Errors: none, unless the built-in scenario is damaged.
    pub fn for_ordinary_guest(security: Security) -> Result<Self> {
        let profile = Scenario::built_in(security)?.profile()?;
        Ok(Self::for_guest(&profile.guest, security))
    }
}

/// Returns the firmware features that libvirt requires for a protection.
pub(super) fn protection(security: Security) -> &'static [&'static str] {
    match security {
        Security::None => &[],
        Security::Tdx => &["intel-tdx"],
        Security::Sev => &["amd-sev"],
        Security::SevEs => &["amd-sev", "amd-sev-es"],
        Security::SevSnp => &["amd-sev-snp"],
    }
}
