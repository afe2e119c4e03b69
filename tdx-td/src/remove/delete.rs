//! Deleting several domains in parallel, and the preview of that.

use std::collections::HashSet;
use std::time::Duration;

use common::document::Action;
use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use common::{Error, Result, parallel};
use tdx_pool::references::References;
use tdx_pool::references::usage::{Chains, Usage};

use crate::domain::lookup;
use crate::remove::file_deletion::{DomainFiles, delete_unneeded};
use crate::remove::item::{DeleteItem, RemovedDomain};
use crate::remove::owned_files::OwnedFiles;
use crate::remove::plan::{RemovalPlan, identity_changed};
use crate::remove::removal::Removal;
use crate::security::attestation::store::AttestationStore;

/// Returns what deleting these domains would do, if each guest shuts down in time.
pub fn preview(
    libvirt: &Libvirt,
    plans: Vec<Result<RemovalPlan>>,
) -> Result<Vec<Result<RemovedDomain>>> {
    let files = preview_files(libvirt, &plans)?;
    let preview = |(plan, files): (Result<RemovalPlan>, DomainFiles)| {
        let plan = plan?;
        let action = if plan.target().is_some() { Action::Delete } else { Action::None };
        let DomainFiles { mut deleted, kept, warnings, .. } = files;
        deleted.extend(plan.attestation.iter().map(AttestationStore::display_path));
        let released = plan.devices.devices().into_iter().collect();
        let item = DeleteItem { name: plan.name, forced: false, deleted, kept, released, action };
        Ok(RemovedDomain { item, warnings })
    };
    Ok(plans.into_iter().zip(files).map(preview).collect())
}

/// Returns which files of these domains would be deleted and which kept.
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

/// Deletes these domains. A guest that is not off after `timeout` is forced off. The first definition is removed
/// after all guests are off, so that the users of files are collected only once.
///
/// Host devices are released before the definition is removed: if this command is killed, the definition still
/// names them.
pub fn delete(
    host: &Host,
    libvirt: &Libvirt,
    plans: Vec<Result<RemovalPlan>>,
    timeout: Duration,
) -> Vec<Result<RemovedDomain>> {
    let end = |plan: Result<RemovalPlan>| Removal::begin(host, libvirt, plan?, timeout);
    let mut removing = parallel::map(plans, parallel::GUESTS, end);
    match nvram_usage(libvirt, &removing) {
        Err(error) => fail_all(&mut removing, error),
        Ok(usage) => {
            let undefine = |removing: Result<Removal>| removing?.undefine(host, libvirt, &usage);
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
    let finish = |removing: Result<Removal>| {
        let files = files.next().unwrap_or_default();
        removing.and_then(|removing| removing.finish(files))
    };
    removing.into_iter().map(finish).collect()
}

/// Collects the users of files, if a domain has firmware variables that other domains may share.
fn nvram_usage(libvirt: &Libvirt, removing: &[Result<Removal>]) -> Result<Usage> {
    if removing.iter().flatten().any(Removal::has_nvram) {
        Usage::collect(libvirt, &mut Chains::visible(libvirt))
    } else {
        Ok(Usage::default())
    }
}

/// Deletes the files of the deleted domains, unless something else needs them.
fn delete_files(libvirt: &Libvirt, removing: &[Result<Removal>]) -> Result<Vec<DomainFiles>> {
    let owned = removing.iter().map(|removing| match removing {
        Ok(removing) => removing.files(),
        Err(_) => OwnedFiles::default(),
    });
    let owned: Vec<OwnedFiles> = owned.collect();
    let has_candidates = owned.iter().any(|files| !files.candidates.is_empty());
    let mut files = DomainFiles::check(libvirt, owned)?;
    if has_candidates {
        let mut references = References::collect(libvirt)?;
        delete_unneeded(libvirt, &mut references, &mut files, &HashSet::new(), false)?;
    }
    Ok(files)
}

/// Replaces every success by an error.
fn fail_all(removing: &mut [Result<Removal>], error: Error) {
    let mut first = Some(error);
    for slot in removing {
        if let Ok(domain) = slot {
            let error = first.take().unwrap_or_else(|| {
                Error::failed("not deleted, because the deletion of another domain failed")
            });
            *slot = Err(domain.fail(error));
        }
    }
}

/// Forces the domain with this UUID off and deletes it with its files. A domain that does not exist is no error.
///
/// Errors: `conflict` with code `IDENTITY_CHANGED` if another domain has the name.
pub fn remove(host: &Host, libvirt: &Libvirt, name: &str, uuid: &str) -> Result<()> {
    let domain = lookup::find(libvirt, name)?;
    let plan = RemovalPlan::new(host, libvirt, name.to_owned(), domain, false)?;
    if let Some(other) = plan.uuid().filter(|other| other != uuid) {
        return Err(identity_changed(name, uuid, &other));
    }
    delete(host, libvirt, vec![Ok(plan)], Duration::ZERO)
        .into_iter()
        .try_for_each(|done| done.map(drop))
}
