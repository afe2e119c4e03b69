//! `tdx-iommu check`: checks whether devices can be given to one guest together.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use common::code::{Level, join_codes};
use common::document::output::Outcome;
use common::document::{Document, Item};
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::{Code, Result};
use schemars::JsonSchema;
use serde::Serialize;

use crate::inventory::Inventory;
use crate::inventory::device::Device;
use crate::inventory::identity::DeviceIdentity;
use crate::inventory::named_devices;
use crate::inventory::named_devices::DeviceArg;
use crate::inventory::role::Role;
use crate::judge::examination::Examination;
use crate::judge::{Finding, Request, explanation};

const EXAMPLES: &str = "Examples:
  tdx-iommu check 17:00.0
  tdx-iommu scan | jq '.items[] | select(.iommu_group==12)' | tdx-iommu check -";

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// PCI addresses of devices for one guest; - reads the JSON output of tdx-gpu list or tdx-iommu scan from
    /// standard input
    #[arg(value_name = "BDF", required = true)]
    devices: Vec<DeviceArg>,
}

/// A device in a document of `tdx-iommu check`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CheckItem {
    /// The PCI address.
    pub bdf: Bdf,
    /// The properties that identify the device.
    #[serde(flatten)]
    pub identity: DeviceIdentity,
    /// The hop path: the slots from the root bus to the device. It does not change when buses are renumbered.
    pub path: Option<String>,
    /// The number of the IOMMU group.
    pub iommu_group: Option<u32>,
    /// The driver that the device is bound to.
    pub driver: Option<String>,
    /// The role of the device, from its class.
    pub role: Role,
    /// Whether the device was named. An unnamed device is another function of the slot of a named device.
    pub named: bool,
    /// Whether the device can be given to a guest together with the others.
    pub viable: bool,
    /// The codes of the blockers.
    pub blockers: Vec<Code>,
    /// All findings about the device, including notes.
    pub findings: Vec<FindingItem>,
    /// The reasons why other devices are in the same IOMMU group.
    pub explanations: Vec<String>,
}

/// A finding about a device.
#[derive(Debug, Serialize, JsonSchema)]
pub struct FindingItem {
    /// The code of the finding.
    pub code: Code,
    /// Whether the finding is a blocker, a blocker that can be forced, or a note.
    pub level: Level,
    /// The finding in words.
    pub message: String,
}

impl Item for CheckItem {
    const COLUMNS: &'static [&'static str] =
        &["BDF", "ROLE", "DRIVER", "GROUP", "VIABLE", "BLOCKERS", "WHY"];
    const WRAPPED: &'static [&'static str] = &["BLOCKERS", "WHY"];
    const DROPPED: &'static [&'static str] = &["DRIVER", "GROUP", "ROLE"];

    fn key(&self) -> Cow<'_, str> {
        self.bdf.to_string().into()
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.bdf.cmp(&other.bdf)
    }

    fn row(&self) -> Vec<String> {
        // One fact can be the reason for a blocker and for a note. Blockers come first, so that it counts as a blocker.
        let (notes, blockers): (Vec<_>, Vec<_>) =
            self.findings.iter().partition(|finding| finding.level == Level::Note);
        let mut facts: Vec<&FindingItem> = Vec::new();
        for finding in blockers.into_iter().chain(notes) {
            if facts.iter().all(|fact| fact.message != finding.message) {
                facts.push(finding);
            }
        }
        let shown = |fact: &&FindingItem| match fact.level {
            Level::Note => format!("note: {}", fact.message),
            _ => fact.message.clone(),
        };
        let messages: Vec<String> = facts.iter().map(shown).collect();
        vec![
            self.bdf.to_string(),
            self.role.as_str().to_owned(),
            self.driver.clone().unwrap_or_default(),
            self.iommu_group.map(|group| group.to_string()).unwrap_or_default(),
            if self.viable { "yes" } else { "no" }.to_owned(),
            join_codes(&self.blockers),
            messages.join("; "),
        ]
    }
}

/// Checks the devices, and the other functions of their slots, as one request.
pub fn run(host: &Host, args: CheckArgs) -> Result<Outcome> {
    let requested = named_devices::read(&args.devices)?;
    let inventory = Inventory::read(host)?;
    requested.expect_same(host, &inventory)?;
    let (items, unseen) = judge(host, &inventory, &requested.devices)?;
    let mut warnings = requested.warnings;
    warnings.extend(inventory.problems.iter().cloned().chain(unseen));
    let viable = items.iter().all(|item| item.viable);
    Ok(Outcome::answer(Document::new("tdx.iommu.check", items).warnings(warnings), viable))
}

/// The item of each device, and warnings about facts that could not be read.
///
/// Errors: `not_found` for a device that does not exist; those of [`Examination::new`].
pub fn judge(
    host: &Host,
    inventory: &Inventory,
    named: &BTreeSet<Bdf>,
) -> Result<(Vec<CheckItem>, Vec<String>)> {
    for &bdf in named {
        inventory.device(bdf)?;
    }
    let request = Request::new(inventory, named.iter().copied());
    let examination = Examination::new(host, inventory, &request)?;
    let mut by_device = BTreeMap::<Bdf, Vec<Finding>>::new();
    for finding in examination.findings {
        by_device.entry(finding.bdf).or_default().push(finding);
    }
    let devices = request.devices().iter().filter_map(|bdf| inventory.devices.get(bdf));
    let mut explanations = BTreeMap::new();
    let mut explain = |number: u32| {
        let group = inventory.groups.get(&number);
        let explanation = || group.map(|group| explanation::explain_group(host, inventory, group));
        explanations.entry(number).or_insert_with(|| explanation().unwrap_or_default()).clone()
    };
    let items = devices.map(|device| {
        let findings = by_device.remove(&device.bdf).unwrap_or_default();
        let explanations = device.group.map(&mut explain).unwrap_or_default();
        item(device, named.contains(&device.bdf), findings, explanations)
    });
    Ok((items.collect(), examination.warnings))
}

fn item(
    device: &Device,
    named: bool,
    findings: Vec<Finding>,
    explanations: Vec<String>,
) -> CheckItem {
    let stops = |code: &Code| code.level() != Level::Note;
    let blockers: BTreeSet<Code> = findings.iter().map(|f| f.code).filter(stops).collect();
    let finding = |finding: Finding| FindingItem {
        code: finding.code,
        level: finding.code.level(),
        message: finding.message,
    };
    CheckItem {
        bdf: device.bdf,
        identity: device.into(),
        path: device.path.as_ref().map(ToString::to_string),
        iommu_group: device.group,
        driver: device.driver.clone(),
        role: device.role,
        named,
        viable: blockers.is_empty(),
        blockers: blockers.into_iter().collect(),
        findings: findings.into_iter().map(finding).collect(),
        explanations,
    }
}
