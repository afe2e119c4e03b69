//! `tdx-iommu groups`: shows IOMMU groups, their devices and their blockers.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeSet;

use clap::Args;
use common::code::join_codes;
use common::document::output::Outcome;
use common::document::{Document, Item};
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::{Code, Error, Result};
use schemars::JsonSchema;
use serde::Serialize;

use crate::inventory::class::Class;
use crate::inventory::device::Device;
use crate::inventory::role::Role;
use crate::inventory::{Inventory, group_type};
use crate::judge::{Request, explanation};

const EXAMPLES: &str = "Examples:
  tdx-iommu groups 12
  tdx-iommu groups --json | jq '.items[] | select(.viable)'";

/// Arguments of `groups`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct GroupsArgs {
    /// Only the groups with these numbers
    #[arg(value_name = "GROUP")]
    groups: Vec<u32>,
}

/// An IOMMU group in a document.
#[derive(Debug, Serialize, JsonSchema)]
pub struct GroupItem {
    /// The number of the group, which can change with a reboot.
    pub iommu_group: u32,
    /// The translation mode of the IOMMU for the group, as the kernel names it: `DMA`, `DMA-FQ`, `identity`, …
    pub r#type: Option<String>,
    /// Whether the devices of the group can be given to a guest, each slot by itself.
    pub viable: bool,
    /// The codes of the blockers.
    pub blockers: Vec<Code>,
    /// Whether the kernel command line changes ACS, so that the group may claim isolation that the hardware does not
    /// provide.
    pub acs_override: bool,
    /// The reasons why the devices are in one group; empty for a group with one device.
    pub explanations: Vec<String>,
    /// The PCI devices of the group.
    pub devices: Vec<MemberItem>,
}

/// A device of a group.
#[derive(Debug, Serialize, JsonSchema)]
pub struct MemberItem {
    /// The PCI address.
    pub bdf: Bdf,
    /// The hop path: the slots from the root bus to the device. It does not change when buses are renumbered.
    pub path: Option<String>,
    /// The class code: six hexadecimal digits.
    #[schemars(with = "Option<String>")]
    pub class: Option<Class>,
    /// The driver that the device is bound to.
    pub driver: Option<String>,
    /// The role of the device, from its class.
    pub role: Role,
    /// Whether the device is a bridge, which cannot be given to a guest.
    pub is_bridge: bool,
    /// The codes of the blockers of the device and the other functions of its slot.
    pub blockers: Vec<Code>,
}

impl Item for GroupItem {
    const COLUMNS: &'static [&'static str] = &["GROUP", "TYPE", "VIABLE", "BLOCKERS", "DEVICES"];
    const WRAPPED: &'static [&'static str] = &["BLOCKERS", "DEVICES"];
    const DROPPED: &'static [&'static str] = &["TYPE"];

    fn key(&self) -> Cow<'_, str> {
        self.iommu_group.to_string().into()
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.iommu_group.cmp(&other.iommu_group)
    }

    fn row(&self) -> Vec<String> {
        let device = |device: &MemberItem| format!("{} ({})", device.bdf, device.role.as_str());
        vec![
            self.iommu_group.to_string(),
            self.r#type.clone().unwrap_or_default(),
            if self.viable { "yes" } else { "no" }.to_owned(),
            join_codes(&self.blockers),
            self.devices.iter().map(device).collect::<Vec<_>>().join(", "),
        ]
    }
}

fn member(inventory: &Inventory, device: &Device) -> MemberItem {
    MemberItem {
        bdf: device.bdf,
        path: device.path.as_ref().map(ToString::to_string),
        class: device.class,
        driver: device.driver.clone(),
        role: device.role,
        is_bridge: device.is_bridge,
        blockers: Request::new(inventory, [device.bdf]).blockers(),
    }
}

/// Shows the named groups, or all groups.
pub fn run(host: &Host, args: GroupsArgs) -> Result<Outcome> {
    let inventory = Inventory::read(host)?;
    let chosen: BTreeSet<u32> = if args.groups.is_empty() {
        inventory.groups.keys().copied().collect()
    } else {
        args.groups.into_iter().collect()
    };
    let items = chosen.into_iter().map(|number| {
        let group = inventory.groups.get(&number).ok_or_else(|| {
            Error::not_found(format!("IOMMU group {number} not found, or it has no PCI devices"))
                .hint(
                    "to see all groups, run tdx-iommu groups; the numbers can change with a reboot",
                )
        })?;
        let devices = group.members.iter().filter_map(|bdf| inventory.devices.get(bdf));
        let devices: Vec<MemberItem> = devices.map(|device| member(&inventory, device)).collect();
        // Bridges cannot be given to a guest. A group of only bridges is not viable.
        let endpoints = devices.iter().filter(|device| !device.is_bridge);
        let judged: Vec<&MemberItem> = match endpoints.collect::<Vec<_>>() {
            none if none.is_empty() => devices.iter().collect(),
            endpoints => endpoints,
        };
        let blockers: BTreeSet<Code> =
            judged.iter().flat_map(|device| device.blockers.iter().copied()).collect();
        Ok(GroupItem {
            iommu_group: number,
            r#type: group_type(host, number),
            viable: blockers.is_empty(),
            blockers: blockers.into_iter().collect(),
            acs_override: !inventory.acs_override.is_empty(),
            explanations: explanation::explain_group(host, &inventory, group),
            devices,
        })
    });
    let items = items.collect::<Result<Vec<_>>>()?;
    let mut warnings = inventory.warnings();
    if !inventory.has_iommu && !inventory.devices.is_empty() {
        warnings.push("this host has no IOMMU groups".to_owned());
    }
    Ok(Document::new("tdx.iommu.groups", items).warnings(warnings).into())
}
