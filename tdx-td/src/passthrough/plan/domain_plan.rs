//! The device changes of one domain: planning, applying and undoing them.

use std::collections::BTreeSet;
use std::time::Duration;

use common::document::Action;
use common::libvirt::{Context, Libvirt};
use common::system::pci::Bdf;
use common::xml::{Document, host_address};
use common::{Error, ErrorKind, Result};
use virt::domain::Domain;
use virt::sys;

use crate::passthrough::change::{HostdevsChange, devices_behind, hostdev_addresses};
use crate::passthrough::item::HostdevsItem;

/// The flags to read an inactive definition with its secrets, so that these are not lost.
pub(super) const WHOLE: u32 = sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE;

/// The device changes of one domain.
#[derive(Debug)]
pub(super) struct DomainPlan {
    pub(super) name: String,
    pub(super) uuid: String,
    pub(super) domain: Domain,
    pub(super) before: String,
    pub(super) change: HostdevsChange,
    pub(super) diff: String,
    pub(super) running: bool,
    /// Devices to attach to the running guest.
    pub(super) plug: BTreeSet<Bdf>,
    /// Devices to detach from the running guest.
    pub(super) unplug: BTreeSet<Bdf>,
}

impl DomainPlan {
    pub(super) fn changes(&self) -> bool {
        self.change.xml != self.before || !self.plug.is_empty() || !self.unplug.is_empty()
    }

    pub(super) fn item(&self) -> HostdevsItem {
        let list = |set: &BTreeSet<Bdf>| set.iter().copied().collect::<Vec<Bdf>>();
        HostdevsItem {
            name: self.name.clone(),
            uuid: self.uuid.clone(),
            added: list(&self.change.added),
            removed: list(&self.change.removed),
            kept: list(&self.change.kept),
            live: self.plug.union(&self.unplug).copied().collect(),
            running: self.running,
            diff: self.diff.clone(),
            action: if self.changes() { Action::Update } else { Action::None },
        }
    }

    pub(super) fn apply(&self, libvirt: &Libvirt, timeout: Duration) -> Result<()> {
        if self.read()? != self.before {
            return Err(self.changed_by_others());
        }
        let mut applied = Vec::new();
        let error = match self.edit(&mut applied) {
            Ok(()) if !self.is_as_planned()? => {
                // The changes of another command are not undone.
                return Err(self.changed_by_others().applied(applied));
            }
            Ok(()) => match self.replug(&self.unplug, &self.plug, timeout) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            },
            // The domain was deleted.
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(error),
            Err(error) => error,
        };
        match self.restore_definition(libvirt) {
            Ok(()) => Err(error),
            Err(_) => Err(error.left_behind([format!("domain '{}'", self.name)])),
        }
    }

    fn changed_by_others(&self) -> Error {
        let message = format!("another program changed domain '{}' at the same time", self.name);
        Error::conflict(message).hint("run the command again")
    }

    pub(super) fn undo(&self, libvirt: &Libvirt, timeout: Duration) -> Result<()> {
        self.restore_definition(libvirt)?;
        let steps = self.plug.iter().map(|bdf| (*bdf, false));
        let steps = steps.chain(self.unplug.iter().map(|bdf| (*bdf, true)));
        // All steps are undone, also after a signal.
        let turned = steps.map(|(bdf, gets)| self.plug_or_unplug(bdf, gets, timeout, false));
        turned.fold(Ok(()), Result::and)
    }
}

/// Reads the host PCI devices of a domain's definition.
pub(super) fn devices_of(domain: &Domain, name: &str, flags: u32) -> Result<BTreeSet<Bdf>> {
    let text = domain.xml_desc(flags).context(format_args!("read domain '{name}'"))?;
    hostdev_addresses(Document::parse(text)?.root())
        .map_err(|error| host_address::in_domain(name, error))
}

/// Reads the host PCI devices of a domain, live ones if it runs. Returns those that are hostdevs, and those that
/// are its network cards and disks.
pub(super) fn all_devices_of(
    domain: &Domain,
    name: &str,
) -> Result<(BTreeSet<Bdf>, BTreeSet<Bdf>)> {
    let text = domain.xml_desc(0).context(format_args!("read domain '{name}'"))?;
    let document = Document::parse(text)?;
    let root = document.root();
    let unclear = |error| host_address::in_domain(name, error);
    Ok((hostdev_addresses(root).map_err(unclear)?, devices_behind(root).map_err(unclear)?))
}
