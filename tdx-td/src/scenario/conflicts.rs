//! What of the settings cannot be together, or not on this host.

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

/// Fails for settings that cannot be together.
///
/// Errors: `usage`, naming both.
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
            "an encrypted disk is qcow2: storage.encryption is on, storage.format raw",
            "--set storage.format=qcow2",
        ),
        (
            guest.secure_boot == AutoOr::Is(OnOff(true)) && guest.smm == AutoOr::Is(OnOff(false)),
            "secure boot guards its variables by system management mode: guest.secure_boot is on, \
             guest.smm off",
            "--set guest.smm=auto",
        ),
        (
            tdx && guest.smm == AutoOr::Is(OnOff(true)),
            "a trust domain has no system management mode: guest.smm is on",
            "--set guest.smm=auto",
        ),
        (
            tdx && guest.host_filesystem.is_some(),
            "a trust domain trusts no folder of the host: guest.host_filesystem is set",
            "--set guest.host_filesystem=none",
        ),
        (
            tdx && guest.memory_backing == MemoryBacking::Shared,
            "a trust domain's memory is its own: guest.memory_backing is shared",
            "--set guest.memory_backing=private",
        ),
        (
            tdx && guest.cpu_migratable == Some(OnOff(true)),
            "a trust domain cannot migrate: guest.cpu_migratable is on",
            "--set guest.cpu_migratable=off",
        ),
        (
            storage.cluster_size.is_some_and(|Size(bytes)| {
                !bytes.is_power_of_two() || !(512..=2 << 20).contains(&bytes)
            }),
            "a cluster is a power of two from 512 bytes to 2 MiB: storage.cluster_size is not",
            "--set storage.cluster_size=64k",
        ),
        (
            !named,
            "a disk's name goes with its bus: storage.target is not vda to vdz for virtio, or sda to \
             sdz for the others",
            "--set storage.target=vda --set storage.bus=virtio",
        ),
    ];
    match contradictions.into_iter().find(|(found, ..)| *found) {
        None => Ok(()),
        Some((_, message, hint)) => Err(Error::usage(message).hint(hint)),
    }
}

/// Fails for numbers that no guest, disk or host can have.
///
/// Errors: `usage`, naming the setting and its range.
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
            return Err(Error::usage(format!("{name} is {value}: at most {most}")));
        }
    }
    Ok(())
}

/// What of a disk's settings has no meaning for its format, in words.
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
    .map(|(setting, _)| format!("{setting} is of no meaning for a raw disk"))
    .collect()
}

/// Has what a scenario recommends and this host has not be something that it has. Returns what was
/// changed, in words.
///
/// Errors: `unsupported` for what was asked for by name, and for a TPM, which nothing can stand for.
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
    // What somebody asked for is not replaced: see `CreationPlan::memory_shortage`.
    if too_much && !layers.is_assigned("guest.memory") {
        let usual = Size(capacity.usual_memory());
        layers.put(&Origin::Host, Sections::single("guest.memory", size_value(usual)))?;
        changed.push(format!("guest.memory is {usual}: the host has {has} of memory"));
    }
    if guest.machine != general.guest.machine
        && !capability::machines(libvirt)?.contains(&guest.machine)
    {
        let none = format!("QEMU here has no {}", guest.machine);
        let instead = general.guest.machine.as_str().into();
        changed.push(replace(layers, "guest.machine", instead, &none)?);
    }
    let offered = |device: &str| capability::device_values(libvirt, virt_type, device);
    let video = guest.video.as_str();
    if guest.video != Video::None && !offered("video")?.iter().any(|offered| offered == video) {
        let none = format!("QEMU here has no {video}");
        changed.push(replace(layers, "guest.video", "virtio".into(), &none)?);
    }
    if let Some(tpm) = &guest.tpm {
        let values = offered("tpm")?;
        let has = |word: &str| values.iter().any(|value| value == word);
        if !has(&tpm.model) || !has("emulator") {
            return Err(Error::unsupported(format!("this host emulates no {}", tpm.model))
                .hint("install swtpm and swtpm-tools, or --set guest.tpm=none"));
        }
    }
    changed.extend(disable_unsupported_sleep(layers, host, libvirt, security)?);
    Ok(changed)
}

/// Whether libvirt finds firmware for a guest only when the guest asks for a stateless build.
///
/// Before 12.1.0, libvirt gave stateless builds, as those for AMD SEV often are, to no guest that did not.
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

/// Turns off the kinds of sleep that no firmware offers to such a guest. Returns what was changed, in words.
///
/// Errors: `unsupported` for a kind of sleep that was asked for by name.
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
            // The other one is looked at next, with this one settled.
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
            let none = format!("no firmware here has {feature}");
            changed.push(replace(layers, setting, "off".into(), &none)?);
        }
    }
    Ok(changed)
}

fn replace(layers: &mut Layers, setting: &str, instead: Value, none: &str) -> Result<String> {
    if layers.is_assigned(setting) {
        return Err(Error::unsupported(format!("{none}, which {setting} needs")));
    }
    let change = format!("{setting} is {}: {none}", display_value(&instead));
    layers.put(&Origin::Host, Sections::single(setting, instead))?;
    Ok(change)
}
