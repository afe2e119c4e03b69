//! The state of a domain, with everything that its deletion depends on.

use std::path::PathBuf;

use common::libvirt::{Context, Libvirt};
use common::{Error, ErrorKind, Result, xml};
use tdx_pool::pool::Pool;
use tdx_pool::references::usage::Usage;
use virt::domain::Domain;

use crate::domain::definition::Definition;
use crate::domain::{definition, power};
use crate::remove::owned_files::{DeletionBasis, DeletionCandidate, OwnedFiles};

/// An existing domain.
#[derive(Debug)]
pub(super) struct ObservedDomain {
    /// libvirt's handle, which identifies the domain by its UUID.
    pub(super) domain: Domain,
    /// The inactive definition.
    pub(super) definition: Definition,
    /// Whether the domain is persistent.
    pub(super) is_persistent: bool,
    /// The possible paths of the firmware variables.
    nvram: Vec<PathBuf>,
    files: OwnedFiles,
}

impl ObservedDomain {
    /// Reads a domain; `None` if it does not exist, or is deleted meanwhile.
    ///
    /// Errors: `conflict` for a domain that other programs created, unless `foreign` is true.
    pub(super) fn read(
        libvirt: &Libvirt,
        name: &str,
        domain: Option<Domain>,
        foreign: bool,
    ) -> Result<Option<Self>> {
        let Some(domain) = domain else { return Ok(None) };
        match Self::read_existing(libvirt, name, domain, foreign) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            observed => observed.map(Some),
        }
    }

    fn read_existing(libvirt: &Libvirt, name: &str, domain: Domain, foreign: bool) -> Result<Self> {
        let definition = definition::inactive(&domain, name)?;
        if !definition.is_managed() && !foreign {
            return Err(Error::conflict(format!("domain '{name}' was not created by these tools"))
                .hint("add --foreign to delete its definition and keep its disks"));
        }
        let live = if power::is_active(&domain, name)? {
            Some(definition::active(&domain, name)?)
        } else {
            None
        };
        let mut snapshots = Vec::new();
        let doing = format_args!("read the snapshots of domain '{name}'");
        for snapshot in domain.list_all_snapshots(0).context(doing)? {
            snapshots.push(xml::Document::parse(snapshot.xml_desc(0).context(doing)?)?);
        }
        let mut files = OwnedFiles::find(&definition, live.as_ref(), &snapshots);
        for (pool, volume) in definition.volumes() {
            // Definitions of these tools name files, not volumes, so the volume is not one of theirs.
            let folder = Pool::by_name(libvirt, &pool)?.and_then(|pool| pool.path);
            files.keep_unlisted(folder.map(|folder| folder.join(volume)));
        }
        let nvram = live.as_ref().and_then(Definition::nvram).or_else(|| definition.nvram());
        let nvram = match nvram {
            Some(nvram) => vec![nvram],
            None if definition.has_uefi() => usual_nvram(name),
            None => Vec::new(),
        };
        let is_persistent =
            domain.is_persistent().context(format_args!("read the state of domain '{name}'"))?;
        let mut observed = Self { domain, definition, is_persistent, nvram, files };
        if libvirt.is_local() && !is_persistent && observed.definition.is_managed() {
            // A transient domain disappears when it stops, and libvirt does not delete its firmware variables.
            let candidate =
                |path| DeletionCandidate { path, basis: DeletionBasis::FirmwareVariables };
            observed.files.candidates.extend(observed.nvram.clone().into_iter().map(candidate));
        }
        Ok(observed)
    }

    /// Returns the UUID of the domain.
    pub(super) fn uuid(&self) -> String {
        self.definition.uuid()
    }

    /// Whether the domain has firmware variables.
    pub(super) fn has_nvram(&self) -> bool {
        !self.nvram.is_empty()
    }

    /// Returns the other domains that use the firmware variables.
    pub(super) fn nvram_users(&self, name: &str, usage: &Usage) -> Vec<String> {
        let users = self.nvram.iter().flat_map(|nvram| usage.users_of(nvram));
        users.filter(|user| user != name).collect()
    }

    /// Returns the files of the domain. Firmware variables that other domains use are kept.
    pub(super) fn files(&self, name: &str, usage: &Usage) -> OwnedFiles {
        let mut files = self.files.clone();
        for nvram in self.nvram.iter().filter(|_| self.is_persistent) {
            let users = usage.users_of(nvram).into_iter().filter(|user| user != name);
            let users: Vec<String> = users.map(|user| format!("domain '{user}'")).collect();
            if !users.is_empty() {
                files.kept.push((nvram.clone(), format!("needed by {}", users.join(", "))));
            }
        }
        files
    }
}

/// Returns the default paths of a domain's firmware variables, for a definition without a path. Up to libvirt 9
/// these are definitions of domains that are shut off.
///
/// Source: libvirt, `qemuDomainNVRAMPathFormat`.
fn usual_nvram(name: &str) -> Vec<PathBuf> {
    let path = |extension| format!("/var/lib/libvirt/qemu/nvram/{name}_VARS.{extension}").into();
    ["fd", "qcow2"].map(path).into()
}
