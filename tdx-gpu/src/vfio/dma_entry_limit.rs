//! The kernel's limit on DMA mappings, which limits the memory of a guest with VFIO devices.
//!
//! The kernel counts DMA mappings per container. The memory of a trust domain is mapped in pages of 4 KiB, so that
//! the default limit is reached at 256 MiB. `bind` raises the limit and never lowers it. The limit is restored when
//! the last device is released. iommufd has no such limit.
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
/// The file with the limit before the first device was bound.
const BEFORE: &str = "/run/tdx/dma_entry_limit";

/// The number of mappings that QEMU needs in addition to the guest's memory.
const SPARE: u64 = 32764;

/// The number of mappings that a guest with this memory needs.
pub fn needed(memory: Size) -> u64 {
    memory.0.div_ceil(4096).saturating_add(SPARE)
}

/// The total memory of the host.
pub fn host_memory(host: &Host) -> Result<Size> {
    let text = host.read("/proc/meminfo")?.unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| Size(kib.saturating_mul(1024))).ok_or_else(|| {
        Error::failed("/proc/meminfo has no MemTotal")
            .hint("add --memory SIZE with the memory of the guest")
    })
}

/// The current limit; none while the kernel module is not loaded.
pub fn current(host: &Host) -> Result<Option<u64>> {
    Ok(host.read(PARAMETER)?.and_then(|text| text.trim().parse().ok()))
}

/// Raises the limit to `wanted`, and records the former limit. A higher limit is not changed.
///
/// Errors: `permission`, `io`.
pub fn raise(host: &Host, wanted: u64) -> Result<()> {
    driver::load_module(host, "vfio_iommu_type1")?;
    let _lock = lock(host)?;
    let Some(now) = current(host)? else {
        return Ok(()); // a kernel without this module parameter has no limit
    };
    if now >= wanted {
        return Ok(());
    }
    let before = host.path(BEFORE);
    if !before.exists() {
        sysroot::replace(&before, &format!("{now}\n"), 0o600)?;
    }
    log::step(format_args!("set dma_entry_limit to {wanted}; it was {now}"));
    let parameter = host.path(PARAMETER);
    std::fs::write(&parameter, wanted.to_string()).at("write", &parameter)
}

/// Restores the limit from before the first binding, if it was recorded and no device is recorded any more.
///
/// Errors: `permission`, `io`.
pub fn restore(host: &Host) -> Result<()> {
    if !host.has(FOLDER) {
        return Ok(());
    }
    // The record of a device is written before the limit is raised for the device.
    let _lock = lock(host)?;
    if !bound_devices::all(host)?.is_empty() {
        return Ok(());
    }
    let before = host.read(BEFORE)?.and_then(|text| text.trim().parse::<u64>().ok());
    if let (Some(before), Some(_)) = (before, current(host)?) {
        log::step(format_args!("restore dma_entry_limit to {before}"));
        let parameter = host.path(PARAMETER);
        std::fs::write(&parameter, before.to_string()).at("write", &parameter)?;
    }
    sysroot::remove(&host.path(BEFORE)).map(drop)
}

/// Locks the limit against other commands until the returned value is dropped.
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
    fn needed_counts_every_page_as_a_mapping() {
        for (gib, limit) in [(16, 4_227_068), (64, 16_809_980), (256, 67_141_628)] {
            assert_eq!(needed(Size(gib << 30)), limit);
        }
    }
}
