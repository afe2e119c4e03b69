//! Changing the host devices in the definition of one domain.

use std::collections::BTreeSet;

use common::Result;
use common::cli::log;
use common::libvirt::{Context, Libvirt};
use common::system::pci::Bdf;
use common::xml::Document;
use tdx_gpu::vfio::hostdev;
use virt::sys;

use crate::passthrough::change::{hostdev_addresses, pci_hostdevs};
use crate::passthrough::plan::domain_plan::{DomainPlan, WHOLE, devices_of};

impl DomainPlan {
    /// Reads the current definition, with its secrets.
    pub(super) fn read(&self) -> Result<String> {
        self.domain.xml_desc(WHOLE).context(format_args!("read domain '{}'", self.name))
    }

    /// Restores the previous definition, without the ports that libvirt added.
    pub(super) fn restore_definition(&self, libvirt: &Libvirt) -> Result<()> {
        if self.read()? == self.before {
            return Ok(());
        }
        let doing = format_args!("define domain '{}'", self.name);
        log::step(doing);
        let validate = sys::VIR_DOMAIN_DEFINE_VALIDATE;
        libvirt.connect().define_domain_xml_flags(&self.before, validate).context(doing).map(drop)
    }

    /// Changes the devices in the definition one by one, and adds descriptions to `applied`.
    ///
    /// libvirt applies each change to the current definition. Defining the whole domain instead would revert
    /// changes that other commands made since the definition was read, and recreate a deleted domain.
    pub(super) fn edit(&self, applied: &mut Vec<String>) -> Result<()> {
        let before = Document::parse(self.before.as_str())?;
        for (bdf, node) in pci_hostdevs(before.root())? {
            if self.change.removed.contains(&bdf) {
                let doing = format!("remove {bdf} from the definition of domain '{}'", self.name);
                self.edit_one(bdf, node.source(), false, &doing)?;
                applied.push(doing);
            }
        }
        for bdf in &self.change.added {
            let element = hostdev::element(*bdf, self.change.way).to_xml()?;
            let doing = format!("add {bdf} to the definition of domain '{}'", self.name);
            self.edit_one(*bdf, &element, true, &doing)?;
            applied.push(doing);
        }
        Ok(())
    }

    /// Adds or removes one device. If another command did the same meanwhile, that is no error.
    fn edit_one(&self, bdf: Bdf, element: &str, gets: bool, doing: &str) -> Result<()> {
        log::step(doing);
        let config = sys::VIR_DOMAIN_AFFECT_CONFIG;
        let done = if gets {
            self.domain.attach_device_flags(element, config)
        } else {
            self.domain.detach_device_flags(element, config)
        };
        match done {
            Err(_) if self.devices_defined()?.contains(&bdf) == gets => Ok(()),
            done => done.context(doing).map(drop),
        }
    }

    /// Whether the definition has the planned devices.
    pub(super) fn is_as_planned(&self) -> Result<bool> {
        let wanted = Document::parse(self.change.xml.as_str())?;
        Ok(self.devices_defined()? == hostdev_addresses(wanted.root())?)
    }

    fn devices_defined(&self) -> Result<BTreeSet<Bdf>> {
        devices_of(&self.domain, &self.name, WHOLE)
    }
}
