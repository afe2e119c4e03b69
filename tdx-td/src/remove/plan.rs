//! Which domain is to be deleted, as it was when it was named.

use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use common::{Code, Error, Result};
use tdx_gpu::device_assignment::AssignedDevices;
use virt::domain::Domain;

use crate::domain::lookup;
use crate::passthrough;
use crate::remove::observed::ObservedDomain;
use crate::security::attestation::store::AttestationStore;

/// A domain that is to be deleted, as it was when it was named.
#[derive(Debug)]
pub struct RemovalPlan {
    pub(super) name: String,
    /// Whether a domain of others may lose its definition.
    foreign: bool,
    pub(super) seen: Option<ObservedDomain>,
    pub(super) devices: AssignedDevices,
    /// The keys it is attested by.
    pub(super) attestation: Option<AttestationStore>,
}

impl RemovalPlan {
    /// Reads the domain of this name. Where there is none, keys that a killed command has left are what is
    /// to be deleted.
    ///
    /// Errors: `conflict` for a domain of others, unless `foreign` says to remove its definition alone.
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

    /// The name of the domain that would be deleted; none when there is nothing to do.
    pub fn target(&self) -> Option<&str> {
        (self.seen.is_some() || self.attestation.is_some()).then_some(self.name.as_str())
    }

    /// The UUID of the domain; none when there is none.
    pub fn uuid(&self) -> Option<String> {
        self.seen.as_ref().map(ObservedDomain::uuid)
    }

    /// The domain right now: the one that was named, or none.
    ///
    /// Errors: `conflict` with code `IDENTITY_CHANGED` when another domain has its name.
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

/// The error for a domain that is another one than was named.
pub(super) fn identity_changed(name: &str, wanted: &str, there: &str) -> Error {
    Error::conflict(format!("domain '{name}' has UUID {there} by now, not {wanted}"))
        .code(Code::IdentityChanged)
        .hint("another command made it anew: look at it, then run the same command again")
}
