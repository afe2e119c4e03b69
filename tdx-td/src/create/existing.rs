//! The domain that has the name already: whether it is the one that is asked for.

use common::libvirt::{Context as _, State};
use common::{Error, Result};
use tdx_pool::image::Format;
use virt::domain::Domain;

use crate::domain::definition::Definition;
use crate::domain::item::DomainItem;
use crate::domain::metadata::Metadata;
use crate::domain::power;

/// Returns how the domain `name` differs from what is asked for; none if it does not.
///
/// `other_format` is the format in which the domain uses the user's own image, and the one that is stated now.
///
/// Errors: `conflict` for a domain that these tools did not make.
pub(super) fn differences(
    existing: &Definition,
    name: &str,
    requested: &Metadata,
    other_format: Option<(Format, Format)>,
) -> Result<Option<String>> {
    let record = existing.metadata.as_ref();
    let record = record.ok_or_else(|| name_taken(name, "was not made by these tools"))?;
    let mut differences = record.differences(requested);
    differences.extend(other_format.map(|(is, not)| format!("image_format is {is}, not {not}")));
    Ok((!differences.is_empty()).then(|| differences.join("; ")))
}

/// Returns the error of a name that another domain has.
pub(super) fn name_taken(name: &str, how: &str) -> Error {
    Error::conflict(format!("domain '{name}' exists and {how}"))
        .hint("choose another --name, or delete it first")
}

/// Returns `error`, or the error that the domain was deleted meanwhile if it was.
pub(super) fn or_deleted_meanwhile(domain: &Domain, name: &str, error: Error) -> Error {
    if power::is_deleted(domain) {
        return Error::conflict(format!(
            "domain '{name}' was deleted by another command meanwhile"
        ))
        .hint("run the same command again");
    }
    error
}

/// Reads the domain as it is now.
pub(super) fn read_item(domain: &Domain, name: &str) -> Result<DomainItem> {
    let doing = format_args!("read domain '{name}'");
    let definition = Definition::parse(domain.xml_desc(0).context(doing)?)?;
    let autostart = domain.autostart().context(doing)?;
    let state: State = power::state(domain, name)?;
    Ok(definition.item(domain.id(), state, autostart))
}
