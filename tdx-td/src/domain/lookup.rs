//! Looking up domains by name, and comparing them with items of standard input.

use common::document::identity::Comparison;
use common::libvirt::{Context, Libvirt, is_gone};
use common::{Error, Result, name};
use serde::Deserialize;
use virt::domain::Domain;

/// The identity of a domain, as an item of standard input states it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct DomainClaim {
    /// The domain's UUID.
    pub uuid: Option<String>,
    /// The host of the domain.
    pub host: Option<String>,
}

/// A domain named by the user, with the identities that items state.
#[derive(Debug, Clone)]
pub struct NamedDomain {
    /// Name of the domain.
    pub name: String,
    /// The identities that items of standard input state.
    claims: Vec<DomainClaim>,
}

impl From<String> for NamedDomain {
    fn from(name: String) -> Self {
        Self { name, claims: Vec::new() }
    }
}

impl NamedDomain {
    /// Creates a named domain with the identities that several items state.
    pub fn with_claims(name: String, claims: Vec<DomainClaim>) -> Self {
        Self { name, claims }
    }

    /// Creates a named domain with the identity that one item states.
    pub fn with_claim(name: String, claim: DomainClaim) -> Self {
        Self { name, claims: vec![claim] }
    }

    /// Returns the domain, if it exists. Later calls use its UUID, so another domain that gets the same name
    /// meanwhile is not changed.
    ///
    /// Errors: `conflict` with code `IDENTITY_CHANGED` for a domain other than the one that an item states,
    /// and for an item of another host; those of [`find`].
    pub fn find(&self, libvirt: &Libvirt, host_name: Option<&str>) -> Result<Option<Domain>> {
        let found = find(libvirt, &self.name)?;
        self.compare(found.as_ref(), host_name)?;
        Ok(found)
    }

    /// Returns the domain.
    ///
    /// Errors: those of [`NamedDomain::find`], and `not_found` (exit 4).
    pub fn get(&self, libvirt: &Libvirt, host_name: Option<&str>) -> Result<Domain> {
        self.find(libvirt, host_name)?.ok_or_else(|| not_found(&self.name))
    }

    /// Compares the identities that items state with `domain`, if it exists.
    ///
    /// Errors: `conflict` with code `IDENTITY_CHANGED`.
    pub fn compare(&self, domain: Option<&Domain>, host_name: Option<&str>) -> Result<()> {
        let uuid = domain.map(uuid).transpose()?;
        let comparison = Comparison::new(format_args!("domain '{}'", self.name));
        let compare = |comparison: Comparison, claim: &DomainClaim| {
            let comparison = comparison.host(claim.host.as_deref(), host_name);
            comparison.hex("uuid", claim.uuid.as_deref(), uuid.as_deref())
        };
        self.claims.iter().fold(comparison, compare).finish()
    }
}

/// Returns the UUID of a domain, without a call to libvirtd.
pub fn uuid(domain: &Domain) -> Result<String> {
    domain.uuid_string().context("read the UUID of a domain")
}

/// Returns the domain of this name, if it exists.
///
/// Errors: `usage` for an invalid name; those of libvirt.
pub fn find(libvirt: &Libvirt, name: &str) -> Result<Option<Domain>> {
    name::check("domain", name)?;
    match libvirt.connect().lookup_domain_by_name(name) {
        Err(error) if is_gone(&error) => Ok(None),
        found => found.context(format_args!("look up domain '{name}'")).map(Some),
    }
}

/// Returns the domain of this name.
///
/// Errors: those of [`find`], and `not_found` (exit 4).
pub fn get(libvirt: &Libvirt, name: &str) -> Result<Domain> {
    find(libvirt, name)?.ok_or_else(|| not_found(name))
}

/// Returns the error for a domain that does not exist (exit 4).
pub fn not_found(name: &str) -> Error {
    Error::not_found(format!("domain '{name}' not found"))
        .hint("to see all domains, run tdx-td list")
}
