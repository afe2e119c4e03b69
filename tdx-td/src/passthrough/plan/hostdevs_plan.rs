//! The plan of `hostdevs`: the device changes of several domains.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use common::cli::interrupt;
use common::libvirt::{Context, Libvirt};
use common::system::pci::Bdf;
use common::system::sysroot;
use common::xml::{Document, host_address};
use common::{Error, Result};
use tdx_gpu::vfio::hostdev::HostdevOptions;

use crate::domain::{lookup, power};
use crate::passthrough::change::HostdevsChange;
use crate::passthrough::item::HostdevsItem;
use crate::passthrough::plan::domain_plan::{DomainPlan, WHOLE, all_devices_of};
use crate::passthrough::resolution::DomainDevices;

/// The plan of `hostdevs`.
#[derive(Debug)]
pub struct HostdevsPlan {
    pub(super) domains: Vec<DomainPlan>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// Warnings about devices that several of the domains get. The resolution of a file has them as well.
    pub shared: Vec<String>,
}

impl HostdevsPlan {
    /// Plans the changes after which each domain has exactly its wanted devices.
    ///
    /// Errors: `not_found` for a domain that does not exist; `conflict` for a transient domain, for a domain that
    /// is named twice, and for a domain with a device whose address cannot be parsed; `conflict` with code
    /// `IN_USE_BY_VM` for a device to attach to a guest while another one runs with it, and
    /// with code `IDENTITY_CHANGED` for a domain other than the one that an item describes.
    pub fn new(
        libvirt: &Libvirt,
        host_name: Option<&str>,
        wanted: &[DomainDevices],
        keep: &BTreeSet<Bdf>,
        way: HostdevOptions,
        live: bool,
    ) -> Result<Self> {
        let mut plan = Self { domains: Vec::new(), warnings: Vec::new(), shared: Vec::new() };
        for DomainDevices { domain, devices } in wanted {
            let (name, domain) = (&domain.name, domain.get(libvirt, host_name)?);
            let uuid = lookup::uuid(&domain)?;
            let doing = format_args!("read domain '{name}'");
            if !domain.is_persistent().context(doing)? {
                return Err(Error::conflict(format!("domain '{name}' is transient")).hint(
                    "make the domain persistent first: virsh define FILE, with its XML in FILE",
                ));
            }
            if plan.domains.iter().any(|planned| planned.name == *name) {
                return Err(Error::conflict(format!("domain '{name}' is listed twice")));
            }
            let before = domain.xml_desc(WHOLE).context(doing)?;
            let document = Document::parse(before.as_str())?;
            let change = HostdevsChange::new(&document, devices, keep, way)
                .map_err(|error| host_address::in_domain(name, error))?;
            let running = power::is_active(&domain, name)?;
            let (mut plug, mut unplug) = (BTreeSet::new(), BTreeSet::new());
            if running && live {
                let (has, inside) = all_devices_of(&domain, name)?;
                plug = devices
                    .iter()
                    .filter(|d| !has.contains(d) && !inside.contains(d) && !keep.contains(d))
                    .copied()
                    .collect();
                unplug =
                    has.into_iter().filter(|d| !devices.contains(d) && !keep.contains(d)).collect();
            } else if running && change.xml != before {
                plan.warnings.push(format!(
                    "domain '{name}' is running: the change takes effect at its next start"
                ));
            }
            let diff = change.diff(&before, name);
            let name = name.clone();
            plan.domains.push(DomainPlan {
                name,
                uuid,
                domain,
                before,
                change,
                diff,
                running,
                plug,
                unplug,
            });
        }
        plan.check_others(libvirt)?;
        Ok(plan)
    }

    /// Returns the names of the domains that would be changed.
    pub fn changed(&self) -> Vec<String> {
        let changed = self.domains.iter().filter(|planned| planned.changes());
        changed.map(|planned| planned.name.clone()).collect()
    }

    /// Returns the changes of the definitions, as diffs.
    pub fn diffs(&self) -> impl Iterator<Item = &str> {
        self.domains.iter().map(|planned| planned.diff.as_str())
    }

    /// Writes the proposed definitions, with their passwords, each to a new file that only its owner can read:
    /// `debug.xml` becomes `debug_NAME.xml`.
    ///
    /// Errors: `permission`, `io`.
    pub fn write_proposals(&self, path: &Path) -> Result<()> {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy()));
        for planned in &self.domains {
            let name =
                format!("{stem}_{}{}", planned.name, extension.as_deref().unwrap_or_default());
            let path = path.with_file_name(name);
            sysroot::replace(&path, &planned.change.xml, 0o600)?;
        }
        Ok(())
    }

    /// Returns the items of the domains.
    pub fn items(&self) -> Vec<HostdevsItem> {
        self.domains.iter().map(DomainPlan::item).collect()
    }

    /// Changes the domains, one after another. If one fails, all changes are undone.
    ///
    /// Errors: `conflict` for a definition that was changed since it was planned, and for a guest that does not
    /// release a device; those of libvirt. The error names domains whose changes could not be undone.
    pub fn apply(self, libvirt: &Libvirt, timeout: Duration) -> Result<Vec<HostdevsItem>> {
        let mut done: Vec<&DomainPlan> = Vec::new();
        for planned in self.domains.iter().filter(|planned| planned.changes()) {
            let changed = interrupt::check().and_then(|()| planned.apply(libvirt, timeout));
            if let Err(error) = changed {
                let is_left = |planned: &&&DomainPlan| planned.undo(libvirt, timeout).is_err();
                let left = done.iter().rev().filter(is_left);
                let left: Vec<String> =
                    left.map(|planned| format!("domain '{}'", planned.name)).collect();
                return Err(error.left_behind(left));
            }
            done.push(planned);
        }
        Ok(self.items())
    }
}
