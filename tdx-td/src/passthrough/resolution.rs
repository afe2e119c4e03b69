//! A resolution on standard input, compared with the host of its devices.

use std::collections::BTreeSet;

use common::cli::Context;
use common::code::Level;
use common::document::input;
use common::libvirt::{Context as _, Libvirt, is_gone};
use common::system::pci::Bdf;
use common::xml::Document;
use common::{Code, Error, Result, name};
use serde::Deserialize;
use tdx_iommu::inventory::Inventory;
use tdx_iommu::inventory::identity::{DeviceClaim, DeviceIdentity};
use tdx_iommu::resolve::resolution::judge_devices;

use crate::domain::lookup::{DomainClaim, NamedDomain};

/// A domain with its wanted devices.
#[derive(Debug, Clone)]
pub struct DomainDevices {
    /// The domain.
    pub domain: NamedDomain,
    /// All wanted host devices.
    pub devices: BTreeSet<Bdf>,
}

/// An item of a resolution: a domain and its devices.
#[derive(Debug, Deserialize)]
struct Item {
    #[serde(deserialize_with = "name::deserialize")]
    vm: String,
    devices: Vec<Device>,
    #[serde(flatten)]
    claim: DomainClaim,
}

#[derive(Debug, Deserialize)]
struct Device {
    bdf: Bdf,
    /// The codes that were forced when the devices were resolved. Warnings of that command are not in its
    /// document.
    #[serde(default)]
    blockers: Vec<Code>,
    #[serde(flatten)]
    claim: DeviceClaim,
}

/// The resolution on standard input.
#[derive(Debug)]
pub struct PipedResolution {
    items: Vec<Item>,
    /// The devices of `--keep`.
    keep: BTreeSet<Bdf>,
}

impl PipedResolution {
    /// Reads the items of the named domains, or of all domains.
    ///
    /// Errors: `invalid_input` unless standard input is a resolution; `not_found` for a named domain that is not
    /// in it.
    pub fn read(vms: &[String], keep: &BTreeSet<Bdf>) -> Result<Self> {
        let expected = "the output of tdx-iommu resolve";
        let mut items: Vec<Item> = input::items(&["tdx.iommu.resolution"], expected)?;
        let is_of = |item: &Item, vm: &str| item.vm == vm;
        if let Some(vm) = vms.iter().find(|vm| !items.iter().any(|item| is_of(item, vm))) {
            return Err(Error::not_found(format!(
                "--vm {vm}: standard input has no devices for this domain"
            )));
        }
        items.retain(|item| vms.is_empty() || vms.iter().any(|vm| is_of(item, vm)));
        Ok(Self { items, keep: keep.clone() })
    }

    /// Returns the domains with their wanted devices.
    pub fn domains(&self) -> Vec<DomainDevices> {
        let wanted = self.items.iter().map(|item| DomainDevices {
            domain: NamedDomain::with_claim(item.vm.clone(), item.claim.clone()),
            devices: item.devices.iter().map(|device| device.bdf).collect(),
        });
        wanted.collect()
    }

    /// Returns a warning for each device with codes that were forced.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for Item { vm, devices, .. } in &self.items {
            for Device { bdf, blockers, .. } in devices.iter().filter(|d| !d.blockers.is_empty()) {
                let codes: Vec<&str> = blockers.iter().map(|code| code.as_str()).collect();
                warnings.push(format!("{}: {bdf}: {}", vm, codes.join(", ")));
            }
        }
        warnings
    }

    /// Checks that the devices exist, are those that the items describe, and can be assigned.
    /// Returns warnings about what cannot be checked on a remote host.
    ///
    /// Errors: `not_found` for a device that does not exist; `conflict` with code `IDENTITY_CHANGED`, or with
    /// the code of a blocker that was not forced when the devices were resolved.
    pub fn check(&self, context: &Context, libvirt: &Libvirt) -> Result<Vec<String>> {
        if self.items.iter().all(|item| self.devices(item).next().is_none()) {
            return Ok(Vec::new());
        }
        if libvirt.is_local() {
            self.check_local(context).map(|()| Vec::new())
        } else {
            self.check_remote(context, libvirt)
        }
    }

    fn devices<'i>(&self, item: &'i Item) -> impl Iterator<Item = &'i Device> {
        item.devices.iter().filter(|device| !self.keep.contains(&device.bdf))
    }

    fn check_local(&self, context: &Context) -> Result<()> {
        let inventory = Inventory::read(&context.host)?;
        for item in &self.items {
            for device in self.devices(item) {
                let found = inventory.devices.get(&device.bdf).map(DeviceIdentity::from);
                expect_same(item, device, found.as_ref(), context)?;
                inventory.device(device.bdf)?;
            }
            let is_forced = |bdf: Bdf, code: Code| {
                self.devices(item).any(|d| d.bdf == bdf && d.blockers.contains(&code))
            };
            let devices: BTreeSet<Bdf> = self.devices(item).map(|device| device.bdf).collect();
            // The items have the codes that were forced.
            let judged = judge_devices(&inventory, &devices, &item.vm, is_forced);
            judged.map_err(|error| match error.known_code() {
                Some(code) if code.level() == Level::Forceable => error.hint(format!(
                    "to use the device nevertheless: tdx-iommu resolve --force {}",
                    code.as_str()
                )),
                _ => error,
            })?;
        }
        Ok(())
    }

    /// Checks the devices with the data that libvirt has about its host.
    fn check_remote(&self, context: &Context, libvirt: &Libvirt) -> Result<Vec<String>> {
        let host = context.host_name().unwrap_or_else(|| libvirt.uri().to_owned());
        for item in &self.items {
            for device in self.devices(item) {
                match identity_by_libvirt(libvirt, device.bdf) {
                    Ok(found) => {
                        expect_same(item, device, found.as_ref(), context)?;
                        if found.is_none() {
                            let absent = format!("PCI device {} not found on {host}", device.bdf);
                            let hint = "to see all devices, run tdx-iommu scan on that host";
                            return Err(Error::not_found(absent).hint(hint));
                        }
                    }
                    Err(error) => {
                        expect_same(item, device, None, context)?;
                        return Ok(vec![format!(
                            "libvirt does not list the PCI devices of {host}, so they were not checked: {error}"
                        )]);
                    }
                }
            }
        }
        Ok(vec![format!(
            "tdx-td cannot check whether the remote host {host} itself uses these devices: run tdx-iommu \
             check on that host"
        )])
    }
}

fn expect_same(
    item: &Item,
    device: &Device,
    found: Option<&DeviceIdentity>,
    context: &Context,
) -> Result<()> {
    let host = device.claim.host.clone().or_else(|| item.claim.host.clone());
    let claim = DeviceClaim { host, ..device.claim.clone() };
    claim.expect(device.bdf, found, context.host_name().as_deref())
}

/// Returns the ids of a device of libvirt's host; `None` if the host has no such device.
///
/// Source: libvirt names a device after its path in sysfs, `src/node_device/node_device_udev.c`;
/// <https://libvirt.org/formatnode.html>.
fn identity_by_libvirt(libvirt: &Libvirt, bdf: Bdf) -> Result<Option<DeviceIdentity>> {
    let doing = format_args!("look up PCI device {bdf}");
    let name = format!("pci_{}", bdf.to_string().replace([':', '.'], "_"));
    let device = match libvirt.connect().lookup_node_device_by_name(&name) {
        Err(error) if is_gone(&error) => return Ok(None),
        device => device.context(doing)?,
    };
    let xml = Document::parse(device.xml_desc(0).context(doing)?)?;
    let id = |name: &str| {
        let id = xml.root().attr_at(&format!("capability/{name}"), "id")?;
        Some(id.strip_prefix("0x").unwrap_or(&id).to_owned())
    };
    Ok(Some(DeviceIdentity { vendor_id: id("vendor"), device_id: id("product"), serial: None }))
}
