//! `tdx-iommu groups`: IOMMU groups, and what keeps each from being given to a guest.

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

/// Arguments of `groups`.
#[derive(Debug, Args)]
pub struct GroupsArgs {
    /// Only these groups
    #[arg(value_name = "GROUP")]
    groups: Vec<u32>,
}

/// An IOMMU group in a document.
#[derive(Debug, Serialize, JsonSchema)]
pub struct GroupItem {
    /// Number of the group; another one after a reboot.
    pub iommu_group: u32,
    /// How the IOMMU translates for it now, in the kernel's words: `DMA`, `DMA-FQ`, `identity`, …
    pub r#type: Option<String>,
    /// Whether its devices can be given to a guest, each slot by itself.
    pub viable: bool,
    /// Codes of what keeps them from it.
    pub blockers: Vec<Code>,
    /// Whether the kernel was told to claim an isolation that may not be there.
    pub acs_override: bool,
    /// Why its devices are in one group, a sentence each; empty for a group of one.
    pub explanations: Vec<String>,
    /// Its PCI devices.
    pub devices: Vec<MemberItem>,
}

/// A device of a group.
#[derive(Debug, Serialize, JsonSchema)]
pub struct MemberItem {
    /// Address.
    pub bdf: Bdf,
    /// Where it sits.
    pub path: Option<String>,
    /// Class code, six hexadecimal digits.
    #[schemars(with = "Option<String>")]
    pub class: Option<Class>,
    /// The driver that is bound.
    pub driver: Option<String>,
    /// What it is for.
    pub role: Role,
    /// Whether it is a bridge, which stays as it is.
    pub is_bridge: bool,
    /// Codes of what keeps it, with the other functions of its slot, from a guest.
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

/// Shows the groups that were named, or all.
pub fn run(host: &Host, args: GroupsArgs) -> Result<Outcome> {
    let inventory = Inventory::read(host)?;
    let chosen: BTreeSet<u32> = if args.groups.is_empty() {
        inventory.groups.keys().copied().collect()
    } else {
        args.groups.into_iter().collect()
    };
    let items = chosen.into_iter().map(|number| {
        let group = inventory.groups.get(&number).ok_or_else(|| {
            Error::not_found(format!("no IOMMU group {number} with PCI devices"))
                .hint("tdx-iommu groups shows all; numbers change when the machine starts")
        })?;
        let devices = group.members.iter().filter_map(|bdf| inventory.devices.get(bdf));
        let devices: Vec<MemberItem> = devices.map(|device| member(&inventory, device)).collect();
        // Bridges stay as they are; of nothing but bridges there is nothing to give.
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
