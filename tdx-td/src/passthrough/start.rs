//! Starting a domain with its host devices, and finding the devices that are bound for it.

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

/// Binds the devices, then runs `work`. If `work` fails, the devices are released.
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

/// Returns the assignment of the devices of a domain that these tools created, before it starts: after a reboot
/// of the host no VFIO driver is bound to them. `None` for a domain without devices.
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
    // The devices of the current definition: a user may have changed it.
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

/// Returns the devices that are bound for a domain of this host.
///
/// Errors: `permission` for a user other than root, for a domain that has, or was created with, devices.
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

/// Returns the action that [`start_or_resume`] would take, or its error as far as it can be predicted.
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

/// Starts or resumes a domain with its host devices. Returns the action.
pub fn start_or_resume(
    host: &Host,
    libvirt: &Libvirt,
    domain: &Domain,
    name: &str,
) -> Result<Action> {
    let definition = definition::inactive(domain, name)?;
    // Only root can bind devices. Other users can start domains whose devices are bound.
    if !libvirt.is_local() || !is_root() || definition.unmanaged_devices().is_empty() {
        return attestation::start_or_resume(host, libvirt, domain, &definition);
    }
    if power::is_active(domain, name)? {
        // The domain was started by a command that was killed afterwards.
        AssignedDevices::load(host, &definition.uuid())?.commit(host)?;
        return attestation::start_or_resume(host, libvirt, domain, &definition);
    }
    with_devices(host, reassignment(host, libvirt, &definition)?, || {
        attestation::start_or_resume(host, libvirt, domain, &definition)
    })
}
