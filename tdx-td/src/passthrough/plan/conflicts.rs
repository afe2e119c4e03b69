//! Finds devices that two domains would use at the same time.

use std::collections::BTreeMap;

use common::libvirt::{Context, Libvirt};
use common::system::pci::Bdf;
use common::{Code, Error, ErrorKind, Result, parallel};
use virt::domain::Domain;

use crate::domain::power;
use crate::passthrough::plan::domain_plan::all_devices_of;
use crate::passthrough::plan::hostdevs_plan::HostdevsPlan;

impl HostdevsPlan {
    /// Fails for devices that two running guests would use. Warns of devices that are in the definitions of two
    /// domains: only one of them can run.
    pub(super) fn check_others(&mut self, libvirt: &Libvirt) -> Result<()> {
        let mut receivers = BTreeMap::<Bdf, &str>::new();
        for planned in &self.domains {
            let name = planned.name.as_str();
            for bdf in planned.change.added.union(&planned.plug) {
                let Some(other) = receivers.insert(*bdf, name) else { continue };
                let both_run = planned.plug.contains(bdf)
                    && self.domains.iter().any(|p| p.name == other && p.plug.contains(bdf));
                if both_run {
                    return Err(Error::conflict(format!(
                        "domains '{other}' and '{name}' would both use {bdf} while running"
                    ))
                    .hint("to change only the definitions of the domains, omit --live"));
                }
                self.shared.push(format!(
                    "domains '{other}' and '{name}' both get {bdf}: only one of them can run"
                ));
            }
        }
        if receivers.is_empty() {
            return Ok(());
        }
        let look = |domain: Domain| {
            let name = domain.name().context("list domains")?;
            let active = power::is_active(&domain, &name)?;
            let (mut devices, mut inside) = all_devices_of(&domain, &name)?;
            devices.append(&mut inside);
            Ok::<_, Error>((name, active, devices))
        };
        let domains = libvirt.connect().list_all_domains(0).context("list domains")?;
        let mut warnings = Vec::new();
        for other in parallel::map(domains, parallel::DOMAINS, look) {
            let (name, active, devices) = match other {
                // The domain was deleted meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                other => other?,
            };
            let planned = self.domains.iter().find(|planned| planned.name == name);
            let leaves = planned.map(|p| if active { &p.unplug } else { &p.change.removed });
            let stays = |bdf: &Bdf| {
                receivers.get(bdf).is_some_and(|receiver| *receiver != name)
                    && leaves.is_none_or(|leaves| !leaves.contains(bdf))
            };
            let is_plugged = |bdf: &Bdf| self.domains.iter().any(|p| p.plug.contains(bdf));
            for bdf in devices.into_iter().filter(stays) {
                if active && is_plugged(&bdf) {
                    return Err(Error::conflict(format!("running domain '{name}' uses {bdf}"))
                        .code(Code::InUseByVm)
                        .hint(format!("tdx-td stop {name}")));
                }
                let has = if active { "is running and uses" } else { "has a definition with" };
                let receiver = receivers.get(&bdf).copied().unwrap_or_default();
                warnings.push(format!(
                    "domain '{name}' {has} {bdf}: only one of '{name}' and '{receiver}' can run"
                ));
            }
        }
        self.warnings.append(&mut warnings);
        Ok(())
    }
}
