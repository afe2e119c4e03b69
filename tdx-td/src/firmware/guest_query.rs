//! What a guest of ours asks of firmware.

use super::query::{Feature, FirmwareQuery};
use crate::capability::Security;
use crate::scenario::library::Scenario;
use crate::scenario::profile::{AutoOr, Guest, OnOff};
use common::Result;

impl FirmwareQuery {
    /// What the definition of a guest with these settings asks for, which `builder` writes.
    pub fn for_guest(guest: &Guest, security: Security) -> Self {
        let ordinary = security == Security::None;
        let keys = |on| [("secure-boot", on), ("enrolled-keys", on)];
        let boot = match guest.secure_boot {
            AutoOr::Is(OnOff(on)) => Some(on),
            // The firmware with enrolled keys boots only signed images, the one without boots all.
            AutoOr::Auto if ordinary => Some(false),
            // libvirt looks for firmware that can be launched so. Debian's only one for TDX has keys
            // enrolled: asking for none finds nothing.
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
            // Variables of its own keep an ordinary guest from the stateless builds, which are for AMD SEV.
            stateless: ordinary.then_some(false),
            smm: match guest.smm {
                AutoOr::Auto => None,
                AutoOr::Is(OnOff(on)) => Some(on),
            },
            ..Self::uefi()
        }
    }

    /// What a guest without a scenario asks for.
    ///
    /// Errors: none on a machine whose tools are whole.
    pub fn for_ordinary_guest(security: Security) -> Result<Self> {
        let profile = Scenario::built_in(security)?.profile()?;
        Ok(Self::for_guest(&profile.guest, security))
    }
}

/// The features that libvirt looks for in firmware that protects a guest so.
fn protection(security: Security) -> &'static [&'static str] {
    match security {
        Security::None => &[],
        Security::Tdx => &["intel-tdx"],
        Security::Sev => &["amd-sev"],
        Security::SevEs => &["amd-sev", "amd-sev-es"],
        Security::SevSnp => &["amd-sev-snp"],
    }
}
