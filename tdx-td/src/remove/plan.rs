//! The plan of deleting a domain.

use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use common::{Code, Error, Result};
use tdx_gpu::device_assignment::AssignedDevices;
use virt::domain::Domain;

use crate::domain::lookup;
use crate::passthrough;
use crate::remove::observed::ObservedDomain;
use crate::security::attestation::store::AttestationStore;

/// A domain to delete, in the state in which it was found first.
#[derive(Debug)]
pub struct RemovalPlan {
    pub(super) name: String,
    /// Whether the definition of a domain that another program created may be removed.
    foreign: bool,
    pub(super) seen: Option<ObservedDomain>,
    pub(super) devices: AssignedDevices,
    /// The session keys of the domain.
    pub(super) attestation: Option<AttestationStore>,
}

impl RemovalPlan {
    /// Reads the domain of this name. If it does not exist, session keys that a killed command left behind are
    /// deleted.
    ///
    /// Errors: `conflict` for a domain that another program created, unless `foreign` is true.
    pub fn new(
        host: &Host,
        libvirt: &Libvirt,
        name: String,
        domain: Option<Domain>,
        foreign: bool,
    ) -> Result<Self> {
        let seen = ObservedDomain::read(libvirt, &name, domain, foreign)?;
        let Some(seen) = seen else {
            let keep = AttestationStore::find_abandoned(host, libvirt, &name)?;
            return Ok(Self {
                name,
                foreign,
                seen: None,
                devices: AssignedDevices::default(),
                attestation: keep,
            });
        };
        let devices = passthrough::assigned_devices(host, libvirt, &seen.definition)?;
        let keep = AttestationStore::find(host, &seen.definition)?;
        Ok(Self { name, foreign, seen: Some(seen), devices, attestation: keep })
    }

    /// Returns the name of the domain to delete; `None` if there is nothing to do.
    pub fn target(&self) -> Option<&str> {
        (self.seen.is_some() || self.attestation.is_some()).then_some(self.name.as_str())
    }

    /// Returns the UUID of the domain; `None` if it does not exist.
    pub fn uuid(&self) -> Option<String> {
        self.seen.as_ref().map(ObservedDomain::uuid)
    }

    /// Reads the domain again; `None` if it was deleted meanwhile.
    ///
    /// Errors: `conflict` with code `IDENTITY_CHANGED` if another domain has the name.
    pub(super) fn observe_again(&self, libvirt: &Libvirt) -> Result<Option<ObservedDomain>> {
        let Some(wanted) = self.uuid() else { return Ok(None) };
        let domain = lookup::find(libvirt, &self.name)?;
        match ObservedDomain::read(libvirt, &self.name, domain, self.foreign)? {
            Some(now) if now.uuid() != wanted => {
                Err(identity_changed(&self.name, &wanted, &now.uuid()))
            }
            now => Ok(now),
        }
    }
}

/// Returns the error for a domain whose UUID is not the expected one.
pub(super) fn identity_changed(name: &str, wanted: &str, there: &str) -> Error {
    Error::conflict(format!("domain '{name}' has UUID {there}, expected {wanted}"))
        .code(Code::IdentityChanged)
        .hint("another command recreated the domain: check it, then run the command again")
}
