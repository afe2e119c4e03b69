//! The devices a verb is about: named on the command line or in a document on standard input.

use std::os::unix::fs::FileTypeExt;

use common::document::identity::Comparison;
use common::document::{identity, input};
use common::system::sysroot::Host;
use common::{Code, Error, ErrorKind, IoContext, Result, name};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::block::devices::{BlockDevice, BlockDevices};
use crate::block::disk::Disk;

/// What an item says of a disk beside its device.
#[derive(Debug, Clone, Default, Deserialize)]
struct DiskClaim {
    /// Serial number; the one that the guest sees where there is a target.
    serial: Option<String>,
    wwn: Option<String>,
    /// The host that the disk is in.
    host: Option<String>,
    /// The guest's name for it, in items about disks that guests have.
    target: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Item {
    #[serde(deserialize_with = "name::deserialize_path")]
    device: String,
    #[serde(flatten)]
    claim: DiskClaim,
}

/// A device that a verb is about.
#[derive(Debug, Clone)]
pub struct NamedDevice {
    /// Its name: a path, or what stands below `/dev`.
    pub name: String,
    /// What the items of standard input say of it.
    claims: Vec<DiskClaim>,
}

impl NamedDevice {
    /// Compares what items say with the disk that has the name now.
    ///
    /// Errors: `conflict` with code `IDENTITY_CHANGED`.
    pub fn expect_same(&self, host: &Host, disk: &Disk) -> Result<()> {
        let host_name = host.name();
        let compare = |comparison: Comparison, claim: &DiskClaim| {
            let serial = claim.serial.as_deref().filter(|_| claim.target.is_none());
            comparison
                .host(claim.host.as_deref(), host_name.as_deref())
                .text("serial", serial, disk.serial.as_deref())
                .text("wwn", claim.wwn.as_deref(), disk.wwn.as_deref())
        };
        let comparison = Comparison::new(format_args!("disk {}", disk.node()));
        self.claims.iter().fold(comparison, compare).finish()
    }
}

/// The devices, each name once, in the order given.
///
/// Errors: `usage` when `-` does not stand alone; `invalid_input` for what is no document on disks.
pub fn read(words: &[String]) -> Result<Vec<NamedDevice>> {
    let is_stdin = words.iter().any(|word| word == input::STDIN);
    if is_stdin && words.len() > 1 {
        return Err(Error::usage("- stands alone"));
    }
    let named: Vec<(String, Option<DiskClaim>)> = if is_stdin {
        let items: Vec<Item> = input::items(&["tdx.disk."], "disks with a device")?;
        items.into_iter().map(|item| (item.device, Some(item.claim))).collect()
    } else {
        words.iter().map(|word| (word.clone(), None)).collect()
    };
    let named = identity::by_name(named).into_iter();
    Ok(named.map(|(name, claims)| NamedDevice { name, claims }).collect())
}

/// A name as a path from the root: `sdb` is `/dev/sdb`, `./disk` is here.
///
/// Errors: `usage` for what can be no name; `io` when there is no current folder.
pub fn absolute_path(name: &str) -> Result<String> {
    if name.is_empty() || name.contains('\0') {
        return Err(Error::usage(format!("{name:?} is no name of a device")));
    }
    if name.contains('/') {
        Ok(std::path::absolute(name).at("resolve", name)?.to_string_lossy().into_owned())
    } else {
        Ok(format!("/dev/{name}"))
    }
}

/// The block device of a name, through whatever links.
///
/// Errors: `not_found` where there is none, links that lead in a circle included; `invalid_input` with
/// code `NOT_BLOCK` for anything else that is there.
pub fn find<'b>(host: &Host, blocks: &'b BlockDevices, name: &str) -> Result<&'b BlockDevice> {
    let path = absolute_path(name)?;
    if let Some(block) = blocks.at_path(host, &path) {
        return Ok(block);
    }
    let metadata = match std::fs::metadata(host.path(&path)).at("examine", &path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let error = Error::not_found(format!("no device {path}")).because(error);
            return Err(error.hint("tdx-disk list shows the disks"));
        }
        metadata => metadata?,
    };
    if metadata.file_type().is_block_device() {
        return Err(Error::not_found(format!("the kernel has no device behind {path}")));
    }
    Err(Error::invalid_input(format!("{path} is no block device"))
        .code(Code::NotBlock)
        .hint("tdx-disk list shows the disks"))
}
