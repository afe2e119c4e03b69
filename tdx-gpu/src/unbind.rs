//! `tdx-gpu unbind`: devices go back to the drivers they were taken from.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use common::bound::{self, Found, Lease, Record};
use common::cli::{Change, Context, is_root};
use common::document::{Action, Document, Item};
use common::host::Host;
use common::lease;
use common::output::Outcome;
use common::pci::Bdf;
use common::{Error, Result, interrupt};
use schemars::JsonSchema;
use serde::Serialize;
use tdx_iommu::device::Device;
use tdx_iommu::identity::DeviceIdentity;
use tdx_iommu::inventory::Inventory;
use tdx_iommu::request::{self, Named};

use crate::binding::{self, Going};
use crate::driver::Sysfs;
use crate::held;
use crate::persist::{self, Persistent};
use crate::plan::identity;
use crate::setting::{self, Former};

/// Arguments of `unbind`.
#[derive(Debug, Args)]
pub struct UnbindArgs {
    /// Devices; - for items with a bdf on standard input
    #[arg(value_name = "BDF", required_unless_present_any = ["all", "stale"])]
    #[arg(conflicts_with_all = ["all", "stale"])]
    devices: Vec<Named>,
    /// Every device that was bound by these tools, or is at every boot
    #[arg(long)]
    all: bool,
    /// Only what commands that died have left half done
    #[arg(long, conflicts_with = "all")]
    stale: bool,
    #[command(flatten)]
    change: Change,
}

/// A device that was to go back.
#[derive(Debug, Serialize, JsonSchema)]
pub struct UnbindItem {
    /// Address.
    pub bdf: Bdf,
    /// What it is; null where no device is.
    #[serde(flatten)]
    pub identity: DeviceIdentity,
    /// The driver that has it now.
    pub driver: Option<String>,
    /// The VFIO driver that had it.
    pub previous_driver: Option<String>,
    /// Whether it was to be bound at every boot, which it is no more.
    pub was_persistent: bool,
    /// Whether its confidential-computing mode is what it was before it was changed for a domain.
    pub mode_restored: bool,
    /// `unbind`; `restore` for one whose mode alone was changed; `forget` for one of which there was only
    /// a record; or `none`.
    pub action: Action,
}

impl Item for UnbindItem {
    const COLUMNS: &'static [&'static str] = &["BDF", "DRIVER", "PREVIOUS"];

    fn key(&self) -> Cow<'_, str> {
        self.bdf.to_string().into()
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.bdf.cmp(&other.bdf)
    }

    fn row(&self) -> Vec<String> {
        let driver = |driver: &Option<String>| driver.clone().unwrap_or_default();
        vec![self.bdf.to_string(), driver(&self.driver), driver(&self.previous_driver)]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// What is to be done with one device.
#[derive(Debug)]
enum Way {
    /// Nothing: no VFIO driver has it, and there is no record.
    None,
    /// The record is of a device that is gone: another one is there, or none.
    Forget(Record),
    /// Back, by this record.
    Back(Record),
}

impl Way {
    fn of(inventory: &Inventory, bdf: Bdf, found: Option<Found>) -> Self {
        let device = inventory.devices.get(&bdf);
        match (device, found.map(|found| found.record)) {
            (None, None) => Self::None,
            (None, Some(record)) => Self::Forget(record),
            (Some(device), Some(record)) if identity(device) != record.identity => {
                Self::Forget(record)
            }
            (Some(_), Some(record)) => Self::Back(record),
            // Without a record: whatever driver wants it.
            (Some(device), None) if device.on_vfio() => Self::Back(Record {
                bdf,
                identity: identity(device),
                driver: None,
                driver_override: None,
                bound_to: device.driver.clone().unwrap_or_default(),
                domain: None,
                committed: false,
            }),
            (Some(_), None) => Self::None,
        }
    }
}

/// Gives devices back, with the other functions of their slots that VFIO has.
pub fn run(context: &Context, args: UnbindArgs) -> Result<Outcome> {
    let host = &context.host;
    let requested = request::resolve(&args.devices)?;
    interrupt::guard();
    let inventory = Inventory::read(host)?;
    requested.expect_same(host, &inventory)?;
    let persistent = Persistent::read(host, &inventory)?;
    let mut warnings = requested.warnings;
    warnings.extend(persistent.damaged.iter().map(ToString::to_string));
    let mut ways = BTreeMap::new();
    let mut formers = BTreeMap::new();
    if args.all {
        let devices = persistent.found.iter().map(|found| found.bdf());
        ways.extend(devices.map(|bdf| (bdf, Way::of(&inventory, bdf, None))));
    }
    if args.all || args.stale {
        for found in lease::all::<Former>(host)? {
            match found {
                Ok(found) if args.all || found.is_stale() => {
                    let bdf = found.record.bdf;
                    ways.insert(bdf, Way::None);
                    formers.insert(bdf, found.record);
                }
                Ok(_) => {}
                Err(damaged) => warnings.push(damaged.to_string()),
            }
        }
        for found in bound::all(host)? {
            match found {
                Ok(found) if args.all || found.is_stale() => {
                    let bdf = found.record.bdf;
                    ways.insert(bdf, Way::of(&inventory, bdf, Some(found)));
                }
                Ok(_) => {}
                Err(damaged) => warnings.push(damaged.to_string()),
            }
        }
    }
    for bdf in with_slots(&inventory, &requested.devices, &persistent) {
        let found = bound::of(host, bdf)?;
        let former = lease::of::<Former>(host, bdf)?.map(|found| (bdf, found.record));
        formers.extend(former);
        if found.is_none() && !formers.contains_key(&bdf) && !persistent.has(bdf) {
            inventory.device(bdf)?;
        }
        ways.insert(bdf, Way::of(&inventory, bdf, found));
    }
    let back = ways.iter().filter(|(_, way)| matches!(way, Way::Back(_))).map(|(bdf, _)| *bdf);
    held::refuse(host, &inventory, back.chain(formers.keys().copied()))?;
    // What a dead command left half done may well be done at the next boot.
    let is_forgotten = |bdf: &&Bdf| !args.stale && persistent.has(**bdf);
    let forgotten: BTreeSet<Bdf> = ways.keys().filter(is_forgotten).copied().collect();
    let mut items = match args.change.dry_run {
        true => {
            let set = formers.values().filter(|former| former.is_there(&inventory));
            let set: Vec<&Device> =
                set.filter_map(|former| inventory.devices.get(&former.bdf)).collect();
            setting::refuse_busy(&set)?;
            let item = |(bdf, way): (&Bdf, &Way)| imagined(&inventory, *bdf, way, formers.get(bdf));
            ways.iter().map(item).collect()
        }
        false => {
            let changes = ways.values().any(|way| !matches!(way, Way::None))
                || !forgotten.is_empty()
                || !formers.is_empty();
            if changes && !is_root() {
                return Err(
                    Error::permission("giving devices back takes root").hint("run it with sudo")
                );
            }
            if is_root() {
                persist::forget(host, &inventory, &forgotten)?;
            }
            let forgot = forgotten.iter().map(|bdf| format!("{bdf} is not bound at boot any more"));
            give_back(host, &inventory, ways, formers)
                .map_err(|error| error.applied(forgot.collect::<Vec<_>>()))?
        }
    };
    for item in &mut items {
        item.was_persistent = forgotten.contains(&item.bdf);
        if item.was_persistent && item.action == Action::NONE {
            item.action = Action("forget");
        }
    }
    let document = Document::new("tdx.gpu.unbind", items);
    Ok(document.dry_run(args.change.dry_run).warnings(warnings).into())
}

/// The devices that were named, and of their slots what VFIO has, or is to have at every boot.
fn with_slots(
    inventory: &Inventory,
    named: &BTreeSet<Bdf>,
    persistent: &Persistent,
) -> BTreeSet<Bdf> {
    let beside = named.iter().flat_map(|bdf| inventory.slot(*bdf));
    let beside = beside.filter(|device| device.on_vfio() || persistent.has(device.bdf));
    named.iter().copied().chain(beside.map(|device| device.bdf)).collect()
}

fn identity_of(inventory: &Inventory, bdf: Bdf) -> DeviceIdentity {
    inventory.devices.get(&bdf).map(DeviceIdentity::from).unwrap_or_default()
}

fn imagined(inventory: &Inventory, bdf: Bdf, way: &Way, former: Option<&Former>) -> UnbindItem {
    let now = inventory.devices.get(&bdf).and_then(|device| device.driver.clone());
    let mode_restored = former.is_some_and(|former| former.is_there(inventory));
    let (driver, action) = match way {
        Way::None if mode_restored => (now.clone(), Action("restore")),
        Way::None if former.is_some() => (now.clone(), Action("forget")),
        Way::None => (now.clone(), Action::NONE),
        Way::Forget(_) => (now.clone(), Action("forget")),
        Way::Back(record) => (record.driver.clone(), Action("unbind")),
    };
    let previous_driver = now.filter(|_| action == Action("unbind"));
    let identity = identity_of(inventory, bdf);
    UnbindItem {
        bdf,
        identity,
        driver,
        previous_driver,
        was_persistent: false,
        mode_restored,
        action,
    }
}

fn give_back(
    host: &Host,
    inventory: &Inventory,
    mut ways: BTreeMap<Bdf, Way>,
    formers: BTreeMap<Bdf, Former>,
) -> Result<Vec<UnbindItem>> {
    let mut failures = Vec::new();
    for (bdf, error) in setting::put_back(host, inventory, formers.values().cloned().collect()) {
        // The host's own driver could do nothing with it as it is.
        ways.remove(&bdf);
        failures.push((format!("the mode of {bdf}"), error));
    }
    let mut items = Vec::new();
    let mut going = Vec::new();
    for (bdf, way) in ways {
        interrupt::check()?;
        match way {
            Way::None => items.push(imagined(inventory, bdf, &way, formers.get(&bdf))),
            Way::Forget(ref record) => {
                Lease::resume(host, record.clone())?.forget()?;
                items.push(imagined(inventory, bdf, &way, formers.get(&bdf)));
            }
            Way::Back(record) => {
                let to_any = bound::of(host, bdf)?.is_none();
                let lease = match to_any {
                    true => Lease::begin(host, record)?,
                    false => Lease::resume(host, record)?,
                };
                going.push(Going { lease, to_any });
            }
        }
    }
    let (given, left) = binding::give_back(host, going);
    failures.extend(left);
    let done: Vec<String> = given.iter().map(|record| format!("unbound {}", record.bdf)).collect();
    binding::settle_failures(failures, done)?;
    items.extend(given.into_iter().map(|record| UnbindItem {
        bdf: record.bdf,
        identity: identity_of(inventory, record.bdf),
        driver: Sysfs::new(host, record.bdf).driver(),
        previous_driver: Some(record.bound_to),
        was_persistent: false,
        mode_restored: formers.get(&record.bdf).is_some_and(|former| former.is_there(inventory)),
        action: Action("unbind"),
    }));
    Ok(items)
}
