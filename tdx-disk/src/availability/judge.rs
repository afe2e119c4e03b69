//! Checks whether a disk is free. Finds every use of the disk and reports every reason.

use crate::availability::exporters;
use crate::availability::finding;
use crate::availability::processes;
use crate::availability::qemu_lock;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use common::cli::interrupt;
use common::system::sysfs::names;
use common::system::sysroot::Host;
use common::{Code, IoContext, Result};
use rustix::fs::OFlags;

use crate::block::devices::{BlockDevice, BlockDevices};
use crate::block::disk::Disk;

use crate::availability::disk_use::DiskUse;
use crate::availability::finding::{Finding, shell_quoted};
use crate::availability::mounts::Mounts;
use crate::availability::processes::Processes;
use common::system::devt::DevT;

use crate::block::partitions::Span;
use crate::block::{partitions, signature};

/// How long to wait for programs that open a disk only briefly, such as udev.
const MOMENT: Duration = Duration::from_secs(1);

/// The purpose that a disk is checked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Question<'a> {
    /// The domain that the disk is for. A use by this domain is not a finding.
    pub domain: Option<&'a str>,
    /// Whether the domain only reads the disk.
    pub readonly: bool,
}

/// The facts for checks of any number of disks, which are read once and without opening a disk.
#[derive(Debug)]
pub struct Observer<'a> {
    /// The machine.
    pub host: &'a Host,
    /// The block devices of the machine.
    pub blocks: &'a BlockDevices,
    /// The mounts and swaps.
    pub mounts: &'a Mounts,
    /// The disks of domains; none when libvirt is unreachable.
    pub disk_use: Option<&'a DiskUse>,
}

impl Observer<'_> {
    /// Findings from sysfs, mount tables and libvirt, about a disk and all devices that it backs.
    pub fn findings(&self, disk: &Disk, question: Question<'_>) -> Vec<Finding> {
        let stack = self.blocks.stack(&disk.name);
        let mut findings = state_findings(disk, question);
        for block in &stack {
            findings.extend(self.mounts.findings_of(&block.name).cloned());
            findings.extend(block.holders.iter().map(|holder| self.holder_finding(block, holder)));
        }
        let below = self.blocks.below(self.host, &disk.name);
        for block in stack.iter().chain(&below) {
            let is_it = block.number == disk.number;
            let names = if is_it { &disk.links[..] } else { &[] };
            let users = self.disk_use.map(|disk_use| disk_use.users_of(self.host, block, names));
            for user in users.into_iter().flatten() {
                // A use of this disk by the domain itself is not a finding.
                if !(is_it && user.is_disk && question.domain == Some(user.domain.as_str())) {
                    let (domain, node, how) = (user.domain, block.node(), user.how);
                    let message = format!("domain '{domain}' uses {node} {how}");
                    findings.push(Finding::new(Code::InUseByVm, message));
                }
            }
        }
        findings
    }

    /// A finding that names the mapping or array that a device is part of, and the command that stops it.
    fn holder_finding(&self, block: &BlockDevice, holder: &str) -> Finding {
        let above = self.blocks.named(holder);
        let read = |name: &str| above.and_then(|above| above.attribute(self.host, name));
        let (name, uuid) = (read("dm/name"), read("dm/uuid").unwrap_or_default());
        let node =
            name.as_ref().map_or(format!("/dev/{holder}"), |name| format!("/dev/mapper/{name}"));
        let part = format!("{} is part of {node}", block.node());
        let word = shell_quoted(name.as_deref().unwrap_or(holder));
        if uuid.starts_with("mpath-") {
            let message = format!("{part}, a multipath map; attach the map instead");
            return Finding::new(Code::MultipathPath, message);
        }
        let finding = |what: &str, remedy: Option<String>| {
            let finding = Finding::new(Code::Holders, format!("{part}, {what}"));
            Finding { remedy, ..finding }
        };
        match uuid.split('-').next() {
            Some("LVM") => finding("a logical volume", Some(format!("lvchange -an {node}"))),
            Some("CRYPT") => {
                finding("an open encrypted volume", Some(format!("cryptsetup close {word}")))
            }
            Some(uuid) if !uuid.is_empty() || name.is_some() => {
                finding("a mapping", Some(format!("dmsetup remove {word}")))
            }
            _ if holder.starts_with("md") => {
                finding("an array", Some(format!("mdadm --stop /dev/{holder}")))
            }
            _ => finding("another virtual block device", None),
        }
    }
}

/// Findings about the kind and state of a disk.
fn state_findings(disk: &Disk, question: Question<'_>) -> Vec<Finding> {
    let node = disk.node();
    let mut findings = Vec::new();
    let mut add = |code, message: String| findings.push(Finding::new(code, message));
    match disk.kind {
        "partition" => add(Code::IsPartition, format!("{node} is a partition")),
        "rom" | "floppy" | "firmware" | "zram" | "ram" => {
            add(Code::BadKind, format!("{node} is a device of type {}", disk.kind));
        }
        _ => {}
    }
    if disk.size == 0 {
        add(Code::NoMedium, format!("{node} has no medium or a size of zero"));
    }
    // SCSI reports `running`, NVMe `live`. Other drivers report no state.
    if let Some(state) = disk.state.as_deref().filter(|s| !matches!(*s, "running" | "live")) {
        add(Code::Offline, format!("the driver of {node} reports the state {state}"));
    }
    if disk.is_path {
        add(Code::MultipathPath, format!("{node} is a path of a multipath map"));
    }
    if disk.read_only && !question.readonly {
        add(Code::ReadOnly, format!("{node} is read-only"));
    }
    findings
}

/// The findings about a disk, and warnings about facts that could not be read.
#[derive(Debug)]
pub struct Judgement {
    /// All findings.
    pub findings: Vec<Finding>,
    /// Warnings about facts that could not be read.
    pub unseen: Vec<String>,
}

/// Makes the complete check: the findings of [`Observer`], names, content, claims, processes and exporters.
///
/// Errors: `permission` or `io` when `/proc` cannot be listed, or when the disk cannot be opened and has no blocker;
/// `interrupted`.
pub fn judge(observer: &Observer<'_>, disk: &Disk, question: Question<'_>) -> Result<Judgement> {
    let (host, blocks) = (observer.host, observer.blocks);
    let stack = blocks.stack(&disk.name);
    let mut findings = observer.findings(disk, question);
    let mut unseen = Vec::new();
    findings.extend(boot_partition_findings(host, blocks, &stack));
    findings.extend(identity_findings(observer, disk));
    findings.extend(exporters::findings(host, blocks, &stack));
    findings.extend(open_file_findings(observer, disk, &stack, &mut unseen)?);
    unseen.extend(observer.mounts.problems.iter().cloned());
    if observer.mounts.unseen > 0 {
        unseen.push(format!(
            "the mounts of {} processes were not checked: this user cannot read the mounts; run this command as root \
             on the host",
            observer.mounts.unseen
        ));
    }
    if disk.size > 0 {
        match open_node(host, disk, OFlags::empty()) {
            Ok(file) => {
                findings.extend(content_findings(blocks, disk, &file, &mut unseen));
                let locked = qemu_lock::is_locked(&file);
                findings.extend(locked.then(|| {
                    Finding::new(
                        Code::QemuLock,
                        format!("a QEMU process has locked {}", disk.node()),
                    )
                }));
                findings.extend(claim_finding(host, disk)?);
            }
            Err(error) => {
                // Only a warning if the disk has a blocker anyway, or below --sysroot.
                let is_node = std::fs::metadata(host.path(disk.node()))
                    .is_ok_and(|metadata| metadata.file_type().is_block_device());
                if is_node && finding::blockers(&findings).is_empty() {
                    return Err(error).at("open", disk.node());
                }
                unseen.push(format!(
                    "the content and the exclusive users of {} were not checked: the disk cannot be \
                     opened ({error})",
                    disk.node()
                ));
            }
        }
    }
    findings.sort();
    findings.dedup();
    Ok(Judgement { findings, unseen })
}

/// Opens the node of a disk for reading, and checks that it is still the same device.
fn open_node(host: &Host, disk: &Disk, flags: OFlags) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | flags).bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(host.path(disk.node()))?;
    let rdev = std::os::unix::fs::MetadataExt::rdev(&file.metadata()?);
    if DevT::from_rdev(rdev) == disk.number {
        Ok(file)
    } else {
        Err(io::Error::other("the device node belongs to a different device than /sys reports"))
    }
}

/// A finding if the kernel uses the disk or one of its partitions exclusively: mounted, as swap, or as part of another
/// device. Waits for programs that open the disk exclusively only briefly.
///
/// Source: Linux `block/bdev.c`, `bd_may_claim()`.
fn claim_finding(host: &Host, disk: &Disk) -> Result<Option<Finding>> {
    let end = Instant::now() + MOMENT;
    loop {
        match open_node(host, disk, OFlags::EXCL) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                if Instant::now() >= end {
                    let message = format!("the kernel has {} open exclusively", disk.node());
                    return Ok(Some(Finding::new(Code::Claimed, message)));
                }
                interrupt::sleep(Duration::from_millis(50))?;
            }
            _ => return Ok(None),
        }
    }
}

/// Findings about processes that have the disk, or a device on it, open for longer than [`MOMENT`].
fn open_file_findings(
    observer: &Observer<'_>,
    disk: &Disk,
    stack: &[&BlockDevice],
    unseen: &mut Vec<String>,
) -> Result<Vec<Finding>> {
    let (host, blocks) = (observer.host, observer.blocks);
    let own: BTreeSet<DevT> = stack.iter().map(|block| block.number).collect();
    let below = blocks.below(host, &disk.name);
    let all = own.iter().copied().chain(below.iter().map(|block| block.number)).collect();
    let look = || Processes::with_open(host, &all);
    let mut found = look()?;
    let end = Instant::now() + MOMENT;
    while found.all().next().is_some() && Instant::now() < end {
        interrupt::sleep(Duration::from_millis(100))?;
        found = look()?.retain_in(&found);
    }
    if found.unseen > 0 {
        unseen.push(format!(
            "the open files of {} processes were not checked: this user cannot read them; run this command as root \
             on the host",
            found.unseen
        ));
    }
    let below_only = if below.is_empty() {
        BTreeSet::new()
    } else {
        // A process that uses only another part of the same disk does not block a partition, but a guest does.
        let own = Processes::with_open(host, &own)?;
        let own: BTreeSet<u32> = own.all().map(|process| process.pid).collect();
        found.all().map(|process| process.pid).filter(|pid| !own.contains(pid)).collect()
    };
    let finding = |process: &processes::Process| {
        let (command, pid, node) = (&process.command, process.pid, &process.node);
        let message = format!("process {pid} ({command}) has {node} open");
        if process.is_guest() {
            return Some(Finding::new(Code::InUseByVm, message));
        }
        (!below_only.contains(&pid)).then(|| Finding::new(Code::OpenFds, message))
    };
    Ok(found.all().filter_map(finding).collect())
}

/// A finding about the EFI partition that the machine booted from, which may not be mounted.
///
/// Source: <https://systemd.io/BOOT_LOADER_INTERFACE/>, `LoaderDevicePartUUID`, in UTF-16 after four bytes of
/// attributes.
fn boot_partition_findings(
    host: &Host,
    blocks: &BlockDevices,
    stack: &[&BlockDevice],
) -> Vec<Finding> {
    const VARIABLE: &str =
        "/sys/firmware/efi/efivars/LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
    let bytes = host.read_bytes(VARIABLE).ok().flatten().unwrap_or_default();
    let text = bytes.get(4..).unwrap_or_default().chunks_exact(2);
    let text: Vec<u16> = text.map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let uuid = String::from_utf16_lossy(&text).trim_end_matches('\0').to_lowercase();
    let parts = stack.iter().filter(|block| block.parent.is_some() && !uuid.is_empty());
    let is_it = |block: &&&BlockDevice| {
        let part = Disk::read(host, blocks, block).part_uuid;
        part.is_some_and(|part| part.to_lowercase() == uuid)
    };
    let finding = |block: &&BlockDevice| {
        Finding::new(Code::SystemDisk, format!("the machine booted from {}", block.node()))
    };
    parts.filter(is_it).map(finding).collect()
}

/// Findings about the names of a disk, and about other disks with the same serial number or world-wide name.
fn identity_findings(observer: &Observer<'_>, disk: &Disk) -> Vec<Finding> {
    let node = disk.node();
    let mut findings = Vec::new();
    if disk.by_id().is_none() {
        let message = match disk.by_path() {
            Some(path) => {
                format!("{node} has no persistent name of its own, only one for its slot: {path}")
            }
            None => format!("{node} has no persistent name"),
        };
        findings.push(Finding::new(Code::Identity, message));
    }
    for twin in twins(observer.host, observer.blocks, disk) {
        let message = format!("{} has the same serial number as {node}", twin.node());
        findings.push(Finding::new(Code::DuplicateId, message));
        // Two disks with one world-wide name may be two paths to one disk, so uses of the other count as well.
        if twin.wwn.is_some() && twin.wwn == disk.wwn && twin.size == disk.size {
            let of_use = |finding: &Finding| {
                matches!(
                    finding.code,
                    Code::Holders
                        | Code::InUseByVm
                        | Code::Mounted
                        | Code::MultipathPath
                        | Code::Swap
                        | Code::SystemDisk
                )
            };
            let used = observer.findings(&twin, Question::default()).into_iter();
            findings.extend(used.filter(of_use));
        }
    }
    findings
}

/// The other disks with the serial number or world-wide name of this disk.
pub fn twins(host: &Host, blocks: &BlockDevices, disk: &Disk) -> Vec<Disk> {
    if disk.serial.is_none() && disk.wwn.is_none() {
        return Vec::new();
    }
    let others = names(host, "/sys/block").into_iter().filter(|name| *name != disk.name);
    let others = others.filter_map(|name| Some(Disk::read(host, blocks, blocks.named(&name)?)));
    others.filter(|other| disk.is_twin_of(other)).collect()
}

/// Findings about the signatures on a disk.
fn content_findings(
    blocks: &BlockDevices,
    disk: &Disk,
    file: &File,
    unseen: &mut Vec<String>,
) -> Vec<Finding> {
    let parts = blocks.all().filter(|block| block.parent.as_deref() == Some(&disk.name));
    let known: Vec<Span> = parts.filter_map(|part| part.span).collect();
    let found = match signature::probe(file, disk.size, disk.logical_sector, &known) {
        Ok(found) => found,
        Err(error) => {
            unseen.push(format!("the content of {} was not checked: {error}", disk.node()));
            return Vec::new();
        }
    };
    let finding = |signature: signature::Signature| {
        let place = match signature.start {
            0 => disk.node(),
            start => {
                let part = |block: &&BlockDevice| {
                    block.parent.as_deref() == Some(&disk.name)
                        && block.span.is_some_and(|span| span.start == start)
                };
                let node = blocks.all().find(part).map(BlockDevice::node);
                node.unwrap_or_else(|| format!("the partition at byte {start} of {}", disk.node()))
            }
        };
        let name = signature.name;
        if !signature.is_member {
            return Finding::new(
                Code::HasData,
                format!("{place} contains {name}, which is not in use"),
            );
        }
        let message = if name == signature::TOO_MANY_PARTITIONS {
            format!(
                "{place} has more than {} partitions; not all of them were checked",
                partitions::MOST
            )
        } else {
            format!("{place} has the label of one member of a multi-disk volume: {name}")
        };
        Finding::new(Code::Signature, message)
    };
    found.into_iter().map(finding).collect()
}
