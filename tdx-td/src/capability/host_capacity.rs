//! Memory and processors of the host.

use common::Result;
use common::libvirt::{Context, Libvirt};
use common::system::sysroot::Host;
use common::units::GIB;

/// Memory and processors of a host.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Number of processors.
    pub cpus: u32,
}

impl Capacity {
    /// Returns the default memory of a guest: 8 GiB, or half of the memory of a host with less
    /// than 16, in whole 64 MiB. Unit: bytes.
    pub fn usual_memory(self) -> u64 {
        const STEP: u64 = 64 << 20;
        (self.memory_bytes / 2 / STEP * STEP).clamp(STEP, 8 * GIB)
    }
}

/// Returns memory and processors of libvirt's host. The memory is the larger one of libvirt's sum of the NUMA
/// nodes and of the kernel's total: the nodes lack memory that was plugged in or given back later.
///
/// Source: proc_meminfo(5), `MemTotal`, KiB. On a remote connection only libvirt is asked.
pub fn capacity(host: &Host, libvirt: &Libvirt) -> Result<Capacity> {
    let info = libvirt.connect().node_info().context("read the memory size of the host")?;
    let text = if libvirt.is_local() {
        host.read("/proc/meminfo")?.unwrap_or_default()
    } else {
        String::new()
    };
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let total = total.and_then(|total| total.trim().strip_suffix(" kB")?.trim().parse().ok());
    let kib: u64 = info.memory.max(total.unwrap_or_default());
    Ok(Capacity { memory_bytes: kib * 1024, cpus: info.cpus })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_memory_is_half_of_a_small_hosts_memory() {
        let usual = |memory_bytes| Capacity { memory_bytes, cpus: 1 }.usual_memory();
        assert_eq!(usual(64 * GIB), 8 * GIB);
        assert_eq!(usual(16 * GIB), 8 * GIB);
        assert_eq!(usual(4 * GIB), 2 * GIB);
        assert_eq!(usual(1), 64 << 20);
    }
}
