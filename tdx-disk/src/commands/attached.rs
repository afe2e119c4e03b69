//! `tdx-disk attached`: shows the host disks that are attached to domains.

use std::borrow::Cow;
use std::cmp::Ordering;

use clap::Args;
use common::Result;
use common::cli::Context;
use common::document::output::Outcome;
use common::document::{Document, Item};
use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use common::units::Size;
use schemars::JsonSchema;
use serde::Serialize;
use virt::connect::Connect;

use crate::attach::domain_handle::DomainHandle;
use crate::attach::guest_disk::GuestDisk;
use crate::attach::undefined_disk::UndefinedDisk;
use crate::attach::{guest_disk, undefined_disk};
use crate::availability::guests;
use crate::availability::guests::Guest;
use crate::availability::vm_process::VmProcess;
use crate::block::devices::BlockDevices;
use crate::block::disk::Disk;

const EXAMPLES: &str = "Examples:
  tdx-disk attached
  tdx-disk attached vm --json | jq -r '.items[].target'";

/// Arguments of `attached`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct AttachedArgs {
    /// Show only the disks of this domain
    #[arg(value_name = "VM")]
    domain: Option<String>,
}

/// A disk of a domain in a document of `tdx-disk attached`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AttachedItem {
    /// The name of the domain.
    pub domain: String,
    /// The device node of the host, as the kernel names it. For an absent device, the path in the domain's definition.
    pub device: String,
    /// The path in the domain's definition.
    pub source: String,
    /// The guest target, such as `vdb`.
    pub target: String,
    /// The bus of the guest disk: `virtio`, `scsi`, ….
    pub bus: String,
    /// The serial number that the guest sees.
    pub serial: Option<String>,
    /// The size of the disk, in bytes; null when the device is absent.
    pub size_bytes: Option<u64>,
    /// Whether the guest disk is read-only.
    pub readonly: bool,
    /// Whether the running guest has the disk.
    pub live: bool,
    /// Whether the persistent definition of the domain has the disk.
    pub config: bool,
    /// Whether the device is absent from the host.
    pub gone: bool,
}

impl Item for AttachedItem {
    const COLUMNS: &'static [&'static str] =
        &["DOMAIN", "TARGET", "DEVICE", "SIZE", "SERIAL", "LIVE", "CONFIG", "GONE"];
    const DROPPED: &'static [&'static str] = &["SERIAL", "SIZE"];

    fn key(&self) -> Cow<'_, str> {
        self.device.as_str().into()
    }

    fn compare(&self, other: &Self) -> Ordering {
        let order = |item: &Self| (item.domain.clone(), guest_disk::target_order(&item.target));
        order(self).cmp(&order(other))
    }

    fn row(&self) -> Vec<String> {
        let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
        vec![
            self.domain.clone(),
            self.target.clone(),
            self.device.clone(),
            self.size_bytes.map(|size| Size(size).to_string()).unwrap_or_default(),
            self.serial.clone().unwrap_or_default(),
            yes(self.live),
            yes(self.config),
            yes(self.gone),
        ]
    }
}

/// Shows the block devices of the host that all domains, or one domain, have. Warns about devices that QEMU has open
/// although the running definition does not name them.
///
/// Errors: `not_found` for a domain that does not exist.
pub fn run(
    context: &Context,
    open: impl Fn() -> Result<Libvirt>,
    args: AttachedArgs,
) -> Result<Outcome> {
    let host = &context.host;
    match args.domain {
        Some(name) => {
            let handle = DomainHandle::find(&open, &name)?;
            show(host, handle.libvirt(), || Ok(vec![handle.guest()?]))
        }
        None => {
            let libvirt = open()?;
            show(host, &libvirt, || guests::all(&libvirt))
        }
    }
}

fn show(host: &Host, libvirt: &Libvirt, read: impl Fn() -> Result<Vec<Guest>>) -> Result<Outcome> {
    let (guests, blocks) = (read()?, BlockDevices::read(host)?);
    let connect = libvirt.connect();
    let items = guests.iter().flat_map(|guest| items_of(host, &blocks, guest, connect)).collect();
    let mut first = Some((guests, blocks));
    let undefined = undefined_disk::find_lasting(|| {
        let (guests, blocks) = match first.take() {
            Some(read) => read,
            None => (read()?, BlockDevices::read(host)?),
        };
        if !host.is_this_machine() {
            return Ok(Vec::new());
        }
        let processes = VmProcess::all(host)?;
        let find = |guest| undefined_disk::find(host, &blocks, guest, &processes, Some(connect));
        Ok(guests.iter().map(find).collect::<Result<Vec<_>>>()?.concat())
    })?;
    let warnings = undefined.iter().map(UndefinedDisk::message);
    Ok(Document::new("tdx.disk.attached", items).warnings(warnings).into())
}

fn items_of(
    host: &Host,
    blocks: &BlockDevices,
    guest: &Guest,
    connect: &Connect,
) -> Vec<AttachedItem> {
    let disks = guest_disk::disks_of(host, blocks, guest, Some(connect));
    disks.into_iter().map(|disk| item(host, blocks, &guest.name, disk)).collect()
}

fn item(host: &Host, blocks: &BlockDevices, domain: &str, disk: GuestDisk) -> AttachedItem {
    let block = disk.block.as_deref().and_then(|name| blocks.named(name));
    AttachedItem {
        domain: domain.to_owned(),
        device: block.map_or_else(|| disk.source.clone(), |block| block.node()),
        target: disk.target,
        bus: disk.bus,
        serial: disk.serial,
        size_bytes: block.map(|block| Disk::read(host, blocks, block).size),
        readonly: disk.readonly,
        live: disk.live.is_some(),
        config: disk.config.is_some(),
        gone: block.is_none(),
        source: disk.source,
    }
}
