//! Checks a template with the host's libvirt, before anything is created.

use common::cli::Context;
use common::libvirt::Libvirt;
use common::xml::Document;
use common::{Error, Result};

use crate::domain_xml::listeners::Listener;
use crate::domain_xml::part::Part;
use crate::domain_xml::schema::Schema;
use crate::domain_xml::template::{Template, dialect};
use crate::domain_xml::{listeners, validation};

/// Returns the parts of a template that this libvirt does not know and would ignore. With `fix`, they may be
/// translated or removed.
///
/// Errors: `invalid_input`, which names every element and attribute with its line. Without `fix` for unknown
/// parts and for ports open on every address; with `fix` for ports that cannot be closed; always for other
/// parts that libvirt's schema refuses.
pub fn check(
    context: &Context,
    libvirt: &Libvirt,
    template: &Template,
    fix: bool,
) -> Result<Vec<Part>> {
    let filled = template.fill_for_validation()?;
    let schema = match validation::refusal(libvirt, &filled)? {
        None => None,
        Some(_) => Schema::read(&context.host)?,
    };
    let unknown_in =
        |document| schema.as_ref().map(|schema| schema.unknown(document)).unwrap_or_default();
    let unknown = unknown_in(&template.document);
    check_fixable(template, &unknown, fix)?;
    let usable = if fix {
        let fixed = Document::parse(dialect::fix(&template.document, &unknown, None)?.0)?;
        template.with_document(fixed).fill_for_validation()?
    } else if schema.is_none() {
        // libvirt accepts the template unchanged.
        return Ok(unknown);
    } else {
        filled.clone()
    };
    let Some(cause) = validation::refusal(libvirt, &usable)? else {
        return Ok(unknown);
    };
    let parts = validation::refused_parts(libvirt, &filled, &unknown_in(&filled))?;
    let why = if parts.is_empty() {
        "does not match libvirt's schema".to_owned()
    } else {
        format!("does not match libvirt's schema at {}", listed(&parts))
    };
    Err(template
        .refusal(&why)
        .because(cause)
        .hint("see https://libvirt.org/formatdomain.html for the elements that are allowed"))
}

/// Fails for parts that only `--fix-template` may change, if it is not given, and for parts that it cannot
/// change.
fn check_fixable(template: &Template, unknown: &[Part], fix: bool) -> Result<()> {
    let found = listeners::find(&template.document);
    let open: Vec<&Listener<'_>> =
        found.iter().filter(|listener| !fix || !listener.can_be_closed()).collect();
    let mut faults = Vec::new();
    if !unknown.is_empty() && !fix {
        faults.push(format!(
            "has parts that this version of libvirt does not support: {}",
            listed(unknown)
        ));
    }
    if !open.is_empty() {
        faults.push(format!("opens a port on every address of this host: {}", listed(&open)));
    }
    if faults.is_empty() {
        return Ok(());
    }
    let error: Error = template.refusal(&faults.join("; it also "));
    Err(if open.iter().all(|listener| listener.can_be_closed()) {
        error.hint(
            "add --fix-template, which translates or removes the unsupported parts and changes listening \
             addresses to 127.0.0.1",
        )
    } else {
        error.hint("write the address 127.0.0.1 into the raw arguments for QEMU")
    })
}

fn listed(things: &[impl ToString]) -> String {
    things.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
