//! Devices on the command line: addresses, or `-` for what another tool printed.

use std::collections::{BTreeMap, BTreeSet};

use common::document::input;
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::{Error, Result};
use serde::Deserialize;

use crate::inventory::Inventory;
use crate::inventory::identity::{DeviceClaim, DeviceIdentity};

/// An address, or standard input.
#[derive(Debug, Clone, Copy)]
pub enum DeviceArg {
    /// A device.
    Device(Bdf),
    /// Items from another tool, each with its `bdf`.
    Stdin,
}

impl std::str::FromStr for DeviceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            input::STDIN => Ok(Self::Stdin),
            address => address.parse().map(Self::Device),
        }
    }
}

/// An item of any document on PCI devices.
#[derive(Debug, Deserialize)]
struct Item {
    bdf: Bdf,
    #[serde(flatten)]
    claim: DeviceClaim,
}

/// The devices that were named on the command line or on standard input.
#[derive(Debug, Clone, Default)]
pub struct NamedDevices {
    /// Their addresses.
    pub devices: BTreeSet<Bdf>,
    /// A sentence for each device that was named more than once.
    pub warnings: Vec<String>,
    /// What the items of standard input say of devices.
    claims: BTreeMap<Bdf, Vec<DeviceClaim>>,
}

impl From<BTreeSet<Bdf>> for NamedDevices {
    fn from(devices: BTreeSet<Bdf>) -> Self {
        Self { devices, ..Self::default() }
    }
}

impl NamedDevices {
    /// Compares what items say of the devices with what `host` has. One that is not there is compared by
    /// its host alone.
    ///
    /// Errors: `conflict` with code `IDENTITY_CHANGED`.
    pub fn expect_same(&self, host: &Host, inventory: &Inventory) -> Result<()> {
        let name = host.name();
        for (&bdf, claims) in &self.claims {
            let found = inventory.devices.get(&bdf).map(DeviceIdentity::from);
            claims
                .iter()
                .try_for_each(|claim| claim.expect(bdf, found.as_ref(), name.as_deref()))?;
        }
        Ok(())
    }
}

/// The devices that were named, each once.
///
/// Errors: `usage` when `-` does not stand alone; `invalid_input` for what is no document on PCI
/// devices.
pub fn read(named: &[DeviceArg]) -> Result<NamedDevices> {
    let mut all = Vec::new();
    let mut claims = BTreeMap::<_, Vec<_>>::new();
    for one in named {
        match one {
            DeviceArg::Device(bdf) => all.push(*bdf),
            DeviceArg::Stdin if named.len() == 1 => {
                let items: Vec<Item> = input::items(&["tdx.iommu.", "tdx.gpu."], "PCI devices")?;
                for Item { bdf, claim } in items {
                    all.push(bdf);
                    claims.entry(bdf).or_default().push(claim);
                }
            }
            DeviceArg::Stdin => return Err(Error::usage("- stands alone")),
        }
    }
    let mut devices = BTreeSet::new();
    let mut warnings = Vec::new();
    for bdf in all {
        if !devices.insert(bdf) {
            warnings.push(format!("{bdf} was named more than once"));
        }
    }
    warnings.dedup();
    Ok(NamedDevices { devices, warnings, claims })
}
