//! Finds the disks that hold guests' images: from a file through mounts, mappings and arrays down to the disks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use common::Result;
use common::cli::config::Config;
use common::cli::log;
use common::libvirt::Libvirt;
use common::system::block::{Mount, block_of_node, disks_below, unescape};
use common::system::host_storage::MountTable;
use common::system::sysfs::{attribute, last, names};
use common::system::sysroot::Host;
use tdx_pool::pool::Pool;
use tdx_pool::pool::spec::PoolSpec;
use tdx_pool::references::usage::Chains;

use crate::domain::definition;
use crate::domain::lookup::get;

/// The largest number of nested file systems and loop devices.
const DEPTH: usize = 8;

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Name of the disk in `/sys/block`.
    pub name: String,
    /// Text of the disk's scheduler file; `None` for a disk without a scheduler.
    pub scheduler: Option<String>,
    /// The match of a udev rule that identifies the disk at the next boot.
    pub rule: String,
}

/// Disks, and the places that are on no disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disks {
    /// The disks, each once, by name.
    pub found: Vec<Disk>,
    /// A message for each place that is on no disk of this host.
    pub elsewhere: Vec<String>,
}

impl Disk {
    /// Returns the path of the disk's scheduler file.
    pub fn path(&self) -> String {
        format!("/sys/block/{}/queue/scheduler", self.name)
    }
}

/// Returns the directory of the pool, and the images and disks of these domains with their image chains.
///
/// The directory of the pool is that of libvirt's pool, else that in the configuration.
///
/// Errors: `not_found` for a domain that does not exist; those of libvirt for a domain.
pub fn image_paths(
    libvirt: Option<&Libvirt>,
    config: &Config,
    domains: &[String],
) -> Result<Vec<PathBuf>> {
    let pool = PoolSpec::new(config, None);
    let of_libvirt = |libvirt| Pool::by_name(libvirt, &pool.name).ok().flatten()?.path;
    let mut places = vec![libvirt.and_then(of_libvirt).unwrap_or(pool.path)];
    if let Some(libvirt) = libvirt {
        let mut chains = Chains::visible(libvirt);
        for name in domains {
            let definition = definition::inactive(&get(libvirt, name)?, name)?;
            places.extend(definition.block_devices());
            for chain in definition.chains() {
                let below = chain.last().map(|file| chains.below(file)).transpose()?;
                places.extend(chain);
                places.extend(below.map(|below| below.paths).unwrap_or_default());
            }
        }
    }
    Ok(places)
}

/// Returns the disks that hold these files and directories.
///
/// Errors: those of [`MountTable::read`].
pub fn find_disks(host: &Host, places: &[PathBuf]) -> Result<Disks> {
    let table = MountTable::read(host)?;
    let mut search =
        Search { host, table: &table, disks: BTreeMap::new(), elsewhere: BTreeSet::new() };
    places.iter().for_each(|place| search.add_path(place, DEPTH));
    Ok(Disks {
        found: search.disks.into_values().collect(),
        elsewhere: search.elsewhere.into_iter().collect(),
    })
}

struct Search<'h> {
    host: &'h Host,
    table: &'h MountTable,
    disks: BTreeMap<String, Disk>,
    elsewhere: BTreeSet<String>,
}

impl Search<'_> {
    fn add_path(&mut self, place: &Path, depth: usize) {
        let real = self.host.real_path(place);
        let block = real.to_str().and_then(|path| block_of_node(self.host, path));
        if let Some(block) = block {
            return self.add_block(&block, depth);
        }
        let Some(mount) = self.table.mount_of(&real) else {
            return self.add_elsewhere(place, "not on a mounted file system");
        };
        let blocks = mount.blocks(self.host);
        match upper(&mount) {
            _ if !blocks.is_empty() => blocks.iter().for_each(|block| self.add_block(block, depth)),
            Some(upper) if depth > 0 && self.host.path(&upper).exists() => {
                self.add_path(&upper, depth - 1);
            }
            _ => {
                let (kind, source) = (mount.file_system, unescape(mount.source));
                self.add_elsewhere(place, &format!("on {kind} ({source})"));
            }
        }
    }

    fn add_elsewhere(&mut self, place: &Path, why: &str) {
        self.elsewhere.insert(format!("{} is {why}: its disk is unknown", place.display()));
    }

    fn add_block(&mut self, block: &str, depth: usize) {
        for path in disks_below(self.host, block) {
            let Some(name) = last(&path) else { continue };
            let file = attribute(self.host, &format!("/sys/block/{name}/loop/backing_file"));
            match file {
                Some(file) if depth > 0 => self.add_path(Path::new(&file), depth - 1),
                _ => {
                    for name in paths_of(self.host, &path, name) {
                        let disk = Disk {
                            scheduler: attribute(
                                self.host,
                                &format!("/sys/block/{name}/queue/scheduler"),
                            ),
                            rule: rule(self.host, &name),
                            name: name.clone(),
                        };
                        log::detail(format_args!("found disk {name}"));
                        self.disks.insert(name, disk);
                    }
                }
            }
        }
    }
}

/// Returns the upper directory of an overlay file system, to which it writes.
///
/// Source: Linux `Documentation/filesystems/overlayfs.rst`; proc_pid_mountinfo(5), the last field.
fn upper(mount: &Mount<'_>) -> Option<PathBuf> {
    let options = Some(mount.options).filter(|_| mount.file_system == "overlay")?;
    options
        .split(',')
        .find_map(|option| option.strip_prefix("upperdir="))
        .map(|p| unescape(p).into())
}

/// Returns the paths of an NVMe disk with several controllers: the paths have the schedulers, not the disk.
///
/// Source: Linux `drivers/nvme/host/multipath.c`: `nvme0n1` is the head of `nvme0c0n1`, `nvme0c1n1`.
fn paths_of(host: &Host, path: &Path, name: String) -> Vec<String> {
    let is_head = path.to_string_lossy().contains("/nvme-subsystem/");
    let Some(at) = name.rfind('n').filter(|_| is_head) else { return vec![name] };
    let (subsystem, namespace) = name.split_at(at);
    let is_path = |other: &String| {
        let middle = other.strip_prefix(subsystem).and_then(|rest| rest.strip_suffix(namespace));
        middle.and_then(|middle| middle.strip_prefix('c')).is_some_and(|n| n.parse::<u32>().is_ok())
    };
    let paths: Vec<String> = names(host, "/sys/block").into_iter().filter(is_path).collect();
    if paths.is_empty() { vec![name] } else { paths }
}

/// Returns the match of a udev rule for a disk: its id or serial number, else its name.
///
/// Source: udev(7), `ATTR`; Linux `Documentation/ABI/stable/sysfs-block`, `drivers/nvme/host/sysfs.c`.
fn rule(host: &Host, name: &str) -> String {
    let plain = |text: &String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._:- ".contains(c);
        !text.is_empty() && text.chars().all(plain)
    };
    let attribute_rule =
        ["wwid", "device/wwid", "serial", "device/serial"].into_iter().find_map(|key| {
            let text = attribute(host, &format!("/sys/block/{name}/{key}")).filter(plain)?;
            Some(format!("ATTR{{{key}}}==\"{}\"", text.trim()))
        });
    attribute_rule.unwrap_or_else(|| format!("KERNEL==\"{name}\""))
}
