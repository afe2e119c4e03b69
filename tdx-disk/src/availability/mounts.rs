//! What is mounted, in every mount namespace, and what is swapped to.

use std::collections::{BTreeMap, BTreeSet};

use common::shell::quote;
use common::system::host_storage::{HostStorage, Need, NeededBlock};
use common::system::sysroot::Host;
use common::{Code, Result};

pub use common::system::host_storage::Scope;

use crate::availability::finding::Finding;

/// What is seen of block devices, by their kernel names.
#[derive(Debug, Default)]
pub struct Mounts {
    by_block: BTreeMap<String, BTreeSet<Finding>>,
    points: BTreeMap<String, BTreeSet<String>>,
    /// How many processes did not show what is mounted for them.
    pub unseen: usize,
    /// What could not be read, a sentence each.
    pub problems: Vec<String>,
}

impl Mounts {
    /// Reads mount tables, swaps, and from where the kernel resumes.
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

    /// A mount comes before the btrfs that it is part of: so are they sorted.
    fn add_need(&mut self, NeededBlock { block, need }: NeededBlock) {
        let node = format!("/dev/{}", block.replace('!', "/"));
        match need {
            Need::Mount { point, is_system, process, .. } => {
                let target = quote(&point);
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
                    let message = format!("the host has {point} on {node}");
                    self.add(&block, Finding::new(Code::SystemDisk, message));
                } else {
                    finding = finding.remedy(umount);
                }
                self.add(&block, finding);
                self.points.entry(block).or_default().insert(point);
            }
            Need::BtrfsMember { uuid } => {
                if !self.of(&block).any(|finding| finding.code == Code::Mounted) {
                    let message = format!("{node} is part of the mounted btrfs {uuid}");
                    self.add(&block, Finding::new(Code::Mounted, message));
                }
            }
            Need::Swap { place } => {
                let finding = Finding::new(Code::Swap, format!("{place} is swap"));
                self.add(&block, finding.remedy(format!("swapoff {}", quote(&place))));
            }
            Need::Resume => {
                let message = format!("the host resumes from {node}");
                self.add(&block, Finding::new(Code::SystemDisk, message));
            }
        }
    }

    /// What is seen of one device itself, not of what stands on it.
    pub fn of(&self, block: &str) -> impl Iterator<Item = &Finding> {
        self.by_block.get(block).into_iter().flatten()
    }

    /// Where a device itself is mounted.
    pub fn points(&self, block: &str) -> impl Iterator<Item = &String> {
        self.points.get(block).into_iter().flatten()
    }

    fn add(&mut self, block: &str, finding: Finding) {
        self.by_block.entry(block.to_owned()).or_default().insert(finding);
    }
}
