//! The plan of an attach: the elements that are passed to libvirt.

use common::document::Action;
use common::system::sysroot::Host;
use common::{Error, Result};
use virt::sys;

use crate::attach::element::DiskSpec;
use crate::attach::guest_disk::GuestDisk;
use crate::attach::item::AttachItem;
use crate::attach::request::{Affected, AttachRequest};
use crate::attach::target::{Bus, ScsiSlot};
use crate::attach::{element, guest_disk};
use crate::availability::guests::Guest;
use crate::availability::judge;
use crate::block::devices::BlockDevices;
use crate::block::disk::Disk;

/// The state before a disk is attached.
#[derive(Debug)]
pub(super) struct Observed<'a> {
    /// The machine.
    pub(super) host: &'a Host,
    /// The domain.
    pub(super) guest: &'a Guest,
    /// The block devices of the machine.
    pub(super) blocks: &'a BlockDevices,
    /// The disk.
    pub(super) disk: &'a Disk,
    /// The guest disk, if one of the domain's definitions already has the disk.
    pub(super) existing: Option<&'a GuestDisk>,
}

/// The elements that are passed to libvirt, and the item for the document.
#[derive(Debug)]
pub(super) struct AttachPlan {
    /// The item, with the state after the attach.
    pub(super) item: AttachItem,
    /// The elements, in the order in which they are passed to libvirt.
    pub(super) elements: Vec<String>,
    /// `VIR_DOMAIN_AFFECT_LIVE`, `VIR_DOMAIN_AFFECT_CONFIG` or both.
    pub(super) flags: u32,
    /// Warnings for the user.
    pub(super) warnings: Vec<String>,
}

impl AttachPlan {
    /// Plans to add the disk to the definitions of the domain that do not have it yet.
    ///
    /// Errors: `conflict` for a guest target that the domain already has.
    pub(super) fn new(
        request: &AttachRequest,
        observed: &Observed<'_>,
        affected: Affected,
    ) -> Result<Self> {
        let Observed { disk, existing, .. } = *observed;
        let mut warnings = Vec::new();
        let target = target(request, observed)?;
        let source = match existing {
            Some(existing) => existing.source.clone(),
            None => lasting_path(observed, &mut warnings),
        };
        let serial = match existing {
            Some(existing) => existing.serial.clone(),
            None => request.serial.clone().or_else(|| element::visible_serial(disk, request.bus)),
        };
        // A disk that one definition already has is on the bus of that definition.
        let bus = existing.map_or(Some(request.bus), |existing| Bus::named(&existing.bus));
        let spec = DiskSpec {
            disk,
            source: &source,
            target: &target,
            bus: bus.unwrap_or(request.bus),
            serial: serial.as_deref(),
            readonly: request.readonly,
            scsi_slot: None,
        };
        let elements = match existing.and_then(|existing| reusable_element(existing, bus)) {
            Some(xml) => vec![xml],
            None => new_elements(spec, observed.guest, affected)?,
        };
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let flags = flag(affected.live, sys::VIR_DOMAIN_AFFECT_LIVE)
            | flag(affected.config, sys::VIR_DOMAIN_AFFECT_CONFIG);
        let item = AttachItem {
            domain: request.domain.clone(),
            device: disk.node(),
            number: disk.number.to_string(),
            wwn: disk.wwn.clone(),
            bus: existing
                .map_or_else(|| request.bus.as_str().to_owned(), |existing| existing.bus.clone()),
            guest_device: bus.zip(serial.as_deref()).map(|(bus, serial)| bus.guest_path(serial)),
            source,
            target,
            serial,
            size_bytes: disk.size,
            readonly: request.readonly,
            live: affected.live || existing.is_some_and(|existing| existing.live.is_some()),
            config: affected.config || existing.is_some_and(|existing| existing.config.is_some()),
            action: Action::Attach,
        };
        Ok(Self { item, elements, flags, warnings })
    }
}

/// The guest target: the target that the disk already has, else the requested one, else the next free one.
fn target(request: &AttachRequest, observed: &Observed<'_>) -> Result<String> {
    if let Some(existing) = observed.existing {
        return Ok(existing.target.clone());
    }
    let used = guest_disk::targets(observed.guest);
    match &request.target {
        Some(target) if used.contains(target) => {
            let message = format!("domain '{}' already has a disk {target}", request.domain);
            let hint = format!("choose a free target: --target {}", request.bus.next_free(&used));
            Err(Error::conflict(message).hint(hint))
        }
        Some(target) => Ok(target.clone()),
        None => Ok(request.bus.next_free(&used)),
    }
}

/// The element of one definition that can be added to the other definition unchanged.
///
/// The element of the persistent definition is valid for the running guest. The reverse is not true: at the next start,
/// another device may have the addresses of the running guest.
fn reusable_element(existing: &GuestDisk, bus: Option<Bus>) -> Option<String> {
    existing.config.clone().or_else(|| existing.live.clone().filter(|_| bus.is_none()))
}

/// The elements of a disk that no definition has yet: for SCSI a controller if it is missing, then the disk.
fn new_elements(spec: DiskSpec<'_>, guest: &Guest, affected: Affected) -> Result<Vec<String>> {
    let live = guest.live.as_ref().filter(|_| affected.live);
    let config = guest.config.as_ref().filter(|_| affected.config);
    let definitions: Vec<_> = live.into_iter().chain(config).collect();
    let slot = (spec.bus == Bus::Scsi).then(|| ScsiSlot::find(&definitions));
    let controller = slot.as_ref().and_then(ScsiSlot::new_controller);
    let disk = element::disk_element(&DiskSpec { scsi_slot: slot.as_ref(), ..spec });
    controller.into_iter().chain([disk]).map(|element| element.to_xml()).collect()
}

/// The permanent path of the disk; without one the device node, with a warning.
fn lasting_path(observed: &Observed<'_>, warnings: &mut Vec<String>) -> String {
    let disk = observed.disk;
    let twins = judge::twins(observed.host, observed.blocks, disk);
    let by_id = disk.by_id().filter(|_| twins.is_empty());
    if let Some(path) = by_id.or_else(|| disk.by_path()) {
        return path.to_owned();
    }
    let node = disk.node();
    warnings
        .push(format!("{node} has no persistent name: after a reboot, {node} may be another disk"));
    node
}
