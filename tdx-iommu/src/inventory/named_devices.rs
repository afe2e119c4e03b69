//! Devices that the command line names: by PCI address, or `-` for items on standard input.

use std::collections::{BTreeMap, BTreeSet};

use common::document::input;
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::{Error, Result};
use serde::Deserialize;

use crate::inventory::Inventory;
use crate::inventory::identity::{DeviceClaim, DeviceIdentity};

/// An argument that names a device, or standard input.
#[derive(Debug, Clone, Copy)]
pub enum DeviceArg {
    /// The PCI address of a device.
    Device(Bdf),
    /// Items on standard input, each with a `bdf`.
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

/// An item of any document about PCI devices.
#[derive(Debug, Deserialize)]
struct Item {
    bdf: Bdf,
    #[serde(flatten)]
    claim: DeviceClaim,
}

/// The devices that were named on the command line or on standard input.
#[derive(Debug, Clone, Default)]
pub struct NamedDevices {
    /// The PCI addresses.
    pub devices: BTreeSet<Bdf>,
    /// A warning for each device that was named more than once.
    pub warnings: Vec<String>,
    /// The claims of the items on standard input about the devices.
    claims: BTreeMap<Bdf, Vec<DeviceClaim>>,
}

impl From<BTreeSet<Bdf>> for NamedDevices {
    fn from(devices: BTreeSet<Bdf>) -> Self {
        Self { devices, ..Self::default() }
    }
}

impl NamedDevices {
    /// Compares the claims of items with the devices of `host`. For an absent device, only the host is compared.
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

/// The named devices, without duplicates.
///
/// Errors: `usage` when `-` is combined with addresses; `invalid_input` for input that is not about PCI devices.
pub fn read(named: &[DeviceArg]) -> Result<NamedDevices> {
    let mut all = Vec::new();
    let mut claims = BTreeMap::<_, Vec<_>>::new();
    for one in named {
        match one {
            DeviceArg::Device(bdf) => all.push(*bdf),
            DeviceArg::Stdin if named.len() == 1 => {
                let expected = "JSON items, each with the key 'bdf'";
                let items: Vec<Item> = input::items(&["tdx.iommu.", "tdx.gpu."], expected)?;
                for Item { bdf, claim } in items {
                    all.push(bdf);
                    claims.entry(bdf).or_default().push(claim);
                }
            }
            DeviceArg::Stdin => {
                return Err(Error::usage(
                    "'-' cannot be combined with addresses: name devices or read them from standard input",
                ));
            }
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
