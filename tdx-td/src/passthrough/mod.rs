//! Devices of the host for one guest: judged with the rest of its plan, taken when it is made, given back
//! when it goes.

pub mod change;
pub mod plan;
pub mod resolution;

use std::collections::BTreeSet;

use clap::{Args, ValueEnum};
use common::cli::is_root;
use common::document::Action;
use common::libvirt::Libvirt;
use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::units::{GIB, Size};
use common::xml::Element;
use common::{Code, Error, Result};
use tdx_gpu::cc::gpu_tools::GpuTools;
use tdx_gpu::cc::setting;
use tdx_gpu::cc::setting::Setting;
use tdx_gpu::commands::hostdev;
use tdx_gpu::commands::hostdev::Way;
use tdx_gpu::device_assignment::{Handed, Handover};
use tdx_gpu::vfio::bars::DEFAULT_WINDOW;
use tdx_gpu::vfio::candidates::Candidates;
use tdx_gpu::vfio::plan::Terms;
use tdx_gpu::vfio::{bars, limit};
use tdx_iommu::commands::request;
use tdx_iommu::commands::request::{Named, Requested};
use tdx_iommu::inventory::Inventory;
use tdx_iommu::inventory::device::Device;
use tdx_iommu::judge::Request;
use virt::domain::Domain;

use crate::capability::{self, Security};
use crate::create::purpose::Purpose;
use crate::domain::definition::Definition;
use crate::domain::{definition, power};
use crate::security::attestation;

/// Which devices of the host the guest gets.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// GPUs or other PCI devices of this host, each with all functions of its slot
    #[arg(short, long, value_name = "BDF,…", value_delimiter = ',')]
    gpus: Vec<Bdf>,
    /// The same; - for items with a bdf on standard input
    #[arg(long, value_name = "BDF,…|-", value_delimiter = ',')]
    devices: Vec<Named>,
    /// Mode of NVIDIA GPUs among them [default: for a trust domain ppcie for a whole baseboard with
    /// its switches, else on; for others leave]
    #[arg(long, value_enum, value_name = "MODE")]
    cc: Option<CcArg>,
}

impl DeviceArgs {
    /// Whether the devices are on standard input.
    pub fn on_stdin(&self) -> bool {
        self.devices.iter().any(|named| matches!(named, Named::Stdin))
    }
}

/// The flag that chooses the mode of confidential computing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CcArg {
    /// As it is
    Leave,
    /// Each GPU by itself in confidential-computing mode
    On,
    /// Protected PCIe: every GPU and NVSwitch of the baseboard
    Ppcie,
}

/// The flags with standard input read.
#[derive(Debug)]
pub struct DeviceRequest {
    requested: Requested,
    cc: Option<CcArg>,
}

impl DeviceRequest {
    /// Reads standard input where the flags say so.
    ///
    /// Errors: `usage` for a mode without devices; those of [`request::resolve`].
    pub fn read(args: &DeviceArgs) -> Result<Self> {
        let mut requested = request::resolve(&args.devices)?;
        for bdf in &args.gpus {
            if !requested.devices.insert(*bdf) {
                requested.warnings.push(format!("{bdf} was named more than once"));
            }
        }
        if requested.devices.is_empty() && args.on_stdin() {
            return Err(Error::invalid_input("no devices came on standard input"));
        }
        match args.cc {
            Some(_) if requested.devices.is_empty() => {
                Err(Error::usage("--cc is for devices: add --gpus"))
            }
            cc => Ok(Self { requested, cc }),
        }
    }
}

/// The devices of a guest that is planned.
#[derive(Debug, Default)]
pub struct Devices {
    /// As libvirt takes them.
    pub hostdevs: Vec<Element>,
    /// The 64-bit address space that their memory needs, bytes, where that is more than a guest has
    /// anyway.
    pub window: Option<u64>,
    /// What the user should know.
    pub warnings: Vec<String>,
    named: BTreeSet<Bdf>,
    mode: Option<Setting>,
    plan: Option<Planned>,
}

#[derive(Debug)]
struct Planned {
    candidates: Candidates,
    iommufd: bool,
    modes: Option<(GpuTools, Vec<setting::Step>)>,
}

impl Devices {
    /// Judges what was asked for, for the domain with this UUID; to compare an existing domain only names it.
    ///
    /// Errors: those of [`Candidates::find`]; `unsupported` for a remote libvirt, and without NVIDIA's
    /// program when a mode is to be set; `conflict` with code `NO_RESET` for a secure guest and a device
    /// that would come to it as the last guest left it.
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
            return Err(Error::unsupported("devices of another host cannot be taken from here")
                .hint("run tdx-td there"));
        }
        let named = requested.devices.clone();
        if !purpose.is_create() {
            let inventory = Inventory::read(host)?;
            requested.expect_same(host, &inventory)?;
            // With what would come along, as when it was made.
            let all = Request::new(&inventory, named.iter().copied());
            let devices = there(&inventory, all.devices());
            let mode = mode(&inventory, &devices, request.cc, security);
            return Ok(Self { named, mode, ..Self::default() });
        }
        let terms = Terms { domain: Some(uuid), ..Terms::default() };
        let candidates = Candidates::find(host, requested, terms)?;
        let no_reset = candidates.findings.iter().find(|finding| finding.code == Code::NoReset);
        if let (Some(finding), true) = (no_reset, security != Security::None) {
            let message =
                format!("{} is not for a {security} guest: {}", finding.bdf, finding.message);
            return Err(Error::conflict(message).code(Code::NoReset));
        }
        let inventory = &candidates.inventory;
        let all: BTreeSet<Bdf> = candidates.plan.steps.iter().map(|step| step.record.bdf).collect();
        let devices = there(inventory, &all);
        let mode = mode(inventory, &devices, request.cc, security);
        let modes = match mode {
            Some(mode) => Some((GpuTools::find(None)?, setting::plan(inventory, &devices, mode)?)),
            None => None,
        };
        let iommufd = capability::has_iommufd(host, libvirt)?;
        let way = Way { iommufd, managed: false, no_rom: security != Security::None };
        let window = bars::window(host, all.iter().copied())?;
        let window = (window > DEFAULT_WINDOW).then_some(window);
        let mut warnings = [requested.warnings.clone(), candidates.plan.warnings.clone()].concat();
        warnings.extend(window.map(|window| {
            let (window, usual) = (Size(window), DEFAULT_WINDOW / GIB);
            format!(
                "the devices' memory needs {window} of addresses: firmware that keeps {usual} GiB, as \
                 older OVMF does, leaves them without"
            )
        }));
        let hostdevs = all.into_iter().map(|bdf| hostdev::element(bdf, way)).collect();
        let plan = Some(Planned { candidates, iommufd, modes });
        Ok(Self { hostdevs, window, warnings, named, mode, plan })
    }

    /// What was asked for, in the form a later `new` of the same name compares.
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

    /// What takes the devices, for a guest with so much memory; none without any.
    pub fn handover(self, memory: Size, uuid: &str) -> Option<Handover> {
        let Planned { candidates, iommufd, modes } = self.plan?;
        Some(Handover {
            binding: candidates.plan,
            limit: (!iommufd).then(|| limit::needed(memory)),
            modes,
            domain: uuid.to_owned(),
        })
    }
}

/// Does something with devices taken: they stay when it succeeds, and go back when it fails.
pub fn with<T>(
    host: &Host,
    handover: Option<Handover>,
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
pub fn again(host: &Host, libvirt: &Libvirt, definition: &Definition) -> Result<Option<Handover>> {
    let Some(metadata) = &definition.metadata else {
        return Ok(None);
    };
    if metadata.asked(DEVICES).is_none_or(|devices| devices == NONE) {
        return Ok(None);
    }
    let cc = match metadata.asked(CC) {
        Some("ppcie") => CcArg::Ppcie,
        Some("on") => CcArg::On,
        _ => CcArg::Leave,
    };
    // As the definition is now: a user can have changed it.
    let named: BTreeSet<Bdf> = definition.unmanaged_devices().into_iter().collect();
    let request = DeviceRequest { requested: named.into(), cc: Some(cc) };
    let uuid = definition.uuid();
    let devices =
        Devices::new(host, libvirt, &request, definition.security(), &uuid, Purpose::Create)?;
    let memory = Size(definition.memory_bytes().unwrap_or_default());
    Ok(devices.handover(memory, &uuid))
}

/// What was taken for a domain of this host; nothing where an ordinary user need not ask.
///
/// Errors: `permission` for all but root, for a domain that has, or was made with, devices.
pub fn handed(host: &Host, libvirt: &Libvirt, definition: &Definition) -> Result<Handed> {
    let made_with = definition.metadata.as_ref().and_then(|metadata| metadata.asked(DEVICES));
    let has_some = !definition.unmanaged_devices().is_empty()
        || made_with.is_some_and(|devices| devices != NONE);
    match has_some && libvirt.is_local() {
        true => Handed::to(host, &definition.uuid()),
        false => Ok(Handed::default()),
    }
}

/// What [`bring_up`] would take. Its errors as far as they can be told before.
pub fn imagined(host: &Host, libvirt: &Libvirt, domain: &Domain, name: &str) -> Result<Action> {
    let action = power::to_run(domain, name)?;
    if is_root() && libvirt.is_local() && !power::is_active(domain, name)? {
        again(host, libvirt, &definition::inactive(domain, name)?)?;
    }
    Ok(action)
}

/// Has a domain running, with its devices. Returns what it took.
pub fn bring_up(host: &Host, libvirt: &Libvirt, domain: &Domain, name: &str) -> Result<Action> {
    let definition = definition::inactive(domain, name)?;
    // Only root can take devices; others can start what has its devices.
    if !libvirt.is_local() || !is_root() || definition.unmanaged_devices().is_empty() {
        return attestation::bring_up(host, libvirt, domain, &definition);
    }
    if power::is_active(domain, name)? {
        // A command that died had started it.
        Handed::to(host, &definition.uuid())?.commit(host)?;
        return attestation::bring_up(host, libvirt, domain, &definition);
    }
    with(host, again(host, libvirt, &definition)?, || {
        attestation::bring_up(host, libvirt, domain, &definition)
    })
}

/// The keys of our record in a domain.
const DEVICES: &str = "devices";
const CC: &str = "cc";
const NONE: &str = "none";

fn there<'i>(inventory: &'i Inventory, devices: &BTreeSet<Bdf>) -> Vec<&'i Device> {
    devices.iter().filter_map(|bdf| inventory.devices.get(bdf)).collect()
}

/// The mode to set; none to leave it.
fn mode(
    inventory: &Inventory,
    devices: &[&Device],
    asked: Option<CcArg>,
    security: Security,
) -> Option<Setting> {
    match (asked, security) {
        (Some(CcArg::Leave), _) => None,
        (Some(CcArg::On), _) => Some(Setting::On),
        (Some(CcArg::Ppcie), _) => Some(Setting::Ppcie),
        (None, Security::Tdx) => Setting::to_protect(inventory, devices),
        (None, _) => None,
    }
}
