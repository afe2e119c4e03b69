//! `tdx-gpu unbind`: devices go back to the drivers they were taken from.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use common::bound::{self, Found, Lease, Record};
use common::cli::{Change, Context};
use common::document::{Action, Document, Item};
use common::host::Host;
use common::output::Outcome;
use common::pci::Bdf;
use common::{Code, Error, Result, interrupt};
use schemars::JsonSchema;
use serde::Serialize;
use tdx_iommu::holders::Holders;
use tdx_iommu::inventory::Inventory;
use tdx_iommu::request::{self, Named};

use crate::binding::{self, Going};
use crate::driver::Sysfs;
use crate::persist::{self, Persistent};
use crate::plan::identity;

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
    /// The driver that has it now.
    pub driver: Option<String>,
    /// The VFIO driver that had it.
    pub previous_driver: Option<String>,
    /// Whether it was to be bound at every boot, which it is no more.
    pub was_persistent: bool,
    /// `unbind`; `forget` for one of which there was only a record; or `none`.
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
    let (named, mut warnings) = request::resolve(&args.devices)?;
    interrupt::guard();
    let inventory = Inventory::read(host)?;
    let persistent = Persistent::read(host, &inventory)?;
    warnings.extend(persistent.damaged.iter().map(ToString::to_string));
    let mut ways = BTreeMap::new();
    if args.all {
        let devices = persistent.found.iter().map(|found| found.bdf());
        ways.extend(devices.map(|bdf| (bdf, Way::of(&inventory, bdf, None))));
    }
    if args.all || args.stale {
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
    for bdf in with_slots(&inventory, &named, &persistent) {
        let found = bound::of(host, bdf)?;
        if found.is_none() && !persistent.has(bdf) {
            inventory.device(bdf)?;
        }
        ways.insert(bdf, Way::of(&inventory, bdf, found));
    }
    refuse_held(host, &inventory, &ways)?;
    // What a dead command left half done may well be done at the next boot.
    let is_forgotten = |bdf: &&Bdf| !args.stale && persistent.has(**bdf);
    let forgotten: BTreeSet<Bdf> = ways.keys().filter(is_forgotten).copied().collect();
    let mut items = match args.change.dry_run {
        true => ways.iter().map(|(bdf, way)| imagined(&inventory, *bdf, way)).collect(),
        false => {
            let changes = ways.values().any(|way| !matches!(way, Way::None));
            if (changes || !forgotten.is_empty()) && !common::cli::is_root() {
                return Err(
                    Error::permission("giving devices back takes root").hint("run it with sudo")
                );
            }
            if common::cli::is_root() {
                persist::forget(host, &inventory, &forgotten)?;
            }
            give_back(host, ways, &forgotten)?
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

/// Fails while a process has one of the devices open: the kernel would wait for it.
fn refuse_held(host: &Host, inventory: &Inventory, ways: &BTreeMap<Bdf, Way>) -> Result<()> {
    let back = ways.iter().filter(|(_, way)| matches!(way, Way::Back(_))).map(|(bdf, _)| *bdf);
    let back: Vec<Bdf> = back.collect();
    let holders = Holders::of_vfio(host, inventory, back.iter().copied())?;
    let held = back.iter().find_map(|bdf| Some((bdf, holders.on(*bdf).first()?)));
    match held {
        None => Ok(()),
        Some((bdf, holder)) => {
            let (command, pid, node) = (&holder.command, holder.pid, &holder.node);
            let message = format!("{bdf} is in use: {command} (process {pid}) has {node} open");
            Err(Error::conflict(message).code(Code::InUseByVm).hint("stop that guest first"))
        }
    }
}

fn imagined(inventory: &Inventory, bdf: Bdf, way: &Way) -> UnbindItem {
    let now = inventory.devices.get(&bdf).and_then(|device| device.driver.clone());
    let (driver, action) = match way {
        Way::None => (now.clone(), Action::NONE),
        Way::Forget(_) => (now.clone(), Action("forget")),
        Way::Back(record) => (record.driver.clone(), Action("unbind")),
    };
    let previous_driver = now.filter(|_| action == Action("unbind"));
    UnbindItem { bdf, driver, previous_driver, was_persistent: false, action }
}

fn give_back(
    host: &Host,
    ways: BTreeMap<Bdf, Way>,
    forgotten: &BTreeSet<Bdf>,
) -> Result<Vec<UnbindItem>> {
    let item = |bdf, driver, previous_driver, action| UnbindItem {
        bdf,
        driver,
        previous_driver,
        was_persistent: false,
        action,
    };
    let mut items = Vec::new();
    let mut going = Vec::new();
    for (bdf, way) in ways {
        interrupt::check()?;
        let driver = Sysfs::new(host, bdf).driver();
        match way {
            Way::None => items.push(item(bdf, driver, None, Action::NONE)),
            Way::Forget(record) => {
                Lease::resume(host, record)?.forget()?;
                items.push(item(bdf, driver, None, Action("forget")));
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
    let (given, failures) = binding::give_back(host, going);
    if let Some((_, error)) = failures.first() {
        let unbound = given.iter().map(|record| format!("unbound {}", record.bdf));
        let forgot = forgotten.iter().map(|bdf| format!("{bdf} is not bound at boot any more"));
        let done: Vec<String> = unbound.chain(forgot).collect();
        let error = Error::new(error.kind(), error.to_string()).applied(done);
        return Err(error.left_behind(failures.into_iter().map(|(what, _)| what)));
    }
    items.extend(given.into_iter().map(|record| {
        let driver = Sysfs::new(host, record.bdf).driver();
        item(record.bdf, driver, Some(record.bound_to), Action("unbind"))
    }));
    Ok(items)
}
