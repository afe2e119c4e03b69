//! The devices that the command line, or a document on standard input, names.

use std::os::unix::fs::FileTypeExt;

use common::document::identity::Comparison;
use common::document::{identity, input};
use common::system::sysroot::Host;
use common::{Code, Error, ErrorKind, IoContext, Result, name};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::block::devices::{BlockDevice, BlockDevices};
use crate::block::disk::Disk;

/// The claims of an item about a disk, besides its device.
#[derive(Debug, Clone, Default, Deserialize)]
struct DiskClaim {
    /// The serial number; in an item with a target, the number that the guest sees.
    serial: Option<String>,
    wwn: Option<String>,
    /// The name of the host that has the disk.
    host: Option<String>,
    /// The guest target, in items about guest disks.
    target: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Item {
    #[serde(deserialize_with = "name::deserialize_path")]
    device: String,
    #[serde(flatten)]
    claim: DiskClaim,
}

/// A device that the user named.
#[derive(Debug, Clone)]
pub struct NamedDevice {
    /// The name: a path, or a name below `/dev`.
    pub name: String,
    /// The claims of the items on standard input about the device.
    claims: Vec<DiskClaim>,
}

impl NamedDevice {
    /// Compares the claims of items with the disk that has the name now.
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

/// The named devices, in the given order and without duplicates.
///
/// Errors: `usage` when `-` is combined with names; `invalid_input` for input that is not about disks.
pub fn read(words: &[String]) -> Result<Vec<NamedDevice>> {
    let is_stdin = words.iter().any(|word| word == input::STDIN);
    if is_stdin && words.len() > 1 {
        return Err(Error::usage(
            "'-' cannot be combined with names: name disks or read them from standard input",
        ));
    }
    let named: Vec<(String, Option<DiskClaim>)> = if is_stdin {
        let items: Vec<Item> =
            input::items(&["tdx.disk."], "JSON items, each with the key 'device'")?;
        items.into_iter().map(|item| (item.device, Some(item.claim))).collect()
    } else {
        words.iter().map(|word| (word.clone(), None)).collect()
    };
    let named = identity::by_name(named).into_iter();
    Ok(named.map(|(name, claims)| NamedDevice { name, claims }).collect())
}

/// The absolute path of a name: `/dev/sdb` for `sdb`, and a path below the current directory for `./disk`.
///
/// Errors: `usage` for an invalid name; `io` when the current directory does not exist.
pub fn absolute_path(name: &str) -> Result<String> {
    if name.is_empty() || name.contains('\0') {
        return Err(Error::usage(format!("invalid device name {name:?}")));
    }
    if name.contains('/') {
        Ok(std::path::absolute(name).at("resolve", name)?.to_string_lossy().into_owned())
    } else {
        Ok(format!("/dev/{name}"))
    }
}

/// The block device with this name, after links are followed.
///
/// Errors: `not_found` for an absent device or a cycle of links; `invalid_input` with code `NOT_BLOCK` for anything
/// other than a block device.
pub fn find<'b>(host: &Host, blocks: &'b BlockDevices, name: &str) -> Result<&'b BlockDevice> {
    let path = absolute_path(name)?;
    if let Some(block) = blocks.at_path(host, &path) {
        return Ok(block);
    }
    let metadata = match std::fs::metadata(host.path(&path)).at("examine", &path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let error = Error::not_found(format!("device {path} not found")).because(error);
            return Err(error.hint("to see all disks, run tdx-disk list"));
        }
        metadata => metadata?,
    };
    if metadata.file_type().is_block_device() {
        return Err(Error::not_found(format!("the kernel has no device for the node {path}")));
    }
    Err(Error::invalid_input(format!("{path} is not a block device"))
        .code(Code::NotBlock)
        .hint("to see all disks, run tdx-disk list"))
}
