//! Starting a domain with its devices, and finding the devices that it holds.

use std::collections::BTreeSet;

use common::Result;
use common::cli::is_root;
use common::document::Action;
use common::libvirt::Libvirt;
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::units::Size;
use tdx_gpu::device_assignment::{AssignedDevices, DeviceAssignment};
use virt::domain::Domain;

use crate::domain::definition::Definition;
use crate::domain::purpose::Purpose;
use crate::domain::{definition, power};
use crate::passthrough::devices::{CC, DEVICES, Devices, NONE};
use crate::passthrough::request::{CcMode, DeviceRequest};
use crate::security::attestation;

/// Does something with devices taken: they stay when it succeeds, and go back when it fails.
pub fn with_devices<T>(
    host: &Host,
    handover: Option<DeviceAssignment>,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let Some(mut handover) = handover else {
        return work();
    };
    let taken = handover.apply(host)?;
    match work() {
        Ok(done) => taken.commit().map(|()| done),
        Err(error) => Err(taken.undo_after(error)),
    }
}

/// What takes the devices of a domain that these tools made, for it to start: after a reboot of the host
/// no VFIO driver has them. None for a domain without any.
///
/// Errors: those of [`Devices::new`].
pub fn reassignment(
    host: &Host,
    libvirt: &Libvirt,
    definition: &Definition,
) -> Result<Option<DeviceAssignment>> {
    let Some(metadata) = &definition.metadata else {
        return Ok(None);
    };
    if metadata.requested(DEVICES).is_none_or(|devices| devices == NONE) {
        return Ok(None);
    }
    let cc = match metadata.requested(CC) {
        Some("ppcie") => CcMode::Ppcie,
        Some("on") => CcMode::On,
        _ => CcMode::Leave,
    };
    // As the definition is now: a user can have changed it.
    let named: BTreeSet<Bdf> = definition.unmanaged_devices().into_iter().collect();
    let request = DeviceRequest { requested: named.into(), cc: Some(cc) };
    let uuid = definition.uuid();
    let devices = Devices::new(
        host,
        libvirt,
        &request,
        definition.launch_security_name(),
        &uuid,
        Purpose::Create,
    )?;
    let memory = Size(definition.memory_bytes().unwrap_or_default());
    Ok(devices.assignment(memory, &uuid))
}

/// What was taken for a domain of this host; nothing where an ordinary user need not ask.
///
/// Errors: `permission` for all but root, for a domain that has, or was made with, devices.
pub fn assigned_devices(
    host: &Host,
    libvirt: &Libvirt,
    definition: &Definition,
) -> Result<AssignedDevices> {
    let made_with = definition.metadata.as_ref().and_then(|metadata| metadata.requested(DEVICES));
    let has_some = !definition.unmanaged_devices().is_empty()
        || made_with.is_some_and(|devices| devices != NONE);
    if has_some && libvirt.is_local() {
        AssignedDevices::load(host, &definition.uuid())
    } else {
        Ok(AssignedDevices::default())
    }
}

/// What [`start_or_resume`] would take. Its errors as far as they can be told before.
pub fn preview_start(
    host: &Host,
    libvirt: &Libvirt,
    domain: &Domain,
    name: &str,
) -> Result<Action> {
    let action = power::action_to_run(domain, name)?;
    if is_root() && libvirt.is_local() && !power::is_active(domain, name)? {
        reassignment(host, libvirt, &definition::inactive(domain, name)?)?;
    }
    Ok(action)
}

/// Has a domain running, with its devices. Returns what it took.
pub fn start_or_resume(
    host: &Host,
    libvirt: &Libvirt,
    domain: &Domain,
    name: &str,
) -> Result<Action> {
    let definition = definition::inactive(domain, name)?;
    // Only root can take devices; others can start what has its devices.
    if !libvirt.is_local() || !is_root() || definition.unmanaged_devices().is_empty() {
        return attestation::start_or_resume(host, libvirt, domain, &definition);
    }
    if power::is_active(domain, name)? {
        // A command that died had started it.
        AssignedDevices::load(host, &definition.uuid())?.commit(host)?;
        return attestation::start_or_resume(host, libvirt, domain, &definition);
    }
    with_devices(host, reassignment(host, libvirt, &definition)?, || {
        attestation::start_or_resume(host, libvirt, domain, &definition)
    })
}
