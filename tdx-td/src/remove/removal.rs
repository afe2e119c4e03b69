//! The deletion of one domain, step by step.

use std::time::Duration;

use common::cli::interrupt;
use common::document::Action;
use common::libvirt::Libvirt;
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::{Error, ErrorKind, Result};
use tdx_pool::references::usage::Usage;
use virt::domain::Domain;

use crate::domain::power;
use crate::passthrough;
use crate::remove::file_deletion::DomainFiles;
use crate::remove::item::{DeleteItem, RemovedDomain};
use crate::remove::observed::ObservedDomain;
use crate::remove::owned_files::OwnedFiles;
use crate::remove::plan::RemovalPlan;
use crate::remove::undefine::{started_again, undefine};
use crate::security::attestation::store::AttestationStore;

/// A domain that is being deleted.
#[derive(Debug)]
pub(super) struct Removal {
    plan: RemovalPlan,
    /// The state in which the domain was last read; `None` if it does not exist.
    seen: Option<ObservedDomain>,
    end: Option<End>,
    released: Vec<Bdf>,
    is_undefined: bool,
    files: OwnedFiles,
}

/// How a guest was switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The guest shut down.
    ShutDown,
    /// The guest was forced off.
    Forced,
}

impl Removal {
    /// Shuts the guest down and releases its host devices, if the domain still is the planned one.
    ///
    /// Errors: `conflict` with code `IDENTITY_CHANGED` if it is not; those of shutting down.
    pub(super) fn begin(
        host: &Host,
        libvirt: &Libvirt,
        mut plan: RemovalPlan,
        timeout: Duration,
    ) -> Result<Self> {
        interrupt::check()?;
        let seen = plan.observe_again(libvirt)?;
        if plan.seen.is_none() && plan.attestation.is_some() {
            plan.attestation = AttestationStore::find_abandoned(host, libvirt, &plan.name)?;
        }
        let (end, released, files) = Default::default();
        let mut removing = Self { plan, seen, end, released, is_undefined: false, files };
        let Some(seen) = &removing.seen else { return Ok(removing) };
        removing.end = switch_off(&seen.domain, &removing.plan.name, timeout)?;
        let released = passthrough::assigned_devices(host, libvirt, &seen.definition)
            .and_then(|devices| devices.give_back(host));
        match released {
            Ok(released) => removing.released = released,
            Err(error) => return Err(error.applied(removing.applied())),
        }
        Ok(removing)
    }

    /// Whether the domain has firmware variables.
    pub(super) fn has_nvram(&self) -> bool {
        self.seen.as_ref().is_some_and(ObservedDomain::has_nvram)
    }

    /// Removes the definition, if the domain still is the planned one, and its guest is still off.
    ///
    /// Errors: `conflict`.
    pub(super) fn undefine(
        mut self,
        host: &Host,
        libvirt: &Libvirt,
        usage: &Usage,
    ) -> Result<Self> {
        match self.try_undefine(host, libvirt, usage) {
            Ok(()) => Ok(self),
            Err(error) => Err(error.applied(self.applied())),
        }
    }

    fn try_undefine(&mut self, host: &Host, libvirt: &Libvirt, usage: &Usage) -> Result<()> {
        interrupt::check()?;
        let Some(before) = self.seen.take() else { return Ok(()) };
        let name = &self.plan.name;
        let now = self.plan.observe_again(libvirt)?;
        if let Some(now) = &now {
            if power::is_active(&now.domain, name)? {
                return Err(started_again(name));
            }
            let keep_nvram = !now.nvram_users(name, usage).is_empty();
            self.plan.attestation = AttestationStore::find(host, &now.definition)?;
            undefine(&now.domain, name, keep_nvram)?;
        } else if before.is_persistent {
            // Another command removed the domain and handles its files.
            let gone = before.files(name, usage);
            let why = "another command removed the domain at the same time";
            let candidates =
                gone.candidates.into_iter().map(|candidate| (candidate.path, why.to_owned()));
            self.files.kept = gone.kept.into_iter().chain(candidates).collect();
            self.plan.attestation = None;
            return Ok(());
        }
        // A transient domain disappeared when its guest stopped.
        let seen = now.unwrap_or(before);
        self.files = seen.files(name, usage);
        self.is_undefined = true;
        Ok(())
    }

    /// Returns the files of the domain, after its definition was removed.
    pub(super) fn files(&self) -> OwnedFiles {
        self.files.clone()
    }

    /// Returns descriptions of what was done.
    fn applied(&self) -> Vec<String> {
        let name = &self.plan.name;
        let end = self.end.map(|end| match end {
            End::ShutDown => format!("shut down domain '{name}'"),
            End::Forced => format!("forced off domain '{name}'"),
        });
        let released = self.released.iter().map(|bdf| format!("released {bdf}"));
        let undefined = self.is_undefined.then(|| format!("undefined domain '{name}'"));
        end.into_iter().chain(released).chain(undefined).collect()
    }

    /// Returns `error` with what was done, and with the files that were not deleted.
    pub(super) fn fail(&self, error: Error) -> Error {
        let files =
            self.files.candidates.iter().map(|candidate| candidate.path.display().to_string());
        error.applied(self.applied()).left_behind(files)
    }

    /// Returns the result, after the files were deleted.
    ///
    /// Errors: that of the first file that could not be deleted.
    pub(super) fn finish(self, mut files: DomainFiles) -> Result<RemovedDomain> {
        if let Some(error) = files.take_error() {
            return Err(error.applied(self.applied()));
        }
        let DomainFiles { mut deleted, kept, warnings, .. } = files;
        if let Some(keep) = &self.plan.attestation {
            keep.remove().map_err(|error| error.applied(self.applied()))?;
            deleted.push(keep.display_path());
        }
        let did_something =
            self.is_undefined || self.end.is_some() || self.plan.attestation.is_some();
        let item = DeleteItem {
            action: if did_something { Action::Delete } else { Action::None },
            forced: self.end == Some(End::Forced),
            name: self.plan.name,
            deleted,
            kept,
            released: self.released,
        };
        Ok(RemovedDomain { item, warnings })
    }
}

/// Shuts the guest down, or forces it off after `timeout`. Returns `None` if it was off already.
fn switch_off(domain: &Domain, name: &str, timeout: Duration) -> Result<Option<End>> {
    if !power::is_active(domain, name)? {
        return Ok(None);
    }
    if !timeout.is_zero() {
        match power::shut_down(domain, name, timeout) {
            Ok(true) => return Ok(Some(End::ShutDown)),
            Ok(false) => {}
            // A paused or crashed guest cannot react to the request.
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) => return Err(error),
        }
    }
    power::destroy(domain, name)?;
    Ok(Some(End::Forced))
}
