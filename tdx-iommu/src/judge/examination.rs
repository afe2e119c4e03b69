//! The complete check of a request: the findings of [`Request`], open files, consoles and claims of the kernel.

use std::collections::BTreeSet;

use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::{Code, Result};

use crate::inventory::Inventory;
use crate::inventory::class::Class;
use crate::inventory::device::Device;
use crate::inventory::usage::disks::disks_of;
use crate::inventory::usage::host_use::HostUse;
use crate::judge::holders::{Holders, is_claimed};
use crate::judge::{Finding, Request, framebuffer};

/// All findings about a request, including open files.
#[derive(Debug)]
pub struct Examination {
    /// The findings, sorted by device and code.
    pub findings: Vec<Finding>,
    /// Warnings about facts that could not be read.
    pub warnings: Vec<String>,
}

impl Examination {
    /// Examines the current state of the devices of a request.
    ///
    /// Errors: `permission` or `io` when `/proc` cannot be listed.
    pub fn new(host: &Host, inventory: &Inventory, request: &Request<'_>) -> Result<Self> {
        let mut findings = request.findings();
        let holders = Holders::of_any_node(host, inventory, request.devices())?;
        findings.extend(open_devices(request.devices(), &holders));
        findings.extend(claimed_disks(host, request.devices(), inventory));
        findings.extend(console_gpus(host, request.devices(), inventory));
        findings.sort();
        findings.dedup();
        let warning = (holders.unseen > 0).then(|| {
            format!(
                "the open files of {} processes were not checked: this user cannot read them; run this \
                 command as root to check them",
                holders.unseen
            )
        });
        Ok(Self { findings, warnings: warning.into_iter().collect() })
    }
}

/// Findings of devices that processes have open.
fn open_devices(devices: &BTreeSet<Bdf>, holders: &Holders) -> Vec<Finding> {
    let of_device = |&bdf: &Bdf| {
        holders.holders_of(bdf).iter().map(move |holder| Finding {
            bdf,
            code: if holder.by_vfio { Code::InUseByVm } else { Code::OpenFds },
            message: format!(
                "process {} ({}) has {} open",
                holder.pid, holder.command, holder.node
            ),
        })
    };
    devices.iter().flat_map(of_device).collect()
}

/// Findings of GPUs that the host writes its console to.
fn console_gpus(host: &Host, devices: &BTreeSet<Bdf>, inventory: &Inventory) -> Vec<Finding> {
    let devices = devices.iter().filter_map(|bdf| inventory.devices.get(bdf));
    let gpus = devices.filter(|device| device.class.is_some_and(Class::is_display));
    let finding = |device: &Device| {
        let name = framebuffer::on_device(host, device.bdf)?;
        let message = format!("the host's console uses the memory of {} ({name})", device.bdf);
        Some(Finding { bdf: device.bdf, code: Code::ConsoleGpu, message })
    };
    gpus.filter_map(finding).collect()
}

/// Findings of disks that the kernel has claimed for a user that sysfs does not show.
fn claimed_disks(host: &Host, devices: &BTreeSet<Bdf>, inventory: &Inventory) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (bdf, disk) in disks_of(host, devices) {
        let known = inventory.usage.uses_of(bdf).any(HostUse::is_disk);
        if !known && is_claimed(host, &disk) == Some(true) {
            let message = format!("the kernel has /dev/{disk} open exclusively");
            findings.push(Finding { bdf, code: Code::HostDiskMounted, message });
        }
    }
    findings
}
