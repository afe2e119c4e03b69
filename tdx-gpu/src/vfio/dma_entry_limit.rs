//! How much memory a guest with VFIO devices may have.
//!
//! The kernel counts DMA mappings per container, and a trust domain's memory is mapped 4 KiB at a time:
//! the default limit is reached at 256 MiB. It is raised for a binding and restored when the last one
//! ends, and never lowered meanwhile. iommufd has no such limit.
//! Source: Linux `drivers/vfio/vfio_iommu_type1.c`, `dma_entry_limit`; QEMU's check of it.

use std::fs::File;

use common::cli::log;
use common::device_state::bound_devices;
use common::system::sysroot;
use common::system::sysroot::Host;
use common::units::Size;
use common::{Error, IoContext, Result};

use crate::vfio::driver;

const PARAMETER: &str = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";
const FOLDER: &str = "/run/tdx";
/// The value before the first binding.
const BEFORE: &str = "/run/tdx/dma_entry_limit";

/// What QEMU keeps for its own mappings beside the guest's memory.
const SPARE: u64 = 32764;

/// The limit that a guest with this much memory needs, in mappings.
pub fn needed(memory: Size) -> u64 {
    memory.0.div_ceil(4096).saturating_add(SPARE)
}

/// The memory of the whole host.
pub fn host_memory(host: &Host) -> Result<Size> {
    let text = host.read("/proc/meminfo")?.unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| Size(kib.saturating_mul(1024)))
        .ok_or_else(|| Error::failed("/proc/meminfo has no MemTotal"))
}

/// The limit as it is; none while the module is not loaded.
pub fn current(host: &Host) -> Result<Option<u64>> {
    Ok(host.read(PARAMETER)?.and_then(|text| text.trim().parse().ok()))
}

/// Raises the limit to `wanted`, and remembers what it was. Never lowers it.
///
/// Errors: `permission`, `io`.
pub fn raise(host: &Host, wanted: u64) -> Result<()> {
    driver::load_module(host, "vfio_iommu_type1")?;
    let _lock = lock(host)?;
    let Some(now) = current(host)? else {
        return Ok(()); // built without it: there is nothing to limit
    };
    if now >= wanted {
        return Ok(());
    }
    let before = host.path(BEFORE);
    if !before.exists() {
        sysroot::replace(&before, &format!("{now}\n"), 0o600)?;
    }
    log::step(format_args!("dma_entry_limit = {wanted}, was {now}"));
    let parameter = host.path(PARAMETER);
    std::fs::write(&parameter, wanted.to_string()).at("write", &parameter)
}

/// Puts the limit back as it was before the first binding, when that was remembered and no device is
/// recorded any more.
///
/// Errors: `permission`, `io`.
pub fn restore(host: &Host) -> Result<()> {
    if !host.has(FOLDER) {
        return Ok(());
    }
    // A device is recorded before the limit is raised for it.
    let _lock = lock(host)?;
    if !bound_devices::all(host)?.is_empty() {
        return Ok(());
    }
    let before = host.read(BEFORE)?.and_then(|text| text.trim().parse::<u64>().ok());
    if let (Some(before), Some(_)) = (before, current(host)?) {
        log::step(format_args!("dma_entry_limit = {before}, as before"));
        let parameter = host.path(PARAMETER);
        std::fs::write(&parameter, before.to_string()).at("write", &parameter)?;
    }
    sysroot::remove(&host.path(BEFORE)).map(drop)
}

/// Keeps all others from the limit, until it is dropped.
fn lock(host: &Host) -> Result<File> {
    let folder = host.path(FOLDER);
    std::fs::create_dir_all(&folder).at("create", &folder)?;
    let file = File::open(&folder).at("open", &folder)?;
    file.lock().at("lock", &folder)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the kernel's and QEMU's arithmetic.
    #[test]
    fn every_page_is_a_mapping() {
        for (gib, limit) in [(16, 4_227_068), (64, 16_809_980), (256, 67_141_628)] {
            assert_eq!(needed(Size(gib << 30)), limit);
        }
    }
}
