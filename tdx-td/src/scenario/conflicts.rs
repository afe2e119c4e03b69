//! Checks for settings that contradict each other, or that this host does not support.

use std::ops::RangeInclusive;

use common::cli::log;
use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use common::units::{DISK, MEMORY, Size};
use common::{Error, Result};
use serde_json::Value;
use tdx_pool::image::Format;

use crate::capability;
use crate::capability::{Security, VirtType};
use crate::firmware::choice::{FirmwareChoice, Rules};
use crate::firmware::directory::{Descriptors, Scope};
use crate::firmware::installed;
use crate::firmware::query::FirmwareQuery;
use crate::scenario::enums::{DiskBus, MemoryBacking, Preallocation, Video};
use crate::scenario::layers::{Layers, Origin, Sections};
use crate::scenario::profile::{AutoOr, OnOff, Profile};
use crate::scenario::value::{display_value, size_value};

/// Fails for settings that contradict each other.
///
/// Errors: `usage`, which names both settings.
pub fn check(profile: &Profile, security: Security) -> Result<()> {
    check_ranges(profile)?;
    let (guest, storage) = (&profile.guest, &profile.storage);
    let tdx = security == Security::Tdx;
    let by_bus = if storage.bus == DiskBus::Virtio { "vd" } else { "sd" };
    let letter = storage.target.strip_prefix(by_bus);
    let named =
        letter.is_some_and(|letter| letter.len() == 1 && letter.as_bytes()[0].is_ascii_lowercase());
    let contradictions = [
        (
            storage.encryption == OnOff(true) && storage.format == Format::Raw,
            "storage.encryption is on, which needs a qcow2 disk, but storage.format is raw",
            "--set storage.format=qcow2",
        ),
        (
            guest.secure_boot == AutoOr::Is(OnOff(true)) && guest.smm == AutoOr::Is(OnOff(false)),
            "guest.secure_boot is on, which needs system management mode, but guest.smm is off",
            "--set guest.smm=auto",
        ),
        (
            tdx && guest.smm == AutoOr::Is(OnOff(true)),
            "guest.smm is on, but a trust domain cannot have system management mode",
            "--set guest.smm=auto",
        ),
        (
            tdx && guest.host_filesystem.is_some(),
            "guest.host_filesystem is set, but a trust domain cannot share a directory of the host",
            "--set guest.host_filesystem=none",
        ),
        (
            tdx && guest.memory_backing == MemoryBacking::Shared,
            "guest.memory_backing is shared, but the memory of a trust domain is private",
            "--set guest.memory_backing=private",
        ),
        (
            tdx && guest.cpu_migratable == Some(OnOff(true)),
            "guest.cpu_migratable is on, but a trust domain cannot be migrated",
            "--set guest.cpu_migratable=off",
        ),
        (
            storage.cluster_size.is_some_and(|Size(bytes)| {
                !bytes.is_power_of_two() || !(512..=2 << 20).contains(&bytes)
            }),
            "storage.cluster_size is not a power of two from 512 bytes to 2 MiB",
            "--set storage.cluster_size=64k",
        ),
        (
            !named,
            "storage.target does not match storage.bus: it must be vda to vdz for virtio, sda to sdz for \
             other buses",
            "--set storage.target=vda --set storage.bus=virtio",
        ),
    ];
    match contradictions.into_iter().find(|(found, ..)| *found) {
        None => Ok(()),
        Some((_, message, hint)) => Err(Error::usage(message).hint(format!("add {hint}"))),
    }
}

/// Fails for numbers that are out of range.
///
/// Errors: `usage`, which names the setting and its range.
fn check_ranges(profile: &Profile) -> Result<()> {
    let (guest, storage) = (&profile.guest, &profile.storage);
    let bytes = |size: Option<Size>| size.map(|Size(bytes)| bytes);
    let size = |bytes: u64| Size(bytes).to_string();
    let count = |count: u64| count.to_string();
    type Shown<'a> = &'a dyn Fn(u64) -> String;
    let settings: [(&str, Option<u64>, RangeInclusive<u64>, Shown<'_>); 6] = [
        ("guest.vcpus", guest.vcpus.map(u64::from), 0..=4096, &count),
        ("guest.memory", bytes(guest.memory), 0..=*MEMORY.end(), &size),
        ("guest.memory_headroom", bytes(guest.memory_headroom), 0..=*MEMORY.end(), &size),
        ("guest.iothreads", Some(guest.iothreads.into()), 0..=4096, &count),
        ("storage.capacity", bytes(storage.capacity), 0..=*DISK.end(), &size),
        ("host.hugepages", profile.host.hugepages, 0..=1 << 32, &count),
    ];
    for (name, value, range, shown) in settings {
        if let Some(value) = value.filter(|value| !range.contains(value)) {
            let (value, most) = (shown(value), shown(*range.end()));
            return Err(Error::usage(format!("{name} is {value}, but may be at most {most}")));
        }
    }
    Ok(())
}

/// Returns warnings about settings that do not apply to the format of the disk.
pub fn ignored_settings(profile: &Profile, layers: &Layers) -> Vec<String> {
    let storage = &profile.storage;
    if storage.format == Format::Qcow2 {
        return Vec::new();
    }
    [
        ("storage.lazy_refcounts", storage.lazy_refcounts == OnOff(true)),
        ("storage.cluster_size", storage.cluster_size.is_some()),
        ("storage.compression_type", storage.compression_type.is_some()),
        ("storage.preallocation", storage.preallocation == Preallocation::Metadata),
    ]
    .into_iter()
    .filter(|(setting, set)| *set && layers.is_assigned(setting))
    .map(|(setting, _)| format!("{setting} is ignored: it does not apply to a raw disk"))
    .collect()
}

/// Replaces settings of the scenario that this host does not support. Returns descriptions of the changes.
///
/// Errors: `unsupported` for a setting that the user assigned, and for a TPM, which cannot be replaced.
pub fn adapt_to_host(
    layers: &mut Layers,
    host: &Host,
    libvirt: &Libvirt,
    (security, virt_type): (Security, VirtType),
    general: &Profile,
) -> Result<Vec<String>> {
    let guest = layers.profile()?.guest;
    let mut changed = Vec::new();
    let capacity = capability::capacity(host, libvirt)?;
    let has = Size(capacity.memory_bytes);
    let too_much = guest.memory.is_some_and(|memory| memory.0 > has.0);
    // A size that the user assigned is not replaced: see `CreationPlan::memory_shortage`.
    if too_much && !layers.is_assigned("guest.memory") {
        let usual = Size(capacity.usual_memory());
        layers.put(&Origin::Host, Sections::single("guest.memory", size_value(usual)))?;
        changed.push(format!(
            "guest.memory is {usual} instead of the scenario's value, because the host has {has}"
        ));
    }
    if guest.machine != general.guest.machine
        && !capability::machines(libvirt)?.contains(&guest.machine)
    {
        let none = format!("QEMU on this host does not support machine {}", guest.machine);
        let instead = general.guest.machine.as_str().into();
        changed.push(replace(layers, "guest.machine", instead, &none)?);
    }
    let offered = |device: &str| capability::device_values(libvirt, virt_type, device);
    let video = guest.video.as_str();
    if guest.video != Video::None && !offered("video")?.iter().any(|offered| offered == video) {
        let none = format!("QEMU on this host does not support video {video}");
        changed.push(replace(layers, "guest.video", "virtio".into(), &none)?);
    }
    if let Some(tpm) = &guest.tpm {
        let values = offered("tpm")?;
        let has = |word: &str| values.iter().any(|value| value == word);
        if !has(&tpm.model) || !has("emulator") {
            return Err(Error::unsupported(format!(
                "this host cannot emulate the TPM {}",
                tpm.model
            ))
            .hint("install swtpm and swtpm-tools, or add --set guest.tpm=none"));
        }
    }
    changed.extend(disable_unsupported_sleep(layers, host, libvirt, security)?);
    Ok(changed)
}

/// Whether libvirt finds firmware for a guest only if the guest requests a stateless build.
///
/// libvirt before 12.1.0 uses stateless builds, as those for AMD SEV often are, only for guests that request
/// one.
///
/// Errors: those of [`Descriptors::read`].
pub fn needs_stateless_firmware(
    profile: &Profile,
    host: &Host,
    libvirt: &Libvirt,
    security: Security,
) -> Result<bool> {
    if !security.is_sev() || !libvirt.is_local() {
        return Ok(false);
    }
    let wanted = FirmwareQuery::for_guest(&profile.guest, security);
    let descriptors = Descriptors::read(host, Scope::System)?;
    Ok(FirmwareChoice::needs_stateless(&descriptors, &wanted, &Rules::ask(libvirt, &wanted)))
}

/// Turns off the kinds of sleep that no firmware of this host supports. Returns descriptions of the changes.
///
/// Errors: `unsupported` for a kind of sleep that the user assigned.
fn disable_unsupported_sleep(
    layers: &mut Layers,
    host: &Host,
    libvirt: &Libvirt,
    security: Security,
) -> Result<Vec<String>> {
    let mut changed = Vec::new();
    for (setting, feature) in
        [("guest.suspend_to_mem", "acpi-s3"), ("guest.suspend_to_disk", "acpi-s4")]
    {
        let mut guest = layers.profile()?.guest;
        let state = match feature {
            // The other kind is checked next.
            "acpi-s3" => {
                guest.suspend_to_disk = None;
                guest.suspend_to_mem
            }
            _ => guest.suspend_to_disk,
        };
        if state != Some(OnOff(true)) || !libvirt.is_local() {
            continue;
        }
        let wanted = FirmwareQuery::for_guest(&guest, security);
        let choice = installed::choose(host, &wanted, &Rules::ask(libvirt, &wanted))?;
        if let Some(why) = choice.complaint(&wanted) {
            log::step(format_args!("{why}"));
            let none = format!("no firmware on this host has the feature {feature}");
            changed.push(replace(layers, setting, "off".into(), &none)?);
        }
    }
    Ok(changed)
}

fn replace(layers: &mut Layers, setting: &str, instead: Value, none: &str) -> Result<String> {
    if layers.is_assigned(setting) {
        return Err(Error::unsupported(format!("{none}, which is needed for {setting}")));
    }
    let change =
        format!("{setting} is {} instead of the scenario's value: {none}", display_value(&instead));
    layers.put(&Origin::Host, Sections::single(setting, instead))?;
    Ok(change)
}
