//! Looking up domains by name, and comparing them with what items say of them.

use common::document::identity::Comparison;
use common::libvirt::{Context, Libvirt, is_gone};
use common::{Error, Result, name};
use serde::Deserialize;
use virt::domain::Domain;

/// What an item says of a domain beside its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct DomainClaim {
    /// The domain's UUID.
    pub uuid: Option<String>,
    /// The host that the domain lives on.
    pub host: Option<String>,
}

/// A domain that a verb is about.
#[derive(Debug, Clone)]
pub struct NamedDomain {
    /// Its name.
    pub name: String,
    /// What the items of standard input say of it.
    claims: Vec<DomainClaim>,
}

impl From<String> for NamedDomain {
    fn from(name: String) -> Self {
        Self { name, claims: Vec::new() }
    }
}

impl NamedDomain {
    /// A domain of which several items of standard input say something.
    pub fn with_claims(name: String, claims: Vec<DomainClaim>) -> Self {
        Self { name, claims }
    }

    /// A domain of which an item says something.
    pub fn with_claim(name: String, claim: DomainClaim) -> Self {
        Self { name, claims: vec![claim] }
    }

    /// The domain, if there is one. What is done to it afterwards is done by its UUID, so that another
    /// domain that gets the name meanwhile is not touched.
    ///
    /// Errors: `conflict` with code `IDENTITY_CHANGED` for a domain other than the one that an item says,
    /// and for an item of another host; those of [`find`].
    pub fn find(&self, libvirt: &Libvirt, host_name: Option<&str>) -> Result<Option<Domain>> {
        let found = find(libvirt, &self.name)?;
        self.compare(found.as_ref(), host_name)?;
        Ok(found)
    }

    /// The domain.
    ///
    /// Errors: those of [`NamedDomain::find`], and `not_found` (exit 4).
    pub fn get(&self, libvirt: &Libvirt, host_name: Option<&str>) -> Result<Domain> {
        self.find(libvirt, host_name)?.ok_or_else(|| not_found(&self.name))
    }

    /// Compares what items say with the domain of this name, if there is one.
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

/// The UUID of a domain, which its handle knows.
pub fn uuid(domain: &Domain) -> Result<String> {
    domain.uuid_string().context("ask a domain for its UUID")
}

/// The domain of this name, if there is one.
///
/// Errors: `usage` for a name that no domain can have; whatever libvirt says.
pub fn find(libvirt: &Libvirt, name: &str) -> Result<Option<Domain>> {
    name::check("domain", name)?;
    match libvirt.connect().lookup_domain_by_name(name) {
        Err(error) if is_gone(&error) => Ok(None),
        found => found.context(format_args!("look up domain '{name}'")).map(Some),
    }
}

/// The domain of this name.
///
/// Errors: `not_found` (exit 4) as well.
pub fn get(libvirt: &Libvirt, name: &str) -> Result<Domain> {
    find(libvirt, name)?.ok_or_else(|| not_found(name))
}

/// The error for a domain that is not there (exit 4).
pub fn not_found(name: &str) -> Error {
    Error::not_found(format!("no domain '{name}'")).hint("tdx-td list shows those there are")
}
