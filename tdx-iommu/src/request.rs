//! Devices on the command line: addresses, or `-` for what another tool printed.

use std::collections::BTreeSet;

use common::pci::Bdf;
use common::{Error, Result, input};
use serde::Deserialize;

/// An address, or standard input.
#[derive(Debug, Clone, Copy)]
pub enum Named {
    /// A device.
    Device(Bdf),
    /// Items from another tool, each with its `bdf`.
    Stdin,
}

impl std::str::FromStr for Named {
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
}

/// The devices that were named, each once, and a warning for each that was named again.
///
/// Errors: `usage` when `-` does not stand alone; `invalid_input` for what is no document on PCI
/// devices.
pub fn resolve(named: &[Named]) -> Result<(BTreeSet<Bdf>, Vec<String>)> {
    let mut all = Vec::new();
    for one in named {
        match one {
            Named::Device(bdf) => all.push(*bdf),
            Named::Stdin if named.len() == 1 => {
                let items: Vec<Item> = input::items(&["tdx.iommu.", "tdx.gpu."], "PCI devices")?;
                all.extend(items.into_iter().map(|item| item.bdf));
            }
            Named::Stdin => return Err(Error::usage("- stands alone")),
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
    Ok((devices, warnings))
}
