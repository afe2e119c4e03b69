//! Reads every block device of the machine, and which devices back which.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use common::system::sysfs::{attribute, last, names, target};
use common::system::sysroot::Host;
use common::{Error, Result};

use common::system::devt::DevT;

use crate::block::partitions::Span;

const CLASS: &str = "/sys/class/block";

/// A block device: a disk, a partition, or a device that these back.
#[derive(Debug)]
pub struct BlockDevice {
    /// The kernel name: `sdb`, `nvme0n1p1`, `dm-0`.
    pub name: String,
    /// The device number.
    pub number: DevT,
    /// The path in sysfs.
    pub sysfs_path: PathBuf,
    /// For a partition, the name of its disk.
    pub parent: Option<String>,
    /// For a partition, its place on the disk.
    pub span: Option<Span>,
    /// The mappings, arrays and other devices that this device backs.
    pub holders: Vec<String>,
    /// For a loop device, the file that backs it.
    pub backing: Option<String>,
}

impl BlockDevice {
    /// The path of the device node, as the kernel names it.
    pub fn node(&self) -> String {
        format!("/dev/{}", self.name.replace('!', "/"))
    }

    /// The value of an attribute in sysfs.
    pub fn attribute(&self, host: &Host, name: &str) -> Option<String> {
        attribute(host, &format!("{}/{name}", self.sysfs_path.display()))
    }
}

/// All block devices of the machine, by name and by number.
#[derive(Debug, Default)]
pub struct BlockDevices {
    by_name: BTreeMap<String, BlockDevice>,
    by_number: BTreeMap<DevT, String>,
    /// For each device, its partitions and the loop devices that it backs.
    children: BTreeMap<String, Vec<String>>,
}

impl BlockDevices {
    /// Reads sysfs. Devices that are removed during the read, and disks that the kernel hides, are left out.
    ///
    /// Errors: `not_found` when sysfs is absent.
    /// Source: Linux `Documentation/ABI/stable/sysfs-block`, `testing/sysfs-block-loop`.
    pub fn read(host: &Host) -> Result<Self> {
        if !host.has("/sys") {
            let sys = host.path("/sys");
            return Err(Error::not_found(format!("directory {} not found", sys.display()))
                .hint("pass --sysroot a directory that contains sys, proc and dev"));
        }
        let mut blocks = Self::default();
        for name in names(host, CLASS) {
            let Some(sysfs_path) = target(host, &format!("{CLASS}/{name}")) else { continue };
            let folder = sysfs_path.display().to_string();
            let number = attribute(host, &format!("{folder}/dev"));
            let Some(number) = number.and_then(|text| text.parse().ok()) else { continue };
            let is_partition = host.has(&format!("{folder}/partition"));
            let parent = sysfs_path.parent().and_then(last).filter(|_| is_partition);
            let sectors =
                |name: &str| attribute(host, &format!("{folder}/{name}"))?.parse::<u64>().ok();
            let span = || {
                let start = sectors("start")?.checked_mul(512)?;
                Some(Span { start, size: sectors("size")?.checked_mul(512)? })
            };
            let span = if is_partition { span() } else { None };
            let holders = names(host, &format!("{folder}/holders"));
            let is_loop = name.starts_with("loop") && !is_partition;
            let backing = is_loop.then(|| attribute(host, &format!("{folder}/loop/backing_file")));
            blocks.by_number.insert(number, name.clone());
            if let Some(parent) = &parent {
                blocks.children.entry(parent.clone()).or_default().push(name.clone());
            }
            let block = BlockDevice {
                name: name.clone(),
                number,
                sysfs_path,
                parent,
                span,
                holders,
                backing: backing.flatten(),
            };
            blocks.by_name.insert(name, block);
        }
        for (below, above) in blocks.loops_over_blocks(host) {
            blocks.children.entry(below).or_default().push(above);
        }
        Ok(blocks)
    }

    fn loops_over_blocks(&self, host: &Host) -> Vec<(String, String)> {
        let over = |block: &BlockDevice| {
            let below = self.at_path(host, block.backing.as_deref()?)?;
            Some((below.name.clone(), block.name.clone()))
        };
        self.by_name.values().filter_map(over).collect()
    }

    /// All block devices, sorted by name.
    pub fn all(&self) -> impl Iterator<Item = &BlockDevice> {
        self.by_name.values()
    }

    /// The block device with this kernel name.
    pub fn named(&self, name: &str) -> Option<&BlockDevice> {
        self.by_name.get(name)
    }

    /// The block device with this number.
    pub fn numbered(&self, number: DevT) -> Option<&BlockDevice> {
        self.named(self.by_number.get(&number)?)
    }

    /// The block device at a path, after links are followed; none for a path that is not a block device.
    ///
    /// Below `--sysroot`, nodes may be regular files, and the name decides.
    pub fn at_path(&self, host: &Host, path: &str) -> Option<&BlockDevice> {
        if !path.starts_with('/') {
            return None;
        }
        let real = std::fs::canonicalize(host.path(path)).ok()?;
        let metadata = std::fs::metadata(&real).ok()?;
        if metadata.file_type().is_block_device() {
            return self.numbered(DevT::from_rdev(metadata.rdev()));
        }
        let root = std::fs::canonicalize(host.path("/")).ok()?;
        let inside = real.strip_prefix(&root).ok().filter(|_| root.parent().is_some())?;
        self.named(&inside.strip_prefix("dev").ok()?.to_str()?.replace('/', "!"))
    }

    /// A device and all devices that it backs: partitions, mappings, arrays, loop devices.
    pub fn stack(&self, name: &str) -> Vec<&BlockDevice> {
        let above = |block: &BlockDevice| {
            let children = self.children.get(&block.name).into_iter().flatten();
            children.chain(&block.holders).cloned().collect()
        };
        self.walk(name, above)
    }

    /// The devices that back a device, without the device itself: the disk of a partition, the members of an array.
    pub fn below(&self, host: &Host, name: &str) -> Vec<&BlockDevice> {
        let below = |block: &BlockDevice| {
            let mut below = names(host, &format!("{}/slaves", block.sysfs_path.display()));
            below.extend(block.parent.clone());
            let backing = block.backing.as_deref().and_then(|path| self.at_path(host, path));
            below.extend(backing.map(|block| block.name.clone()));
            below
        };
        self.walk(name, below).into_iter().skip(1).collect()
    }

    fn walk(&self, name: &str, next: impl Fn(&BlockDevice) -> Vec<String>) -> Vec<&BlockDevice> {
        let mut seen = BTreeSet::new();
        let mut left = vec![name.to_owned()];
        let mut found = Vec::new();
        while let Some(name) = left.pop() {
            let block = self.named(&name).filter(|_| seen.insert(name));
            if let Some(block) = block {
                found.push(block);
                left.extend(next(block));
            }
        }
        found
    }
}
