//! Getting rid of one domain: the guest off, the definition removed, its own files deleted.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use common::document::{Action, Item};
use common::host::Host;
use common::libvirt::{Context, Libvirt, is_gone};
use common::pci::Bdf;
use common::{Error, ErrorKind, Result, log, xml};
use schemars::JsonSchema;
use serde::Serialize;
use tdx_gpu::handover::Handed;
use tdx_pool::overlay;
use tdx_pool::usage::{Chains, Usage};
use virt::domain::Domain;
use virt::sys;

use crate::attestation::keep::Keep;
use crate::definition::{self, Definition};
use crate::disks::OwnFiles;
use crate::{names, passthrough, power};

/// A domain and what was done to be rid of it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DeleteItem {
    /// Name.
    pub name: String,
    /// Whether it was cut off without the guest's say.
    pub forced: bool,
    /// The files that went with it.
    pub deleted: Vec<String>,
    /// The devices of the host that went back to what they were taken from.
    pub released: Vec<Bdf>,
    /// `delete`, or `none` for a domain that was not there.
    pub action: Action,
}

impl Item for DeleteItem {
    const COLUMNS: &'static [&'static str] = &["NAME", "ACTION", "FORCED", "DELETED"];
    const WRAPPED: &'static [&'static str] = &["DELETED"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let forced = if self.forced { "yes" } else { "no" };
        let deleted = self.deleted.join(" ");
        vec![self.name.clone(), self.action.0.to_owned(), forced.to_owned(), deleted]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// What is to be done to be rid of a domain; nothing when it is not there.
#[derive(Debug)]
pub struct Plan {
    name: String,
    domain: Option<Domain>,
    files: OwnFiles,
    devices: Handed,
    /// The keys it is attested by.
    keep: Option<Keep>,
}

/// A domain that is gone.
#[derive(Debug)]
pub struct Removal {
    /// What was done.
    pub item: DeleteItem,
    /// Files that are left for now, each with the other domains that need it.
    pub shared: Vec<(PathBuf, Vec<String>)>,
}

impl Plan {
    /// The plan for a domain that is not there. Keys that a command which was killed has left are.
    pub fn absent(host: &Host, libvirt: &Libvirt, name: String) -> Result<Self> {
        let keep = Keep::left(host, libvirt, &name)?;
        let (files, devices) = (OwnFiles::default(), Handed::default());
        Ok(Self { name, domain: None, files, devices, keep })
    }

    /// Finds what is the domain's own.
    ///
    /// Errors: `conflict` for a domain of others, unless `foreign` says to take its definition alone.
    pub fn new(
        host: &Host,
        libvirt: &Libvirt,
        name: String,
        domain: Domain,
        foreign: bool,
        chains: &mut Chains,
        usage: &Usage,
    ) -> Result<Self> {
        let files = match own_files(libvirt, &name, &domain, foreign, chains, usage) {
            // It went away by itself meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Self::absent(host, libvirt, name);
            }
            files => files?,
        };
        let definition = match definition::inactive(&domain, &name) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Self::absent(host, libvirt, name);
            }
            definition => definition?,
        };
        let devices = passthrough::handed(host, libvirt, &definition)?;
        let keep = Keep::find(host, &definition)?;
        Ok(Self { name, domain: Some(domain), files, devices, keep })
    }

    /// The name of the domain that would be deleted; none when there is nothing to do.
    pub fn target(&self) -> Option<&str> {
        (self.domain.is_some() || self.keep.is_some()).then_some(self.name.as_str())
    }

    /// What [`Plan::apply`] would do to a guest that shuts down when asked.
    pub fn imagined(self) -> Removal {
        let action = if self.target().is_some() { Action("delete") } else { Action::NONE };
        let files = self.files.delete.iter().map(|file| file.display().to_string());
        let deleted = files.chain(self.keep.iter().map(Keep::shown)).collect();
        let released = self.devices.devices().into_iter().collect();
        let item = DeleteItem { name: self.name, forced: false, deleted, released, action };
        Removal { item, shared: self.files.shared }
    }

    /// Carries the plan out. A guest that is not off after `timeout` is ended.
    ///
    /// Devices go back before the definition goes, by which they are found again when this is killed.
    pub fn apply(self, host: &Host, libvirt: &Libvirt, timeout: Duration) -> Result<Removal> {
        let Some(domain) = &self.domain else {
            self.keep.iter().try_for_each(Keep::remove)?;
            return Ok(self.imagined());
        };
        let forced = switch_off(domain, &self.name, timeout)?;
        let released = self.devices.give_back(host).and_then(|released| {
            undefine(domain, &self.name, self.files.nvram_is_shared)
                .map_err(|error| {
                    error.applied(released.iter().map(|bdf| format!("gave back {bdf}")))
                })
                .map(|()| released)
        });
        let released = released.map_err(|error| {
            error.applied(forced.then(|| format!("ended domain '{}'", self.name)))
        })?;
        let mut deleted = delete_files(libvirt, &self.name, self.files.delete)?;
        if let Some(keep) = &self.keep {
            keep.remove()
                .map_err(|error| error.applied([format!("undefined domain '{}'", self.name)]))?;
            deleted.push(keep.shown());
        }
        let item =
            DeleteItem { name: self.name, forced, deleted, released, action: Action("delete") };
        Ok(Removal { item, shared: self.files.shared })
    }
}

/// Ends a domain of ours at once and removes it with its files.
pub fn remove(host: &Host, libvirt: &Libvirt, name: &str) -> Result<()> {
    let Some(domain) = names::find(libvirt, name)? else { return Ok(()) };
    let mut chains = Chains::visible(libvirt);
    let usage = Usage::collect(libvirt, &mut chains)?;
    let plan = Plan::new(host, libvirt, name.to_owned(), domain, false, &mut chains, &usage)?;
    plan.apply(host, libvirt, Duration::ZERO).map(drop)
}

/// The files of a domain that these tools made; none for one of others.
fn own_files(
    libvirt: &Libvirt,
    name: &str,
    domain: &Domain,
    foreign: bool,
    chains: &mut Chains,
    usage: &Usage,
) -> Result<OwnFiles> {
    let mut definitions = Vec::new();
    for flags in [0, sys::VIR_DOMAIN_XML_INACTIVE] {
        let text = domain.xml_desc(flags).context(format_args!("read domain '{name}'"))?;
        definitions.push(Definition::parse(text)?);
    }
    let nvram = definitions.iter().find_map(Definition::nvram);
    let is_shared = |file: &PathBuf| usage.of(file).iter().any(|user| user != name);
    let nvram_is_shared = nvram.as_ref().is_some_and(is_shared);
    match definitions.iter().any(Definition::is_managed) {
        true => {}
        false if foreign => return Ok(OwnFiles { nvram_is_shared, ..OwnFiles::default() }),
        false => {
            return Err(Error::conflict(format!("domain '{name}' was not made by these tools"))
                .hint("--foreign removes its definition and leaves its disks"));
        }
    }
    let mut snapshots = Vec::new();
    let doing = format_args!("read the snapshots of domain '{name}'");
    for snapshot in domain.list_all_snapshots(0).context(doing)? {
        snapshots.push(xml::Document::parse(snapshot.xml_desc(0).context(doing)?)?);
    }
    let mut files = OwnFiles::find(name, &definitions, &snapshots, chains, usage)?;
    files.nvram_is_shared = nvram_is_shared;
    let asking = format_args!("ask about domain '{name}'");
    if libvirt.is_local() && !domain.is_persistent().context(asking)? {
        // A transient domain goes by stopping; libvirt then leaves its firmware variables.
        files.delete.extend(nvram.filter(|_| !nvram_is_shared));
    }
    Ok(files)
}

/// Gets the guest off, by force when it does not go by itself. Returns whether force was used.
fn switch_off(domain: &Domain, name: &str, timeout: Duration) -> Result<bool> {
    if !power::is_active(domain, name)? {
        return Ok(false);
    }
    if !timeout.is_zero() {
        match power::shut_down(domain, name, timeout) {
            Ok(true) => return Ok(false),
            Ok(false) => {}
            // A paused or crashed guest cannot hear: there is nothing to wait for.
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) => return Err(error),
        }
    }
    power::cut_off(domain, name)?;
    Ok(true)
}

/// Removes the definition with everything libvirt keeps beside it.
///
/// Its firmware variables stay with `keep_nvram`: another domain's definition names the same file.
pub fn undefine(domain: &Domain, name: &str, keep_nvram: bool) -> Result<()> {
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
        Err(error) if is_gone(&error) => Ok(()), // a transient domain goes by stopping
        done => done.context(format_args!("undefine domain '{name}'")).map(drop),
    }
}

/// Deletes every file it can and returns those; those it cannot are in the error.
pub fn delete_files(libvirt: &Libvirt, name: &str, files: Vec<PathBuf>) -> Result<Vec<String>> {
    let mut deleted = Vec::new();
    let mut failed: Option<Error> = None;
    let mut left = Vec::new();
    for file in files {
        match overlay::delete_file(libvirt, &file) {
            Ok(true) => deleted.push(file.display().to_string()),
            Ok(false) => {}
            Err(error) => {
                left.push(file.display().to_string());
                failed = Some(failed.unwrap_or(error));
            }
        }
    }
    match failed {
        None => Ok(deleted),
        Some(error) => Err(error.applied([format!("undefined domain '{name}'")]).left_behind(left)),
    }
}
