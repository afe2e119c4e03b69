//! A domain as it is at one moment, with all that its deletion depends on.

use std::path::PathBuf;

use common::libvirt::{Context, Libvirt};
use common::{Error, ErrorKind, Result, xml};
use tdx_pool::pool::Pool;
use tdx_pool::references::usage::Usage;
use virt::domain::Domain;

use crate::domain::definition::Definition;
use crate::domain::{definition, power};
use crate::remove::owned_files::{DeletionBasis, DeletionCandidate, OwnedFiles};

/// A domain that is there.
#[derive(Debug)]
pub(super) struct ObservedDomain {
    /// libvirt's handle: it leads to the domain with this UUID, whatever has its name.
    pub(super) domain: Domain,
    /// The definition that it starts with.
    pub(super) definition: Definition,
    /// Whether it stays when its guest is off.
    pub(super) is_persistent: bool,
    /// Where its firmware variables are, or may be.
    nvram: Vec<PathBuf>,
    files: OwnedFiles,
}

impl ObservedDomain {
    /// Reads a domain; none when there is none, or it goes away meanwhile.
    ///
    /// Errors: `conflict` for a domain of others, unless `foreign` says to remove its definition alone.
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
            return Err(Error::conflict(format!("domain '{name}' was not made by these tools"))
                .hint("--foreign removes its definition and leaves its disks"));
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
            // The tools name files, not volumes.
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
            domain.is_persistent().context(format_args!("ask about domain '{name}'"))?;
        let mut observed = Self { domain, definition, is_persistent, nvram, files };
        if libvirt.is_local() && !is_persistent && observed.definition.is_managed() {
            // A transient domain goes by stopping; libvirt then leaves its firmware variables.
            let candidate =
                |path| DeletionCandidate { path, basis: DeletionBasis::FirmwareVariables };
            observed.files.candidates.extend(observed.nvram.clone().into_iter().map(candidate));
        }
        Ok(observed)
    }

    /// Its UUID.
    pub(super) fn uuid(&self) -> String {
        self.definition.uuid()
    }

    /// Whether it has firmware variables.
    pub(super) fn has_nvram(&self) -> bool {
        !self.nvram.is_empty()
    }

    /// The other domains that need its firmware variables.
    pub(super) fn nvram_users(&self, name: &str, usage: &Usage) -> Vec<String> {
        let users = self.nvram.iter().flat_map(|nvram| usage.users_of(nvram));
        users.filter(|user| user != name).collect()
    }

    /// Its files. Firmware variables that other domains need are among those that stay.
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

/// Where libvirt has the firmware variables of a domain whose definition does not say it, as up to
/// libvirt 9 those of a domain that is off.
///
/// Source: libvirt, `qemuDomainNVRAMPathFormat`.
fn usual_nvram(name: &str) -> Vec<PathBuf> {
    let path = |extension| format!("/var/lib/libvirt/qemu/nvram/{name}_VARS.{extension}").into();
    ["fd", "qcow2"].map(path).into()
}
