//! The host devices of a planned guest.

use std::collections::BTreeSet;

use common::libvirt::Libvirt;
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::units::{GIB, Size};
use common::xml::Element;
use common::{Code, Error, Result};
use tdx_gpu::cc::gpu_tools::GpuTools;
use tdx_gpu::cc::setting;
use tdx_gpu::cc::setting::Setting;
use tdx_gpu::device_assignment::DeviceAssignment;
use tdx_gpu::vfio::bars::DEFAULT_WINDOW;
use tdx_gpu::vfio::candidates::Candidates;
use tdx_gpu::vfio::hostdev;
use tdx_gpu::vfio::hostdev::HostdevOptions;
use tdx_gpu::vfio::plan::BindOptions;
use tdx_gpu::vfio::{bars, dma_entry_limit};
use tdx_iommu::inventory::Inventory;
use tdx_iommu::inventory::device::Device;
use tdx_iommu::judge::Request;

use crate::capability;
use crate::capability::Security;
use crate::domain::purpose::Purpose;
use crate::passthrough::request::{CcMode, DeviceRequest};

/// The host devices of a planned guest.
#[derive(Debug, Default)]
pub struct Devices {
    /// The `<hostdev>` elements for the definition.
    pub hostdevs: Vec<Element>,
    /// The size of the 64-bit address space that the devices' memory needs, in bytes, if it is more than the
    /// default.
    pub window: Option<u64>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    named: BTreeSet<Bdf>,
    mode: Option<Setting>,
    plan: Option<PlannedDevices>,
}

#[derive(Debug)]
struct PlannedDevices {
    candidates: Candidates,
    iommufd: bool,
    modes: Option<(GpuTools, Vec<setting::ModeStep>)>,
}

impl Devices {
    /// Checks the requested devices for the domain with this UUID. With [`Purpose::Compare`] the devices are
    /// named, but not checked.
    ///
    /// Errors: those of [`Candidates::find`]; `unsupported` for a remote libvirt, and if a mode has to be set
    /// without NVIDIA's program; `conflict` with code `NO_RESET` for a protected guest and a device that cannot be
    /// reset after its previous guest.
    pub fn new(
        host: &Host,
        libvirt: &Libvirt,
        request: &DeviceRequest,
        security: Security,
        uuid: &str,
        purpose: Purpose,
    ) -> Result<Self> {
        let requested = &request.requested;
        if requested.devices.is_empty() {
            return Ok(Self::default());
        }
        if !libvirt.is_local() {
            return Err(Error::unsupported(
                "PCI devices of a remote host cannot be bound from here",
            )
            .hint("run tdx-td on that host"));
        }
        let named = requested.devices.clone();
        if !purpose.is_create() {
            let inventory = Inventory::read(host)?;
            requested.expect_same(host, &inventory)?;
            // With the other functions of each slot, as when the domain was created.
            let all = Request::new(&inventory, named.iter().copied());
            let devices = existing_devices(&inventory, all.devices());
            let mode = cc_mode(&inventory, &devices, request.cc, security);
            return Ok(Self { named, mode, ..Self::default() });
        }
        let terms = BindOptions { domain: Some(uuid), ..BindOptions::default() };
        let candidates = Candidates::find(host, requested, terms)?;
        let no_reset = candidates.findings.iter().find(|finding| finding.code == Code::NoReset);
        if let (Some(finding), true) = (no_reset, security != Security::None) {
            let message = format!(
                "{} cannot be given to a {security} guest: {}",
                finding.bdf, finding.message
            );
            return Err(Error::conflict(message).code(Code::NoReset));
        }
        let inventory = &candidates.inventory;
        let all: BTreeSet<Bdf> = candidates.plan.steps.iter().map(|step| step.record.bdf).collect();
        let devices = existing_devices(inventory, &all);
        let mode = cc_mode(inventory, &devices, request.cc, security);
        let modes = match mode {
            Some(mode) => Some((GpuTools::find(None)?, setting::plan(inventory, &devices, mode)?)),
            None => None,
        };
        let iommufd = capability::has_iommufd(host, libvirt)?;
        let way = HostdevOptions { iommufd, managed: false, no_rom: security != Security::None };
        let window = bars::window(host, all.iter().copied())?;
        let window = (window > DEFAULT_WINDOW).then_some(window);
        let mut warnings = [requested.warnings.clone(), candidates.plan.warnings.clone()].concat();
        warnings.extend(window.map(|window| {
            let (window, usual) = (Size(window), DEFAULT_WINDOW / GIB);
            format!(
                "the devices need {window} of 64-bit address space; they do not work with firmware that \
                 reserves only {usual} GiB, such as older OVMF"
            )
        }));
        let hostdevs = all.into_iter().map(|bdf| hostdev::element(bdf, way)).collect();
        let plan = Some(PlannedDevices { candidates, iommufd, modes });
        Ok(Self { hostdevs, window, warnings, named, mode, plan })
    }

    /// Returns the request in the form that a later `new` of the same name compares.
    pub fn request(&self) -> Vec<(String, String)> {
        let named: Vec<String> = self.named.iter().map(Bdf::to_string).collect();
        let named = if named.is_empty() { NONE.to_owned() } else { named.join(",") };
        let mode = match self.mode {
            Some(Setting::Ppcie) => "ppcie",
            Some(_) => "on",
            None => "leave",
        };
        vec![(DEVICES.to_owned(), named), (CC.to_owned(), mode.to_owned())]
    }

    /// Returns the assignment of the devices to a guest with this memory; `None` if there are no devices.
    pub fn assignment(self, memory: Size, uuid: &str) -> Option<DeviceAssignment> {
        let PlannedDevices { candidates, iommufd, modes } = self.plan?;
        Some(DeviceAssignment {
            binding: candidates.plan,
            limit: (!iommufd).then(|| dma_entry_limit::needed(memory)),
            modes,
            domain: uuid.to_owned(),
        })
    }
}

/// The keys of the devices in a domain's record.
pub(super) const DEVICES: &str = "devices";

pub(super) const CC: &str = "cc";

pub(super) const NONE: &str = "none";

fn existing_devices<'i>(inventory: &'i Inventory, devices: &BTreeSet<Bdf>) -> Vec<&'i Device> {
    devices.iter().filter_map(|bdf| inventory.devices.get(bdf)).collect()
}

/// Returns the confidential-computing mode to set; `None` to leave it as it is.
fn cc_mode(
    inventory: &Inventory,
    devices: &[&Device],
    asked: Option<CcMode>,
    security: Security,
) -> Option<Setting> {
    match (asked, security) {
        (Some(CcMode::Leave), _) => None,
        (Some(CcMode::On), _) => Some(Setting::On),
        (Some(CcMode::Ppcie), _) => Some(Setting::Ppcie),
        (None, Security::Tdx) => Setting::to_protect(inventory, devices),
        (None, _) => None,
    }
}
