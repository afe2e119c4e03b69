//! The devices that a passthrough configuration assigns to guests, found and checked on this machine.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use common::code::Level;
use common::document::Item;
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::{Code, Error, Result};
use schemars::JsonSchema;
use serde::Serialize;

use crate::inventory::Inventory;
use crate::inventory::pci_ids::{IdQuery, PciNames};
use crate::judge::Request;
use crate::judge::device_item::DeviceItem;
use crate::resolve::passthrough_config;
use crate::resolve::passthrough_config::{DeviceRequest, PassthroughConfig};
use crate::resolve::selection::{KnownDrivers, select_devices};

/// A guest with its devices, in a document of `tdx-iommu resolve`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ResolvedItem {
    /// The name of the guest.
    pub vm: String,
    /// The devices of the guest, sorted by PCI address.
    pub devices: Vec<ResolvedDevice>,
}

/// A device of a guest.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ResolvedDevice {
    /// The device. Its blockers are those that were forced; any other blocker is an error.
    #[serde(flatten)]
    pub device: DeviceItem,
    /// The number of the request that chose the device, from 1; null for a device that is only in the IOMMU group of a
    /// chosen device.
    pub request: Option<usize>,
}

impl Item for ResolvedItem {
    const COLUMNS: &'static [&'static str] = &["VM", "DEVICES"];
    const WRAPPED: &'static [&'static str] = &["DEVICES"];

    fn key(&self) -> Cow<'_, str> {
        self.vm.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let devices: Vec<String> = self.devices.iter().map(|d| d.device.bdf.to_string()).collect();
        vec![self.vm.clone(), devices.join(" ")]
    }
}

/// The guests of a passthrough configuration with their devices.
#[derive(Debug)]
pub struct Resolution {
    /// The requested guests, sorted by name.
    pub items: Vec<ResolvedItem>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

impl Resolution {
    /// Resolves the devices of each guest in the file, or of the guests that `vms` names.
    ///
    /// A request that matches too few devices is an error, unless the request is optional. A device that two requests
    /// of a guest choose counts once, with a warning. A device that two guests get is a warning.
    /// Errors: those of [`passthrough_config::read`]; `not_found` for a guest that the file does not have, and for a
    /// request that matches too few devices; `conflict` with the code of a blocker.
    pub fn new(host: &Host, config: &Path, vms: &[String], force: &[Code]) -> Result<Self> {
        let Chosen { named, others } = Chosen::new(passthrough_config::read(config)?, vms, config)?;
        let mut resolver = Resolver::new(host, named.values().chain(others.values()).flatten())?;
        for (vm, requests) in &others {
            resolver.add_owner(vm, requests);
        }
        let mut items = Vec::new();
        for (vm, requests) in &named {
            items.push(resolver.resolve_guest(vm, requests, force)?);
        }
        Ok(Self { items, warnings: resolver.warnings })
    }
}

/// The guests of a configuration, divided into requested guests and others.
struct Chosen {
    named: PassthroughConfig,
    others: PassthroughConfig,
}

impl Chosen {
    /// Divides the guests. An empty `vms` requests all.
    ///
    /// Errors: `not_found` for a guest that the file does not have.
    fn new(mut others: PassthroughConfig, vms: &[String], config: &Path) -> Result<Self> {
        if vms.is_empty() {
            return Ok(Self { named: others, others: PassthroughConfig::new() });
        }
        let mut named = PassthroughConfig::new();
        for vm in vms {
            match others.remove_entry(vm) {
                Some((vm, requests)) => drop(named.insert(vm, requests)),
                None if named.contains_key(vm) => {}
                None => {
                    let known: Vec<&str> =
                        named.keys().chain(others.keys()).map(String::as_str).collect();
                    let error =
                        Error::not_found(format!("guest '{vm}' not found in {}", config.display()));
                    return Err(error.hint(format!("known guests: {}", known.join(", "))));
                }
            }
        }
        Ok(Self { named, others })
    }
}

/// The machine, and the guest that each device was assigned to so far.
struct Resolver<'h> {
    inventory: Inventory,
    names: PciNames,
    drivers: KnownDrivers<'h>,
    owners: BTreeMap<Bdf, String>,
    warnings: Vec<String>,
}

impl<'h> Resolver<'h> {
    /// Reads the machine. Devices in D3cold are woken if a request needs serial numbers.
    fn new<'r>(
        host: &'h Host,
        mut requests: impl Iterator<Item = &'r DeviceRequest>,
    ) -> Result<Self> {
        let mut inventory = Inventory::read(host)?;
        let names = PciNames::read(host, &IdQuery::for_devices(inventory.devices.values()))?;
        if requests.any(DeviceRequest::is_by_serial) {
            // A device in D3cold does not show its serial number and has to be woken.
            let asleep: Vec<Bdf> =
                inventory.devices.values().filter(|d| d.asleep).map(|d| d.bdf).collect();
            inventory.wake(host, asleep);
        }
        let warnings = inventory.problems.clone();
        let drivers = KnownDrivers::new(host);
        Ok(Self { inventory, names, drivers, owners: BTreeMap::new(), warnings })
    }

    /// Records the devices of a guest that was not requested. Mistakes in its requests are ignored.
    fn add_owner(&mut self, vm: &str, requests: &[DeviceRequest]) {
        let devices = requests.iter().filter_map(|request| self.select(request).ok()).flatten();
        let devices = with_groups(&self.inventory, devices);
        self.owners.extend(devices.into_iter().map(|bdf| (bdf, vm.to_owned())));
    }

    fn select(&self, request: &DeviceRequest) -> Result<Vec<Bdf>, String> {
        select_devices(&self.inventory, request, &self.drivers, &self.names)
    }

    /// Finds the devices of a guest and checks whether they can be given to it.
    ///
    /// Errors: `not_found` for a request that matches too few devices; those of [`judge_devices`].
    fn resolve_guest(
        &mut self,
        vm: &str,
        requests: &[DeviceRequest],
        force: &[Code],
    ) -> Result<ResolvedItem> {
        let chosen_by = self.devices_by_request(vm, requests)?;
        let devices = with_groups(&self.inventory, chosen_by.keys().copied());
        for bdf in &devices {
            if let Some(other) = self.owners.insert(*bdf, vm.to_owned()) {
                self.warnings.push(format!(
                    "domains '{other}' and '{vm}' both get {bdf}: only one of them can run"
                ));
            }
        }
        let is_forced = |_, code| force.contains(&code);
        let Judged { mut forced, warnings } =
            judge_devices(&self.inventory, &devices, vm, is_forced)?;
        self.warnings.extend(warnings);
        let device = |bdf: &Bdf| {
            let device = self.inventory.devices.get(bdf)?;
            let blockers = forced.remove(bdf).unwrap_or_default();
            let device = DeviceItem::new(device, &self.names, blockers);
            Some(ResolvedDevice { device, request: chosen_by.get(bdf).copied() })
        };
        let devices = devices.iter().filter_map(device).collect();
        Ok(ResolvedItem { vm: vm.to_owned(), devices })
    }

    /// The devices that the requests of a guest choose, each with the number of the first request that chooses it,
    /// from 1.
    fn devices_by_request(
        &mut self,
        vm: &str,
        requests: &[DeviceRequest],
    ) -> Result<BTreeMap<Bdf, usize>> {
        let mut chosen_by = BTreeMap::new();
        for (index, request) in requests.iter().enumerate() {
            let number = index + 1;
            let devices = self
                .select(request)
                .map_err(|why| Error::not_found(format!("request {number} of guest {vm} {why}")))?;
            for bdf in devices {
                let first = *chosen_by.entry(bdf).or_insert(number);
                if first != number {
                    self.warnings.push(format!(
                        "requests {first} and {number} of guest {vm} both select {bdf}; the guest gets the device once"
                    ));
                }
            }
        }
        Ok(chosen_by)
    }
}

/// The devices, with all other devices of their IOMMU groups that are not bridges.
fn with_groups(inventory: &Inventory, devices: impl Iterator<Item = Bdf>) -> BTreeSet<Bdf> {
    let mut all = BTreeSet::new();
    for bdf in devices {
        all.insert(bdf);
        let group = inventory.devices.get(&bdf).and_then(|device| inventory.group(device));
        let members = group.into_iter().flat_map(|group| group.members.iter().copied());
        let endpoint = |bdf: &Bdf| inventory.devices.get(bdf).is_some_and(|d| !d.is_bridge);
        all.extend(members.filter(endpoint));
    }
    all
}

/// The result of a check of devices for one guest.
#[derive(Debug)]
pub struct Judged {
    /// The codes that were forced, by device.
    pub forced: BTreeMap<Bdf, Vec<Code>>,
    /// A warning for each forced code.
    pub warnings: Vec<String>,
}

/// Checks whether these devices can be given to one guest together. Open files are not checked, because the guest
/// itself may be running with the devices.
///
/// Errors: `conflict` with the code of the first blocker that is not forced.
pub fn judge_devices(
    inventory: &Inventory,
    devices: &BTreeSet<Bdf>,
    vm: &str,
    is_forced: impl Fn(Bdf, Code) -> bool,
) -> Result<Judged> {
    let mut judged = Judged { forced: BTreeMap::new(), warnings: Vec::new() };
    for finding in Request::exactly(inventory, devices.clone()).findings() {
        let (code, bdf) = (finding.code, finding.bdf);
        match code.level() {
            Level::Note => {}
            Level::Forceable if is_forced(bdf, code) => {
                judged.warnings.push(format!(
                    "{vm}: {bdf}: {} ({})",
                    finding.message,
                    code.as_str()
                ));
                judged.forced.entry(bdf).or_default().push(code);
            }
            level => {
                let message =
                    format!("device {bdf} cannot be given to guest {vm}: {}", finding.message);
                let hint = match level {
                    Level::Forceable => {
                        format!("to accept the device nevertheless, add --force {}", code.as_str())
                    }
                    _ => format!("to see all blockers and warnings, run tdx-iommu check {bdf}"),
                };
                return Err(Error::conflict(message).code(code).hint(hint));
            }
        }
    }
    Ok(judged)
}
