//! Finds the mounts in every mount namespace, and the swaps.

use std::collections::{BTreeMap, BTreeSet};

use common::system::host_storage::{HostStorage, Need, NeededBlock};
use common::system::sysroot::Host;
use common::{Code, Result};

pub use common::system::host_storage::Scope;

use crate::availability::finding::{Finding, shell_quoted};

/// The mounts, swaps and the hibernation image, by the kernel name of the block device.
#[derive(Debug, Default)]
pub struct Mounts {
    by_block: BTreeMap<String, BTreeSet<Finding>>,
    mount_points: BTreeMap<String, BTreeSet<String>>,
    /// The number of processes whose mounts could not be read.
    pub unseen: usize,
    /// Messages about facts that could not be read.
    pub problems: Vec<String>,
}

impl Mounts {
    /// Reads mount tables, swaps, and the device that the kernel resumes from.
    ///
    /// Errors: those of [`HostStorage::read`].
    pub fn read(host: &Host, scope: Scope) -> Result<Self> {
        let HostStorage { needed, unseen, problems, .. } = HostStorage::read(host, scope)?;
        let mut mounts = Self { unseen, problems, ..Self::default() };
        for needed in needed {
            mounts.add_need(needed);
        }
        Ok(mounts)
    }

    /// Adds the devices. The list is sorted so that a mount comes before its btrfs.
    fn add_need(&mut self, NeededBlock { block, need }: NeededBlock) {
        let node = format!("/dev/{}", block.replace('!', "/"));
        match need {
            Need::Mount { point, is_system, process, .. } => {
                let target = shell_quoted(&point);
                let (place, umount) = match process {
                    None => (String::new(), format!("umount {target}")),
                    Some(pid) => (
                        format!(" in the mount namespace of process {pid}"),
                        format!("nsenter -t {pid} -m umount {target}"),
                    ),
                };
                let message = format!("{node} is mounted on {point}{place}");
                let mut finding = Finding::new(Code::Mounted, message);
                if is_system {
                    let message = format!("the host needs {point}, which is on {node}");
                    self.add(&block, Finding::new(Code::SystemDisk, message));
                } else {
                    finding = finding.remedy(umount);
                }
                self.add(&block, finding);
                self.mount_points.entry(block).or_default().insert(point);
            }
            Need::BtrfsMember { uuid } => {
                if !self.findings_of(&block).any(|finding| finding.code == Code::Mounted) {
                    let message = format!("{node} is part of the mounted btrfs file system {uuid}");
                    self.add(&block, Finding::new(Code::Mounted, message));
                }
            }
            Need::Swap { place } => {
                let finding =
                    Finding::new(Code::Swap, format!("the host uses {place} as swap space"));
                self.add(&block, finding.remedy(format!("swapoff {}", shell_quoted(&place))));
            }
            Need::Resume => {
                let message = format!("{node} is the resume device of the host, for hibernation");
                self.add(&block, Finding::new(Code::SystemDisk, message));
            }
        }
    }

    /// The findings about a device itself, without those about the devices that it backs.
    pub fn findings_of(&self, block: &str) -> impl Iterator<Item = &Finding> {
        self.by_block.get(block).into_iter().flatten()
    }

    /// The mount points of a device itself.
    pub fn points(&self, block: &str) -> impl Iterator<Item = &String> {
        self.mount_points.get(block).into_iter().flatten()
    }

    fn add(&mut self, block: &str, finding: Finding) {
        self.by_block.entry(block.to_owned()).or_default().insert(finding);
    }
}
