//! Removing the definition of a domain.

use common::cli::log;
use common::libvirt::{Context, Libvirt, is_gone};
use common::{Error, Result};
use tdx_pool::references::usage::{Chains, Usage};
use virt::domain::Domain;
use virt::sys;

use crate::domain::power;
use crate::remove::observed::ObservedDomain;

/// Removes the definition of a domain that could not be started. Firmware variables that another domain
/// uses are kept.
///
/// Errors: `conflict` for a domain that another command has started.
pub fn undo_definition(libvirt: &Libvirt, domain: &Domain, name: &str) -> Result<()> {
    let Some(made) = ObservedDomain::read(libvirt, name, Some(domain.clone()), true)? else {
        return Ok(());
    };
    // The undo may be the result of a signal, which must not interrupt it again.
    let mut chains = Chains::visible(libvirt).uninterruptible();
    let usage = Usage::collect(libvirt, &mut chains)?;
    undefine(domain, name, !made.nvram_users(name, &usage).is_empty())
}

/// Removes the definition with all data that libvirt stores for the domain.
///
/// With `keep_nvram` the firmware variables are kept: another domain uses the same file.
///
/// Errors: `conflict` for a domain that another command has started: it then runs without a definition.
pub(super) fn undefine(domain: &Domain, name: &str, keep_nvram: bool) -> Result<()> {
    log::step(format_args!("undefine domain '{name}'"));
    let nvram = if keep_nvram {
        sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
    } else {
        sys::VIR_DOMAIN_UNDEFINE_NVRAM
    };
    let flags = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | nvram
        | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA;
    match domain.undefine_flags(flags) {
        Err(error) if is_gone(&error) => return Ok(()),
        done => done.context(format_args!("undefine domain '{name}'")).map(drop)?,
    }
    // A guest that runs keeps running without a definition.
    if power::is_active(domain, name)? {
        Err(started_again(name).applied([format!("undefined domain '{name}'")]))
    } else {
        Ok(())
    }
}

/// Returns the error for a guest that was started again after it was shut down.
pub(super) fn started_again(name: &str) -> Error {
    Error::conflict(format!("another command started domain '{name}' while it was deleted"))
        .hint(format!("run the command again: tdx-td delete {name}"))
}
