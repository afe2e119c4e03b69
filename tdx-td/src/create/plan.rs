//! What it takes to have a domain: everything that can fail is looked at before anything is changed.

use std::path::Path;

use common::cli::config::Config;
use common::cli::{Change, Context};
use common::document::Action;
use common::libvirt::{Libvirt, State};
use common::units::Size;
use common::xml::Document as XmlDocument;
use common::{Error, Result};
use tdx_gpu::device_assignment::DeviceAssignment;
use tdx_pool::pool::qemu_user::QemuUser;
use tdx_pool::pool::{qemu_access, qemu_user};
use tdx_pool::volume::seed as seed_volume;
use virt::domain::Domain;

use crate::capability::Security;
use crate::create::attached_image;
use crate::create::cloud_init::Seed;
use crate::create::definition_source::DefinitionSource;
use crate::create::disk::Disk;
use crate::create::disk_plan::DiskPlan;
use crate::create::existing::{differences, name_taken, or_deleted_meanwhile, read_item};
use crate::create::identity::{DomainIdentity, default_name, new_uuid};
use crate::create::ports::PortReservation;
use crate::create::request::CreationRequest;
use crate::create::settings::domain_name;
use crate::domain::definition::Definition;
use crate::domain::item::DomainItem;
use crate::domain::metadata::Metadata;
use crate::domain::purpose::Purpose;
use crate::domain::{definition, lookup};
use crate::domain_xml::validation;
use crate::passthrough::Devices;
use crate::scenario::layers::Setting;
use crate::scenario::profile;
use crate::security::attestation::session::AttestationRequest;
use crate::{capability, passthrough};

/// What it takes to have the domain.
#[derive(Debug)]
pub struct CreationPlan<'a> {
    /// The domain's name.
    pub name: String,
    /// What would be defined.
    pub xml: String,
    /// The settings it is made of; none of a template.
    pub settings: Vec<Setting>,
    /// The scenario, if one was asked for, and what it asks of the host.
    pub host: Option<(String, profile::Host)>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Why a protected guest does not fit into the host's memory, which its own is pinned in or counted
    /// against. `new` refuses such a guest; for others this is a warning, here as well.
    pub memory_shortage: Option<Error>,
    /// Whether the definition is a user's.
    pub(super) is_template: bool,
    pub(super) libvirt: &'a Libvirt,
    /// The SSH port is reserved until the domain's definition has it.
    _port: Option<PortReservation>,
    pub(super) disk: DiskPlan,
    pub(super) seed: Option<seed_volume::SeedPlan>,
    pub(super) assignment: Option<DeviceAssignment>,
    /// How the launch is attested.
    pub(super) attestation: Option<AttestationRequest>,
    /// The user that QEMU runs as.
    pub(super) owner: Option<QemuUser>,
    metadata: Metadata,
    /// The domain that is as asked for.
    pub(super) existing: Option<Domain>,
    /// UUID of the domain that has the name and is deleted first.
    pub(super) overwrites: Option<String>,
}

impl<'a> CreationPlan<'a> {
    /// Looks at everything that can fail: host, network, pool, image, name.
    ///
    /// Errors: those of [`DefinitionSource::new`] and [`DiskPlan::plan`]; `conflict` when QEMU could not
    /// read the image, or when the name is taken by a domain that is not what was asked for.
    pub fn new(
        context: &Context,
        libvirt: &'a Libvirt,
        config: &Config,
        request: &CreationRequest,
    ) -> Result<Self> {
        let build = |existing| Self::build(context, libvirt, config, request, existing);
        let name = request.guest.name.as_deref();
        let domain = name.map(|name| lookup::find(libvirt, name)).transpose()?.flatten();
        let (Some(domain), Some(name)) = (domain, name) else {
            return build(None);
        };
        let existing = definition::inactive(&domain, name)
            .map_err(|error| or_deleted_meanwhile(&domain, name, error))?;
        let plan = build(Some(&existing))?;
        let stated = request.image.format.flag;
        let other_format = plan.disk.other_format(stated, &existing).zip(stated);
        match differences(&existing, name, &plan.metadata, other_format)? {
            None => Ok(Self { existing: Some(domain), ..plan }),
            Some(_) if request.guest.overwrite => {
                let mut plan = build(None)?;
                let uuid = existing.uuid();
                plan.warnings.push(format!(
                    "domain '{name}' ({uuid}) is deleted for it, with its own disks"
                ));
                Ok(Self { overwrites: Some(uuid), ..plan })
            }
            Some(how) => Err(name_taken(name, &format!("differs: {how}"))),
        }
    }

    /// Builds the plan of a new domain, or what `existing` is compared with.
    fn build(
        context: &Context,
        libvirt: &'a Libvirt,
        config: &Config,
        request: &CreationRequest,
        existing: Option<&Definition>,
    ) -> Result<Self> {
        let CreationRequest { guest, image, devices } = request;
        let purpose = if existing.is_some() { Purpose::Compare } else { Purpose::Create };
        let kind = guest.disk.kind(image.is_named());
        let source = DefinitionSource::new(context, libvirt, config, guest, kind, purpose)?;
        let scenario = source.scenario();
        let owner = qemu_user::qemu_user(libvirt)?;
        let disk = DiskPlan::plan(
            context,
            libvirt,
            config,
            image,
            &guest.disk,
            scenario,
            (owner, existing),
        )?;
        if let (Some(qemu), Purpose::Create) = (owner, purpose) {
            check_reachable(libvirt, &disk.disk(), qemu)?;
        }
        let uuid = new_uuid()?;
        let seed = Seed::read(&guest.access, &uuid)?;
        let seed = seed.map(|seed| seed_volume::SeedPlan::new(disk.folder()?, seed.to_image()?));
        let seed = seed.transpose()?;
        let security = source.security();
        let devices = Devices::new(&context.host, libvirt, devices, security, &uuid, purpose)?;
        let cdrom = guest.disk.cdrom.as_deref();
        let cdrom = cdrom.map(|image| attached_image::cdrom(libvirt, image)).transpose()?;
        let asked = recorded_request(&source, &devices, &disk, cdrom.as_deref(), request);
        let seed_path = seed.as_ref().map(|seed| seed.path.as_path());
        let metadata = Metadata::new(&uuid, disk.pool_name(), &disk.disk(), seed_path, asked);
        let port = match (source.port(), purpose) {
            (Some(wanted), Purpose::Create) => Some(PortReservation::choose(libvirt, wanted)?),
            // An existing domain has its port already.
            _ => None,
        };
        let name = match &guest.name {
            Some(name) => name.clone(),
            None => generated_name(source.stem(), &uuid)?,
        };
        let (xml, changes) = source.to_xml(&DomainIdentity {
            name: &name,
            uuid: &uuid,
            disk: &disk.disk(),
            cdrom: cdrom.as_deref(),
            keep_base_owner: owner.is_some(),
            seed: seed_path,
            devices: &devices,
            ssh: port.as_ref().map(|port| port.socket),
            metadata: &metadata,
        })?;
        let definition = Definition::parse(xml.clone())?;
        let memory = Size(definition.memory_bytes().unwrap_or_default());
        let (attestation, shortage) = match purpose {
            Purpose::Create => {
                if source.is_template() {
                    validation::check(libvirt, &XmlDocument::parse(xml.as_str())?)?;
                }
                let sev = &guest.launch.sev;
                (
                    AttestationRequest::new(context, libvirt, config, sev, &definition)?,
                    memory_shortage(context, libvirt, memory)?,
                )
            }
            Purpose::Compare => (None, None),
        };
        let mut warnings =
            [source.warnings(), &disk.warnings, &devices.warnings, &changes].concat();
        warnings.extend(attestation.iter().flat_map(|order| order.warnings.clone()));
        warnings.extend(shortage.clone());
        let host = scenario.map(|scenario| scenario.profile.host.clone());
        Ok(Self {
            name,
            xml,
            settings: scenario.map(|scenario| scenario.settings.clone()).unwrap_or_default(),
            host: guest.settings.scenario.clone().zip(host),
            memory_shortage: shortage.filter(|_| security != Security::None).map(|message| {
                Error::unsupported(message).hint("--memory says how much the guest gets")
            }),
            is_template: source.is_template(),
            warnings,
            libvirt,
            _port: port,
            disk,
            seed,
            assignment: devices.assignment(memory, &uuid),
            attestation,
            owner,
            metadata,
            existing: None,
            overwrites: None,
        })
    }

    /// Asks before a domain is deleted for this one.
    ///
    /// Errors: `conflict` when the answer is no.
    pub fn confirm(&self, context: &Context, change: Change) -> Result<()> {
        match self.overwrites {
            Some(_) => context.confirm(
                change,
                &format!("delete domain '{}' and its disks for the new one?", self.name),
            ),
            None => Ok(()),
        }
    }

    /// Returns the domain as [`CreationPlan::apply`] would leave it, and what would be done.
    pub fn preview(&self, context: &Context) -> Result<(DomainItem, Action)> {
        let name = &self.name;
        match &self.existing {
            Some(domain) => {
                let action = passthrough::preview_start(&context.host, self.libvirt, domain, name)?;
                Ok((read_item(domain, name)?, action))
            }
            None => {
                let definition = Definition::parse(self.xml.clone())?;
                Ok((definition.item(None, State::Running, false), Action::Create))
            }
        }
    }
}

/// Says that a guest's memory is more than the host's, if it is.
fn memory_shortage(context: &Context, libvirt: &Libvirt, memory: Size) -> Result<Option<String>> {
    let has = Size(capability::capacity(&context.host, libvirt)?.memory_bytes);
    let message = || format!("the host has {has} of memory, {memory} were asked for");
    Ok((memory.0 > has.0).then(message))
}

/// Fails if QEMU cannot enter the directory of the disk.
///
/// Errors: those of [`qemu_access::check`].
fn check_reachable(libvirt: &Libvirt, disk: &Disk, qemu: QemuUser) -> Result<()> {
    match disk.path().parent() {
        Some(directory) if libvirt.is_local() => qemu_access::check(directory, qemu),
        _ => Ok(()),
    }
}

/// Returns the name of a domain that the user did not name.
///
/// Errors: `usage` when the template's file name cannot be part of a domain's name.
fn generated_name(stem: &str, uuid: &str) -> Result<String> {
    domain_name(&default_name(stem, uuid)).map_err(|why| {
        Error::usage(format!("no domain can be named after {stem:?}: {why}"))
            .hint("choose a --name")
    })
}

/// Returns what was asked for, without secrets, in the form that the domain's metadata keeps. A later `new` of
/// the same name compares it.
fn recorded_request(
    source: &DefinitionSource,
    devices: &Devices,
    disk: &DiskPlan,
    cdrom: Option<&Path>,
    CreationRequest { guest, image, .. }: &CreationRequest,
) -> Vec<(String, String)> {
    let size = image.disk_size.map_or_else(|| "image".to_owned(), |size| size.to_string());
    let flags = [
        ("disk_size_bytes", size),
        ("user", guest.access.user.clone().unwrap_or_default()),
        ("hostname", guest.access.hostname.clone().unwrap_or_default()),
    ];
    let mut request = [source.request(), devices.request()].concat();
    request.extend(flags.map(|(key, value)| (key.to_owned(), value)));
    request.extend(disk.request());
    request.extend(cdrom.map(|path| ("cdrom".to_owned(), path.display().to_string())));
    request
}
