//! `tdx-disk list`: shows every whole disk, and whether it is free.

use std::borrow::Cow;
use std::collections::BTreeSet;

use clap::Args;
use common::cli::Context;
use common::code::Level;
use common::document::output::Outcome;
use common::document::{Document, Item};
use common::image::Images;
use common::libvirt::Libvirt;
use common::units::Size;
use common::{Code, Result};
use schemars::JsonSchema;
use serde::Serialize;

use crate::availability::disk_use::DiskUse;
use crate::availability::finding::{Finding, FindingItem};
use crate::availability::guests;
use crate::availability::judge::{Observer, Question};
use crate::availability::mounts::{Mounts, Scope};
use crate::availability::vm_process::VmProcess;
use crate::block::devices::{BlockDevice, BlockDevices};
use crate::block::disk::Disk;

const EXAMPLES: &str = "Examples:
  tdx-disk list
  tdx-disk list --json | jq '.items[] | select(.available)'";

/// Arguments of `list`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ListArgs {
    /// Also show loop devices, network block devices, arrays and other virtual devices
    #[arg(long)]
    all: bool,
}

/// A disk in a document of `tdx-disk list`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DiskItem {
    /// The device node, as the kernel names it.
    pub device: String,
    /// The device number, `major:minor`.
    pub number: String,
    /// The type of device: `disk`, `mpath`, `loop`, `nbd`, `md`, or `virtual` for another virtual device.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The size of the disk, in bytes.
    pub size_bytes: u64,
    /// Vendor and model.
    pub model: Option<String>,
    /// The serial number.
    pub serial: Option<String>,
    /// The world-wide name.
    pub wwn: Option<String>,
    /// The transport: `sata`, `nvme`, `usb`, `mmc`, `virtio`, `sas`, `iscsi`, `fc`, `scsi`.
    pub transport: Option<&'static str>,
    /// The most permanent name below `/dev/disk/by-id`.
    pub by_id: Option<String>,
    /// Whether the disk is rotational.
    pub rotational: Option<bool>,
    /// The logical sector size, in bytes.
    pub logical_sector_bytes: u32,
    /// The physical sector size, in bytes.
    pub physical_sector_bytes: u32,
    /// Whether the disk is read-only.
    pub read_only: bool,
    /// Whether the disk or its medium is removable.
    pub removable: bool,
    /// The mount points of the file systems on the disk.
    pub mountpoints: Vec<String>,
    /// Whether no use of the disk was found. `tdx-disk check` checks more.
    pub available: bool,
    /// The findings about uses of the disk.
    pub in_use: Vec<FindingItem>,
    /// The domains that have the disk; null when libvirt is unreachable.
    pub attached_to: Option<Vec<String>>,
}

impl Item for DiskItem {
    const COLUMNS: &'static [&'static str] =
        &["DEVICE", "SIZE", "TYPE", "TRAN", "MODEL", "SERIAL", "AVAILABLE", "IN USE", "MOUNTED ON"];
    const WRAPPED: &'static [&'static str] = &["IN USE", "MOUNTED ON"];
    const DROPPED: &'static [&'static str] = &["TRAN", "TYPE", "SERIAL", "MODEL"];

    fn key(&self) -> Cow<'_, str> {
        self.device.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let codes: BTreeSet<&str> = self.in_use.iter().map(|item| item.code.as_str()).collect();
        vec![
            self.device.clone(),
            Size(self.size_bytes).to_string(),
            self.kind.to_owned(),
            self.transport.unwrap_or_default().to_owned(),
            self.model.clone().unwrap_or_default(),
            self.serial.clone().unwrap_or_default(),
            if self.available { "yes" } else { "no" }.to_owned(),
            codes.into_iter().collect::<Vec<_>>().join(","),
            self.mountpoints.join(","),
        ]
    }
}

/// Shows every disk. The verb starts no program and opens no disk.
pub fn run(
    context: &Context,
    libvirt: impl FnOnce() -> Result<Libvirt, String>,
    args: ListArgs,
) -> Result<Outcome> {
    let host = &context.host;
    let blocks = BlockDevices::read(host)?;
    let mounts = Mounts::read(host, Scope::Own)?;
    let disk_use = libvirt().and_then(|libvirt| {
        let guests = guests::all(&libvirt).map_err(|error| error.to_string())?;
        let (connect, images) = (Some(libvirt.connect()), Images::new(host).without_devices());
        DiskUse::new(host, &blocks, &guests, connect, images).map_err(|error| error.to_string())
    });
    let (disk_use, warning) = match disk_use {
        Ok(disk_use) => (Some(disk_use), None),
        Err(why) => (None, Some(why)),
    };
    let observer = Observer { host, blocks: &blocks, mounts: &mounts, disk_use: disk_use.as_ref() };
    let processes = if host.has("/proc") { VmProcess::all(host)? } else { Vec::new() };
    let disks = blocks.all().map(|block| Disk::read(host, &blocks, block));
    let disks = disks.filter(|disk| is_shown(disk, args.all));
    let items = disks.map(|disk| item(&observer, &processes, disk));
    let items: Vec<DiskItem> = items.collect();
    let problems = mounts.problems.clone();
    Ok(Document::new("tdx.disk.disks", items).warnings(problems.into_iter().chain(warning)).into())
}

fn is_shown(disk: &Disk, all: bool) -> bool {
    match disk.kind {
        "disk" | "mpath" => true,
        // A loop or network block device without a backing file has no size.
        "loop" | "nbd" => all && disk.size > 0,
        "md" | "virtual" => all,
        _ => false,
    }
}

fn item(observer: &Observer<'_>, processes: &[VmProcess], disk: Disk) -> DiskItem {
    let mut findings = observer.findings(&disk, Question::default());
    let stack = observer.blocks.stack(&disk.name);
    if findings.iter().all(|finding| finding.code != Code::InUseByVm) {
        // Uses that libvirt does not know, or cannot report because it is unreachable.
        findings.extend(open_by_vms(&stack, processes));
    }
    let mountpoints: BTreeSet<String> =
        stack.iter().flat_map(|block| observer.mounts.points(&block.name)).cloned().collect();
    let attached = observer.disk_use.map(|disk_use| {
        let users = stack.iter().flat_map(|block| disk_use.users_of(observer.host, block, &[]));
        users.map(|user| user.domain).collect::<BTreeSet<_>>().into_iter().collect()
    });
    let mut in_use: Vec<Finding> =
        findings.into_iter().filter(|f| f.code.level() != Level::Note).collect();
    in_use.sort();
    in_use.dedup();
    DiskItem {
        device: disk.node(),
        number: disk.number.to_string(),
        kind: disk.kind,
        size_bytes: disk.size,
        by_id: disk.by_id().map(str::to_owned),
        model: disk.model,
        serial: disk.serial,
        wwn: disk.wwn,
        transport: disk.transport,
        rotational: disk.rotational,
        logical_sector_bytes: disk.logical_sector,
        physical_sector_bytes: disk.physical_sector,
        read_only: disk.read_only,
        removable: disk.removable,
        mountpoints: mountpoints.into_iter().collect(),
        available: in_use.is_empty(),
        in_use: in_use.into_iter().map(FindingItem::from).collect(),
        attached_to: attached,
    }
}

/// The findings about processes of virtual machines that have a disk open, or a device that the disk backs.
fn open_by_vms(stack: &[&BlockDevice], processes: &[VmProcess]) -> Vec<Finding> {
    let of_block = |block: &&BlockDevice| {
        let node = block.node();
        let open = processes.iter().filter(|process| process.devices.contains(&block.number));
        let message = open.map(|process| format!("{process} has {node} open"));
        message.map(|text| Finding::new(Code::InUseByVm, text)).collect::<Vec<_>>()
    };
    stack.iter().flat_map(of_block).collect()
}
