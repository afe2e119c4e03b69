//! `tdx-gpu` on a real kernel with a real IOMMU (rig 2): drivers, driver overrides and refusals are those of
//! the kernel.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "the figures, for --nocapture")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::Signal::SIGKILL;
use serde_json::{Value, json};

use crate::KERNEL;
use crate::support::kernel::Kernel;
use crate::support::steps::{Fate, Moment, is_full, moments, of_each_kind, walk_here};
use crate::support::table::{self, Row};
use crate::support::tools::{Run, bin};

mod boot;
mod drivers;
mod kills;

/// Prints the driver of each device, every driver override, the limit on mappings, the records and the unit.
/// It starts few programs, because each start is slow in an emulated machine.
const STATE: &str = "find /sys/bus/pci/devices/*/ -maxdepth 1 -name driver -printf '%p %l\\n'; \
        grep . /sys/bus/pci/devices/*/driver_override; \
        echo $(</sys/module/vfio_iommu_type1/parameters/dma_entry_limit); \
        find /run/tdx /etc/tdx /etc/systemd/system/{,*.wants/}{,.}tdx* ! -type d 2>/dev/null; true";

fn state(kernel: &Kernel) -> String {
    kernel.sorted(STATE)
}

fn gpu<'a>(kernel: &Kernel, words: impl IntoIterator<Item = &'a str>) -> Run {
    kernel.tool("tdx-gpu", words)
}

fn drivers(document: &Value) -> Vec<(String, Value)> {
    let items = document["items"].as_array().unwrap().iter();
    items.map(|i| (i["bdf"].as_str().unwrap().to_owned(), i["driver"].clone())).collect()
}
