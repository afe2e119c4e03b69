//! Reading the definition of a domain from libvirt.

use common::Result;
use common::libvirt::Context;
use virt::domain::Domain;
use virt::sys;

use crate::domain::definition::parsed::Definition;

/// Reads the inactive definition, which the next start uses.
pub fn inactive(domain: &Domain, name: &str) -> Result<Definition> {
    let doing = format_args!("read domain '{name}'");
    Definition::parse(domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).context(doing)?)
}

/// Reads the live definition of a domain.
pub fn active(domain: &Domain, name: &str) -> Result<Definition> {
    Definition::parse(domain.xml_desc(0).context(format_args!("read domain '{name}'"))?)
}
