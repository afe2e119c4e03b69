//! An existing domain of the requested name: compares it with the request.

use common::libvirt::{Context as _, State};
use common::{Error, Result};
use tdx_pool::image::Format;
use virt::domain::Domain;

use crate::domain::definition::Definition;
use crate::domain::item::DomainItem;
use crate::domain::metadata::Metadata;
use crate::domain::power;

/// Returns how the domain `name` differs from the request; `None` if it does not.
///
/// `other_format` is the format in which the domain uses the image of `--vmimage`, and the stated format.
///
/// Errors: `conflict` for a domain that these tools did not create.
pub(super) fn differences(
    existing: &Definition,
    name: &str,
    requested: &Metadata,
    other_format: Option<(Format, Format)>,
) -> Result<Option<String>> {
    let record = existing.metadata.as_ref();
    let record = record.ok_or_else(|| name_taken(name, "was not created by these tools"))?;
    let mut differences = record.differences(requested);
    differences.extend(
        other_format
            .map(|(is, wanted)| format!("image_format is {is}, but {wanted} was requested")),
    );
    Ok((!differences.is_empty()).then(|| differences.join("; ")))
}

/// Returns the error for a name that another domain has.
pub(super) fn name_taken(name: &str, how: &str) -> Error {
    Error::conflict(format!("domain '{name}' exists and {how}"))
        .hint(format!("choose another --name, or delete the domain first: tdx-td delete {name}"))
}

/// Returns `error`; if the domain was deleted meanwhile, an error that says so.
pub(super) fn or_deleted_meanwhile(domain: &Domain, name: &str, error: Error) -> Error {
    if power::is_deleted(domain) {
        return Error::conflict(format!(
            "another command deleted domain '{name}' at the same time"
        ))
        .hint("run the command again");
    }
    error
}

/// Reads the domain's definition and state.
pub(super) fn read_item(domain: &Domain, name: &str) -> Result<DomainItem> {
    let doing = format_args!("read domain '{name}'");
    let definition = Definition::parse(domain.xml_desc(0).context(doing)?)?;
    let autostart = domain.autostart().context(doing)?;
    let state: State = power::state(domain, name)?;
    Ok(definition.item(domain.id(), state, autostart))
}
