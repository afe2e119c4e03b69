//! Finds block devices that the QEMU of a domain has open although the domain's running definition does not name them.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::cli::interrupt;
use common::image::Images;
use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use common::{Code, Error, ErrorKind, Result};
use virt::connect::Connect;

use crate::attach::domain_handle::DomainHandle;
use crate::attach::guest_disk;
use crate::availability::disk_use::DiskUse;
use crate::availability::guests;
use crate::availability::guests::Guest;
use crate::availability::vm_process::VmProcess;
use crate::block::devices::BlockDevices;
use common::system::devt::DevT;

/// How long to wait for an attach or detach that another command is doing: QEMU opens a disk before the definition has
/// it, and closes it after the definition has lost it.
const MOMENT: Duration = Duration::from_secs(1);

/// A block device that a virtual machine has open and that the running definition of its domain does not name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UndefinedDisk {
    /// The name of the domain.
    pub domain: String,
    /// The device number.
    pub number: DevT,
    /// The device node, as the kernel names it.
    pub node: String,
    /// The process that has the disk open.
    pub process: VmProcess,
}

impl UndefinedDisk {
    /// The warning that QEMU has the disk open.
    pub fn message(&self) -> String {
        let Self { domain, node, process, .. } = self;
        format!(
            "QEMU of domain '{domain}', {process}, has {node} open, but {node} is not in the live definition of the \
             domain"
        )
    }

    /// The error for a disk that QEMU still has open after a detach.
    pub fn still_open(&self) -> Error {
        let domain = &self.domain;
        Error::conflict(self.message()).code(Code::InUseByVm).hint(format!(
            "libvirt no longer knows of the disk, for example after a crash of libvirtd; to make QEMU close the \
             disk, shut the guest off: tdx-td stop {domain}"
        ))
    }
}

/// Finds the undefined disks of a domain, of which `guest` is the definition.
///
/// Errors: those of [`DiskUse::new`].
pub fn find(
    host: &Host,
    blocks: &BlockDevices,
    guest: &Guest,
    processes: &[VmProcess],
    connect: Option<&Connect>,
) -> Result<Vec<UndefinedDisk>> {
    let Some(uuid) = guest.uuid() else { return Ok(Vec::new()) };
    let own: Vec<&VmProcess> = processes.iter().filter(|process| process.runs(&uuid)).collect();
    let open: BTreeSet<DevT> = own.iter().flat_map(|process| process.devices.clone()).collect();
    let disks = guest_disk::disks_of(host, blocks, guest, connect);
    let live = disks.iter().filter(|disk| disk.live.is_some());
    let known: BTreeSet<DevT> = live.filter_map(|disk| disk.number).collect();
    if open.is_subset(&known) {
        return Ok(Vec::new());
    }
    let named = named_devices(host, blocks, guest, connect)?;
    let mut found = Vec::new();
    for process in own {
        for &number in process.devices.iter().filter(|n| !known.contains(n) && !named.contains(n)) {
            let node = blocks.numbered(number).map(|block| block.node());
            let node = node.unwrap_or_else(|| format!("block device {number}"));
            let (domain, process) = (guest.name.clone(), process.clone());
            found.push(UndefinedDisk { domain, number, node, process });
        }
    }
    Ok(found)
}

/// The undefined disks that `look` still finds after attaches and detaches of other commands have had time to end.
///
/// Errors: those of `look`; `interrupted`.
pub fn find_lasting(
    mut look: impl FnMut() -> Result<Vec<UndefinedDisk>>,
) -> Result<Vec<UndefinedDisk>> {
    let end = Instant::now() + MOMENT;
    let mut found = look()?;
    while !found.is_empty() && Instant::now() < end {
        interrupt::sleep(Duration::from_millis(100))?;
        let now = look()?;
        let is_same = |a: &UndefinedDisk, b: &UndefinedDisk| {
            (a.number, a.process.pid) == (b.number, b.process.pid)
        };
        found.retain(|disk| now.iter().any(|other| is_same(disk, other)));
    }
    Ok(found)
}

/// The block devices that a running definition names anywhere, and those that back the images that it names.
fn named_devices(
    host: &Host,
    blocks: &BlockDevices,
    guest: &Guest,
    connect: Option<&Connect>,
) -> Result<BTreeSet<DevT>> {
    let mut named = BTreeSet::new();
    for node in guest.live.iter().flat_map(|live| live.root().descendants()) {
        let attributes = node.attrs().map(|(_, value)| value);
        for text in attributes.chain([Cow::Owned(node.text())]) {
            named.extend(blocks.at_path(host, text.trim()).map(|block| block.number));
        }
    }
    let running = guest.running();
    let images = Images::new(host);
    let disk_use = DiskUse::new(host, blocks, std::slice::from_ref(&running), connect, images)?;
    let used = blocks.all().filter(|block| !disk_use.users_of(host, block, &[]).is_empty());
    named.extend(used.map(|block| block.number));
    Ok(named)
}

/// Fails if the QEMU of the domain has one of these devices open although the running definition does not name it. With
/// `None`, any device counts. Returns warnings about facts that could not be read and about other domains that have the
/// devices.
///
/// Errors: `conflict` with code `IN_USE_BY_VM`, also for virtual machines that are not domains; those of reading the
/// domain.
pub fn expect_closed(
    host: &Host,
    handle: &mut DomainHandle<'_>,
    devices: Option<&BTreeSet<DevT>>,
) -> Result<Vec<String>> {
    if !host.is_this_machine() {
        return Ok(Vec::new());
    }
    handle.reconnect()?;
    let connect = Some(handle.libvirt().connect());
    let is_asked = |number: &DevT| devices.is_none_or(|devices| devices.contains(number));
    let mut processes = Vec::new();
    let open = find_lasting(|| {
        let guest = match handle.guest() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            guest => guest?,
        };
        processes = VmProcess::all(host)?;
        let blocks = BlockDevices::read(host)?;
        let mut disks = find(host, &blocks, &guest, &processes, connect)?;
        disks.retain(|disk| is_asked(&disk.number));
        Ok(disks)
    })?;
    if let Some(disk) = open.first() {
        return Err(disk.still_open());
    }
    let uuid = handle.domain().uuid_string().unwrap_or_default();
    let (own, others): (Vec<VmProcess>, Vec<VmProcess>) =
        processes.into_iter().partition(|process| process.runs(&uuid));
    let mut warnings: Vec<String> = unseen(handle, &own).into_iter().collect();
    let in_use =
        |process: &VmProcess| devices.is_some_and(|all| !all.is_disjoint(&process.devices));
    let others: Vec<VmProcess> = others.into_iter().filter(in_use).collect();
    if let (Some(devices), false) = (devices, others.is_empty()) {
        warnings.extend(expect_defined(host, handle.libvirt(), devices, &others)?);
    }
    Ok(warnings)
}

/// A warning if the open files of the domain's own QEMU cannot be read.
fn unseen(handle: &DomainHandle<'_>, own: &[VmProcess]) -> Option<String> {
    let name = handle.name();
    if let Some(process) = own.iter().find(|process| process.is_hidden) {
        return Some(format!(
            "cannot read the open files of {process}, the QEMU process of domain '{name}': run tdx-disk as root to \
             check that QEMU has closed the disk"
        ));
    }
    let is_qemu = handle.libvirt().uri().starts_with("qemu");
    let runs = is_qemu && own.is_empty() && handle.domain().is_active().unwrap_or(false);
    runs.then(|| {
        format!(
            "cannot find the QEMU process of domain '{name}': run tdx-disk on the host, not in a container, to check \
             that QEMU has closed the disk"
        )
    })
}

/// Fails for a process that has one of the devices open without a running definition that has the device. Returns
/// warnings about the domains that have the devices by their definitions.
fn expect_defined(
    host: &Host,
    libvirt: &Libvirt,
    devices: &BTreeSet<DevT>,
    processes: &[VmProcess],
) -> Result<Vec<String>> {
    let (blocks, guests) = (BlockDevices::read(host)?, guests::all(libvirt)?);
    let mut warnings = Vec::new();
    for process in processes {
        let shared = devices.intersection(&process.devices);
        let nodes = shared.filter_map(|number| blocks.numbered(*number)).map(|block| block.node());
        let nodes = nodes.collect::<Vec<_>>().join(" and ");
        let runs = |guest: &&Guest| guest.uuid().is_some_and(|uuid| process.runs(&uuid));
        let Some(guest) = guests.iter().find(runs) else {
            return Err(Error::conflict(format!(
                "{process} has {nodes} open and does not belong to a domain"
            ))
            .code(Code::InUseByVm)
            .hint("wait until the process has ended, or end it"));
        };
        let connect = Some(libvirt.connect());
        let undefined = find(host, &blocks, guest, std::slice::from_ref(process), connect)?;
        if let Some(disk) = undefined.iter().find(|disk| devices.contains(&disk.number)) {
            return Err(disk.still_open());
        }
        warnings.push(format!("domain '{}' still uses {nodes}", guest.name));
    }
    Ok(warnings)
}
