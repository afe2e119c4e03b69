//! `tdx-iommu resolve`: the devices that a file says guests are to have.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use common::code::Level;
use common::device_state::bound_devices;
use common::document::output::Outcome;
use common::document::{Document, Item};
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::{Code, Error, Result};
use schemars::JsonSchema;
use serde::Serialize;

use crate::commands::scan::DeviceItem;
use crate::inventory::Inventory;
use crate::inventory::device::Device;
use crate::inventory::pci_ids::{Names, Wanted};
use crate::judge::Request;
use crate::resolve::passthrough_config::{Criterion, Select, Wish, Wishes};
use crate::resolve::{modalias, passthrough_config};

/// The file where none is named.
pub const CONFIG: &str = "passthrough_config.yaml";

/// Arguments of `resolve`.
#[derive(Debug, Args)]
pub struct ResolveArgs {
    /// What guests are to have
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
    /// Only this guest (repeatable)
    #[arg(long, value_name = "NAME")]
    vm: Vec<String>,
    /// Take a device in spite of this code (repeatable)
    #[arg(long, value_name = "CODE", value_parser = Code::to_force)]
    force: Vec<Code>,
}

/// A guest and the devices it is to have.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ResolvedItem {
    /// The guest's name.
    pub vm: String,
    /// Its devices, sorted by address.
    pub devices: Vec<ResolvedDevice>,
}

/// A device that a guest is to have.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ResolvedDevice {
    /// The device; its blockers are those that a warning tells of, what stops it for certain is an error.
    #[serde(flatten)]
    pub device: DeviceItem,
    /// The number of the request that chose it, from 1; null for one that is in the group of another.
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

/// Finds the devices and judges whether guests can have them.
pub fn run(host: &Host, args: ResolveArgs) -> Result<Outcome> {
    let (items, warnings) = resolve(host, &args.config, &args.vm, &args.force)?;
    Ok(Document::new("tdx.iommu.resolution", items).warnings(warnings).into())
}

/// The devices of each guest in the file, or of those that are named, and warnings.
///
/// A request that matches nothing stops everything, unless it is optional.
/// Errors: those of [`passthrough_config::read`]; `not_found` for a guest that the file does not name, and for a
/// request that matches too few; `conflict` with its code for what stands in the way. A device that two
/// requests choose counts once, and one that two guests get is a warning.
pub fn resolve(
    host: &Host,
    config: &Path,
    vms: &[String],
    force: &[Code],
) -> Result<(Vec<ResolvedItem>, Vec<String>)> {
    let (wishes, others) = chosen(passthrough_config::read(config)?, vms, config)?;
    let mut inventory = Inventory::read(host)?;
    let names = Names::read(host, &Wanted::of(inventory.devices.values()))?;
    let drivers = Drivers::new(host);
    let by_serial = wishes.values().chain(others.values()).flatten().any(Wish::is_by_serial);
    if by_serial {
        // One that sleeps does not show its serial number, and is not another device for that.
        let asleep: Vec<Bdf> =
            inventory.devices.values().filter(|d| d.asleep).map(|d| d.bdf).collect();
        inventory.wake(host, asleep);
    }
    let mut warnings = inventory.problems.clone();
    let mut owners = BTreeMap::new();
    for (vm, wishes) in &others {
        // A guest that is not asked about has its devices all the same; its mistakes are ignored.
        let devices = |wish| select(&inventory, wish, |device| drivers.of(device), &names);
        let devices = wishes.iter().filter_map(|wish| devices(wish).ok()).flatten();
        owners.extend(with_groups(&inventory, devices).into_iter().map(|bdf| (bdf, vm.clone())));
    }
    let mut items = Vec::new();
    for (vm, wishes) in &wishes {
        let mut requests = BTreeMap::new();
        for (number, wish) in wishes.iter().enumerate() {
            let number = number + 1;
            let devices = select(&inventory, wish, |device| drivers.of(device), &names)
                .map_err(|why| Error::not_found(format!("request {number} of {vm} {why}")))?;
            for bdf in devices {
                let first = *requests.entry(bdf).or_insert(number);
                if first != number {
                    warnings.push(format!(
                        "requests {first} and {number} of {vm} both choose {bdf}, which counts once"
                    ));
                }
            }
        }
        let all = with_groups(&inventory, requests.keys().copied());
        for bdf in &all {
            if let Some(other) = owners.insert(*bdf, vm.clone()) {
                warnings.push(format!("{other} and {vm} both get {bdf}: only one of them can run"));
            }
        }
        let is_forced = |_, code| force.contains(&code);
        let mut blockers =
            judged(&inventory, &all, vm, is_forced, |warning| warnings.push(warning))?;
        let device = |bdf: &Bdf| {
            let device = inventory.devices.get(bdf)?;
            let blockers = blockers.remove(bdf).unwrap_or_default();
            let device = DeviceItem::new(device, &names, blockers);
            Some(ResolvedDevice { device, request: requests.get(bdf).copied() })
        };
        items.push(ResolvedItem {
            vm: vm.clone(),
            devices: all.iter().filter_map(device).collect(),
        });
    }
    Ok((items, warnings))
}

/// The guests that are named, or all; and the others.
fn chosen(mut wishes: Wishes, vms: &[String], config: &Path) -> Result<(Wishes, Wishes)> {
    if vms.is_empty() {
        return Ok((wishes, Wishes::new()));
    }
    let mut chosen = Wishes::new();
    for vm in vms {
        match wishes.remove_entry(vm) {
            Some((vm, wish)) => drop(chosen.insert(vm, wish)),
            None if chosen.contains_key(vm) => {}
            None => {
                let known: Vec<&str> =
                    chosen.keys().chain(wishes.keys()).map(String::as_str).collect();
                let error = Error::not_found(format!("{} has no vm '{vm}'", config.display()));
                return Err(error.hint(format!("it has {}", known.join(", "))));
            }
        }
    }
    Ok((chosen, wishes))
}

/// The devices that a wish chooses, or why there are none.
fn select(
    inventory: &Inventory,
    wish: &Wish,
    drivers: impl Fn(&Device) -> Vec<String>,
    names: &Names,
) -> Result<Vec<Bdf>, String> {
    let matches = |device: &&Device| {
        // A bridge cannot be given away, whatever is asked for.
        !device.is_bridge && wish.criteria.iter().all(|c| holds(c, device, &drivers, names))
    };
    let found: Vec<Bdf> = inventory.devices.values().filter(matches).map(|d| d.bdf).collect();
    let count = found.len();
    match wish.select {
        _ if count == 0 && wish.optional => Ok(found),
        _ if count == 0 => Err("matches no device".to_owned()),
        Select::All => Ok(found),
        Select::First(wanted) if wanted <= count => Ok(found.into_iter().take(wanted).collect()),
        Select::Index(index) if index < count => Ok(vec![found[index]]),
        _ if wish.optional => Ok(Vec::new()),
        Select::First(wanted) => Err(format!("matches {count} devices, not {wanted}")),
        Select::Index(index) => Err(format!("matches {count} devices: there is no number {index}")),
    }
}

fn holds(
    criterion: &Criterion,
    device: &Device,
    drivers: impl Fn(&Device) -> Vec<String>,
    names: &Names,
) -> bool {
    match criterion {
        Criterion::Vendor(id) => device.vendor == Some(*id),
        Criterion::Device(id) => device.device == Some(*id),
        Criterion::SubsystemVendor(id) => device.subsystem_vendor == Some(*id),
        Criterion::SubsystemDevice(id) => device.subsystem_device == Some(*id),
        Criterion::Class(prefix) => device.class.is_some_and(|class| prefix.matches(class)),
        Criterion::Driver(name) => drivers(device).iter().any(|d| d.eq_ignore_ascii_case(name)),
        Criterion::Address(bdf) => device.bdf == *bdf,
        Criterion::Path(path) => device.path.as_ref() == Some(path),
        Criterion::Serial(serial) => device.serial.as_ref() == Some(serial),
        Criterion::Name(regex) => {
            let vendor = device.vendor.and_then(|vendor| names.vendor(vendor));
            let name = device.vendor.zip(device.device).and_then(|(v, d)| names.device(v, d));
            regex.is_match(&[vendor, name].into_iter().flatten().collect::<Vec<_>>().join(" "))
        }
    }
}

/// The drivers by which a device is known: the one it has and, for one that VFIO has, those it had or would
/// have without. Otherwise the same file would choose other devices once it was applied.
struct Drivers<'h> {
    host: &'h Host,
    aliases: std::cell::OnceCell<String>,
}

impl<'h> Drivers<'h> {
    fn new(host: &'h Host) -> Self {
        Self { host, aliases: std::cell::OnceCell::new() }
    }

    fn of(&self, device: &Device) -> Vec<String> {
        let mut drivers: Vec<String> = device.driver.iter().cloned().collect();
        if !device.on_vfio() {
            return drivers;
        }
        // What only root can see, others do without.
        let record =
            bound_devices::load(self.host, device.bdf).ok().flatten().map(|found| found.record);
        match record {
            Some(record) => drivers.extend(record.driver),
            None => {
                let aliases = self.aliases.get_or_init(|| modalias::list(self.host));
                drivers.extend(modalias::drivers(self.host, aliases, device.bdf));
            }
        }
        drivers
    }
}

/// The devices with all others of their IOMMU groups that can be given away.
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

/// Judges whether a guest can have these devices together. Returns the codes that were forced, by device.
/// Open files are not looked at: the guest itself may be running with them.
///
/// Errors: `conflict` with the code of what keeps a device from the guest and is not forced.
pub fn judged(
    inventory: &Inventory,
    devices: &BTreeSet<Bdf>,
    vm: &str,
    is_forced: impl Fn(Bdf, Code) -> bool,
    mut warn: impl FnMut(String),
) -> Result<BTreeMap<Bdf, Vec<Code>>> {
    let mut blockers = BTreeMap::<Bdf, Vec<Code>>::new();
    for finding in Request::of_these(inventory, devices.clone()).findings() {
        match finding.code.level() {
            Level::Note => {}
            Level::Forceable if is_forced(finding.bdf, finding.code) => {
                let (code, bdf) = (finding.code, finding.bdf);
                warn(format!("{vm}: {bdf}: {} ({})", finding.message, code.as_str()));
                blockers.entry(bdf).or_default().push(code);
            }
            level => {
                let message = format!("{vm} cannot have {}: {}", finding.bdf, finding.message);
                let hint = match level {
                    Level::Forceable => {
                        format!("--force {} takes it all the same", finding.code.as_str())
                    }
                    _ => "tdx-iommu check says more".to_owned(),
                };
                return Err(Error::conflict(message).code(finding.code).hint(hint));
            }
        }
    }
    Ok(blockers)
}
