//! Deleting domains: the guest is shut down, the definition removed, and the domain's own files deleted.
//!
//! A plan says which domains are meant. What is done to one is decided by what it is right then: it is read
//! again after the question, and again when its guest is off, and who needs its files is asked when its
//! definition is gone.

mod deletion;
mod observed;
mod owned_files;
mod removing;

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::Duration;

use common::cli::log;
use common::document::{Action, Item};
use common::libvirt::{Context, Libvirt, is_gone};
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::{Code, Error, Result, parallel};
use schemars::JsonSchema;
use serde::Serialize;
use tdx_gpu::device_assignment::AssignedDevices;
use tdx_pool::references::References;
use tdx_pool::references::usage::{Chains, Usage};
use virt::domain::Domain;
use virt::sys;

use crate::commands::names;
use crate::domain::power;
use crate::passthrough;
use crate::security::attestation::store::Keep;
use deletion::{DomainFiles, delete_unneeded};
use observed::Observed;
use owned_files::OwnedFiles;
use removing::Removing;

pub use deletion::KeptFile;

/// A domain and what was done to be rid of it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DeleteItem {
    /// Name.
    pub name: String,
    /// Whether it was cut off without the guest's say.
    pub forced: bool,
    /// The files that went with it.
    pub deleted: Vec<String>,
    /// The files that belonged to it and stay, each with the reason.
    pub kept: Vec<KeptFile>,
    /// The devices of the host that went back to what they were taken from.
    pub released: Vec<Bdf>,
    /// `delete`, or `none` for a domain that was not there.
    pub action: Action,
}

impl Item for DeleteItem {
    const COLUMNS: &'static [&'static str] = &["NAME", "ACTION", "FORCED", "DELETED", "KEPT"];
    const WRAPPED: &'static [&'static str] = &["DELETED", "KEPT"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let forced = if self.forced { "yes" } else { "no" };
        let kept: Vec<&str> = self.kept.iter().map(|file| file.path.as_str()).collect();
        vec![
            self.name.clone(),
            self.action.to_string(),
            forced.to_owned(),
            self.deleted.join(" "),
            kept.join(" "),
        ]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// A domain that is to be deleted, as it was when it was named.
#[derive(Debug)]
pub struct RemovalPlan {
    name: String,
    /// Whether a domain of others may lose its definition.
    foreign: bool,
    seen: Option<Observed>,
    devices: AssignedDevices,
    /// The keys it is attested by.
    keep: Option<Keep>,
}

/// A domain that is gone, or would be.
#[derive(Debug)]
pub struct Removal {
    /// What was done.
    pub item: DeleteItem,
    /// What the user should know.
    pub warnings: Vec<String>,
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
        let seen = Observed::read(libvirt, &name, domain, foreign)?;
        let Some(seen) = seen else {
            let keep = Keep::left(host, libvirt, &name)?;
            return Ok(Self {
                name,
                foreign,
                seen: None,
                devices: AssignedDevices::default(),
                keep,
            });
        };
        let devices = passthrough::handed(host, libvirt, &seen.definition)?;
        let keep = Keep::find(host, &seen.definition)?;
        Ok(Self { name, foreign, seen: Some(seen), devices, keep })
    }

    /// The name of the domain that would be deleted; none when there is nothing to do.
    pub fn target(&self) -> Option<&str> {
        (self.seen.is_some() || self.keep.is_some()).then_some(self.name.as_str())
    }

    /// The UUID of the domain; none when there is none.
    pub fn uuid(&self) -> Option<String> {
        self.seen.as_ref().map(Observed::uuid)
    }

    /// The domain right now: the one that was named, or none.
    ///
    /// Errors: `conflict` with code `IDENTITY_CHANGED` when another domain has its name.
    fn observe_again(&self, libvirt: &Libvirt) -> Result<Option<Observed>> {
        let Some(wanted) = self.uuid() else { return Ok(None) };
        let domain = names::find(libvirt, &self.name)?;
        match Observed::read(libvirt, &self.name, domain, self.foreign)? {
            Some(now) if now.uuid() != wanted => {
                Err(identity_changed(&self.name, &wanted, &now.uuid()))
            }
            now => Ok(now),
        }
    }
}

/// The error for a domain that is another one than was named.
fn identity_changed(name: &str, wanted: &str, there: &str) -> Error {
    Error::conflict(format!("domain '{name}' has UUID {there} by now, not {wanted}"))
        .code(Code::IdentityChanged)
        .hint("another command made it anew: look at it, then run the same command again")
}

/// What deleting these domains would do, when each guest shuts down by itself.
pub fn preview(libvirt: &Libvirt, plans: Vec<Result<RemovalPlan>>) -> Result<Vec<Result<Removal>>> {
    let files = preview_files(libvirt, &plans)?;
    let preview = |(plan, files): (Result<RemovalPlan>, DomainFiles)| {
        let plan = plan?;
        let action = if plan.target().is_some() { Action::Delete } else { Action::None };
        let DomainFiles { mut deleted, kept, warnings, .. } = files;
        deleted.extend(plan.keep.iter().map(Keep::shown));
        let released = plan.devices.devices().into_iter().collect();
        let item = DeleteItem { name: plan.name, forced: false, deleted, kept, released, action };
        Ok(Removal { item, warnings })
    };
    Ok(plans.into_iter().zip(files).map(preview).collect())
}

/// What would become of the files of these domains.
fn preview_files(libvirt: &Libvirt, plans: &[Result<RemovalPlan>]) -> Result<Vec<DomainFiles>> {
    let seen = |plan: &Result<RemovalPlan>| plan.as_ref().is_ok_and(|plan| plan.seen.is_some());
    if !plans.iter().any(seen) {
        return Ok(plans.iter().map(|_| DomainFiles::default()).collect());
    }
    let going = plans.iter().filter(|plan| seen(plan)).flatten();
    let going: HashSet<String> = going.map(|plan| plan.name.clone()).collect();
    let mut references = References::collect(libvirt)?;
    let owned = plans.iter().map(|plan| match plan {
        Ok(RemovalPlan { name, seen: Some(seen), .. }) => seen.files(name, references.usage()),
        _ => OwnedFiles::default(),
    });
    let mut files = DomainFiles::check(libvirt, owned.collect())?;
    delete_unneeded(libvirt, &mut references, &mut files, &going, true)?;
    Ok(files)
}

/// Deletes these domains. A guest that is not off after `timeout` is ended. All are waited for before the
/// first definition is removed, so that who needs which file is asked once for all of them.
///
/// Devices go back before the definition goes, by which they are found again when this is killed.
pub fn delete(
    host: &Host,
    libvirt: &Libvirt,
    plans: Vec<Result<RemovalPlan>>,
    timeout: Duration,
) -> Vec<Result<Removal>> {
    let end = |plan: Result<RemovalPlan>| Removing::begin(host, libvirt, plan?, timeout);
    let mut removing = parallel::map(plans, parallel::GUESTS, end);
    match nvram_usage(libvirt, &removing) {
        Err(error) => fail_all(&mut removing, error),
        Ok(usage) => {
            let undefine = |removing: Result<Removing>| removing?.undefine(host, libvirt, &usage);
            removing = parallel::map(removing, parallel::DOMAINS, undefine);
        }
    }
    let files = match delete_files(libvirt, &removing) {
        Ok(files) => files,
        Err(error) => {
            fail_all(&mut removing, error);
            Vec::new()
        }
    };
    let mut files = files.into_iter();
    let finish = |removing: Result<Removing>| {
        let files = files.next().unwrap_or_default();
        removing.and_then(|removing| removing.finish(files))
    };
    removing.into_iter().map(finish).collect()
}

/// Who needs which file, where a domain has firmware variables that others may have as well.
fn nvram_usage(libvirt: &Libvirt, removing: &[Result<Removing>]) -> Result<Usage> {
    match removing.iter().flatten().any(Removing::has_nvram) {
        false => Ok(Usage::default()),
        true => Usage::collect(libvirt, &mut Chains::visible(libvirt)),
    }
}

/// Deletes the files of the domains that are gone, as far as nothing needs them.
fn delete_files(libvirt: &Libvirt, removing: &[Result<Removing>]) -> Result<Vec<DomainFiles>> {
    let owned = removing.iter().map(|removing| match removing {
        Ok(removing) => removing.files(),
        Err(_) => OwnedFiles::default(),
    });
    let owned: Vec<OwnedFiles> = owned.collect();
    let has_claims = owned.iter().any(|files| !files.claims.is_empty());
    let mut files = DomainFiles::check(libvirt, owned)?;
    if has_claims {
        let mut references = References::collect(libvirt)?;
        delete_unneeded(libvirt, &mut references, &mut files, &HashSet::new(), false)?;
    }
    Ok(files)
}

/// Fails for every domain that has not failed yet.
fn fail_all(removing: &mut [Result<Removing>], error: Error) {
    let mut first = Some(error);
    for slot in removing {
        if let Ok(domain) = slot {
            let error = first.take().unwrap_or_else(|| Error::failed("another domain failed"));
            *slot = Err(domain.fail(error));
        }
    }
}

/// Ends this very domain at once and removes it with its files. That it is gone already is fine.
///
/// Errors: `conflict` with code `IDENTITY_CHANGED` when another domain has its name.
pub fn remove(host: &Host, libvirt: &Libvirt, name: &str, uuid: &str) -> Result<()> {
    let domain = names::find(libvirt, name)?;
    let plan = RemovalPlan::new(host, libvirt, name.to_owned(), domain, false)?;
    if let Some(there) = plan.uuid().filter(|there| there != uuid) {
        return Err(identity_changed(name, uuid, &there));
    }
    delete(host, libvirt, vec![Ok(plan)], Duration::ZERO)
        .into_iter()
        .try_for_each(|done| done.map(drop))
}

/// Removes the definition of a domain that could not be started. Firmware variables that another domain
/// needs stay.
///
/// Errors: `conflict` for a domain that another command has started.
pub fn undo_definition(libvirt: &Libvirt, domain: &Domain, name: &str) -> Result<()> {
    let Some(made) = Observed::read(libvirt, name, Some(domain.clone()), true)? else {
        return Ok(());
    };
    // A signal may be why it is undone.
    let mut chains = Chains::visible(libvirt).uninterruptible();
    let usage = Usage::collect(libvirt, &mut chains)?;
    undefine(domain, name, !made.nvram_users(name, &usage).is_empty())
}

/// Removes the definition with everything libvirt keeps beside it.
///
/// Its firmware variables stay with `keep_nvram`: another domain's definition names the same file.
///
/// Errors: `conflict` for a domain that another command has started: it goes on without a definition.
fn undefine(domain: &Domain, name: &str, keep_nvram: bool) -> Result<()> {
    log::step(format_args!("undefine domain '{name}'"));
    let nvram = match keep_nvram {
        true => sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM,
        false => sys::VIR_DOMAIN_UNDEFINE_NVRAM,
    };
    let flags = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | nvram
        | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA;
    match domain.undefine_flags(flags) {
        Err(error) if is_gone(&error) => return Ok(()),
        done => done.context(format_args!("undefine domain '{name}'")).map(drop)?,
    }
    // libvirt leaves a guest that runs without a definition.
    match power::is_active(domain, name)? {
        false => Ok(()),
        true => Err(started_again(name).applied([format!("undefined domain '{name}'")])),
    }
}

/// The error for a guest that runs although it was shut down.
fn started_again(name: &str) -> Error {
    Error::conflict(format!("domain '{name}' was started by another command meanwhile"))
        .hint(format!("tdx-td delete {name} shuts it down again"))
}
