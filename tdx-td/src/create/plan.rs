//! The plan of a new domain. It checks everything that can fail before anything is changed.

use common::cli::config::Config;
use common::cli::{Change, Context};
use common::document::Action;
use common::libvirt::{Libvirt, State};
use common::units::Size;
use common::xml::Document as XmlDocument;
use common::{Error, Result};
use tdx_gpu::device_assignment::DeviceAssignment;
use tdx_pool::pool::qemu_user::QemuUser;
use tdx_pool::volume::seed as seed_volume;
use virt::domain::Domain;

use crate::capability::Security;
use crate::create::disk_plan::DiskPlan;
use crate::create::existing::{differences, name_taken, or_deleted_meanwhile, read_item};
use crate::create::host_plan::HostPlan;
use crate::create::identity::default_name;
use crate::create::ports::PortReservation;
use crate::create::request::CreationRequest;
use crate::create::settings::domain_name;
use crate::domain::definition::Definition;
use crate::domain::item::DomainItem;
use crate::domain::metadata::Metadata;
use crate::domain::{definition, lookup};
use crate::domain_xml::validation;
use crate::scenario::layers::Setting;
use crate::scenario::profile;
use crate::security::attestation::session::AttestationRequest;
use crate::{capability, passthrough};

/// The plan of a new domain.
#[derive(Debug)]
pub struct CreationPlan<'a> {
    /// Name of the domain.
    pub name: String,
    /// The domain XML to define.
    pub xml: String,
    /// The settings of the definition; none for a template.
    pub settings: Vec<Setting>,
    /// The requested scenario and its host settings.
    pub host: Option<(String, profile::Host)>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// The error for a protected guest with more memory than the host, because the memory of protected guests
    /// is pinned. `new` fails with it; `render` shows only the warning.
    pub memory_shortage: Option<Error>,
    /// Whether the definition is made from a user's template.
    pub(super) is_template: bool,
    pub(super) libvirt: &'a Libvirt,
    /// The reservation of the SSH port, which ends after the domain's definition has the port.
    _port: Option<PortReservation>,
    pub(super) disk: DiskPlan,
    pub(super) seed: Option<seed_volume::SeedPlan>,
    pub(super) assignment: Option<DeviceAssignment>,
    /// The keys and files for the attestation of the launch.
    pub(super) attestation: Option<AttestationRequest>,
    /// The user and group that QEMU runs as.
    pub(super) owner: Option<QemuUser>,
    metadata: Metadata,
    /// An existing domain that is as requested.
    pub(super) existing: Option<Domain>,
    /// UUID of the existing domain of the same name that is deleted first.
    pub(super) overwrites: Option<String>,
}

impl<'a> CreationPlan<'a> {
    /// Checks everything that can fail: host, network, pool, image, name.
    ///
    /// Errors: those of [`HostPlan::new`]; `conflict` if a domain of the same name differs from the request.
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
                    "the existing domain '{name}' ({uuid}) is deleted first, with the disks created \
                     for it"
                ));
                Ok(Self { overwrites: Some(uuid), ..plan })
            }
            Some(how) => {
                let error = name_taken(name, &format!("differs from the request: {how}"));
                Err(error.hint(
                    "choose another --name, or delete the domain with its disks first: --overwrite",
                ))
            }
        }
    }

    /// Builds the plan of a new domain, or a plan to compare `existing` with.
    fn build(
        context: &Context,
        libvirt: &'a Libvirt,
        config: &Config,
        request: &CreationRequest,
        existing: Option<&Definition>,
    ) -> Result<Self> {
        let host = HostPlan::new(context, libvirt, config, request, existing)?;
        let name = match &request.guest.name {
            Some(name) => name.clone(),
            None => generated_name(host.source.stem(), &host.uuid)?,
        };
        let metadata = host.metadata(request);
        let (xml, changes) = host.to_xml(&name, &metadata)?;
        let definition = Definition::parse(xml.clone())?;
        let memory = Size(definition.memory_bytes().unwrap_or_default());
        let (attestation, shortage) = match existing {
            Some(_) => (None, None),
            None => {
                if host.source.is_template() {
                    validation::check(libvirt, &XmlDocument::parse(xml.as_str())?)?;
                }
                let sev = &request.guest.launch.sev;
                (
                    AttestationRequest::new(context, libvirt, config, sev, &definition)?,
                    memory_shortage(context, libvirt, memory)?,
                )
            }
        };
        let HostPlan { source, uuid, owner, disk, seed, devices, port, .. } = host;
        let mut warnings =
            [source.warnings(), &disk.warnings, &devices.warnings, &changes].concat();
        warnings.extend(attestation.iter().flat_map(|order| order.warnings.clone()));
        warnings.extend(shortage.clone());
        let scenario = source.scenario();
        let host = scenario.map(|scenario| scenario.profile.host.clone());
        Ok(Self {
            name,
            xml,
            settings: scenario.map(|scenario| scenario.settings.clone()).unwrap_or_default(),
            host: request.guest.settings.scenario.clone().zip(host),
            memory_shortage: shortage.filter(|_| source.security() != Security::None).map(
                |message| {
                    Error::unsupported(message).hint("give the guest less memory: --memory SIZE")
                },
            ),
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

    /// Asks the user before an existing domain is deleted.
    ///
    /// Errors: `conflict` if the answer is no.
    pub fn confirm(&self, context: &Context, change: Change) -> Result<()> {
        match self.overwrites {
            Some(_) => context.confirm(
                change,
                &format!(
                    "delete the existing domain '{}' and the disks created for it?",
                    self.name
                ),
            ),
            None => Ok(()),
        }
    }

    /// Returns the domain as [`CreationPlan::apply`] would create it, and the action.
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

/// Returns a message if the guest has more memory than the host.
fn memory_shortage(context: &Context, libvirt: &Libvirt, memory: Size) -> Result<Option<String>> {
    let has = Size(capability::capacity(&context.host, libvirt)?.memory_bytes);
    let message = || format!("the guest's memory is {memory}, but the host has only {has}");
    Ok((memory.0 > has.0).then(message))
}

/// Returns the default name of the domain.
///
/// Errors: `usage` if the template's file name cannot be part of a domain's name.
fn generated_name(stem: &str, uuid: &str) -> Result<String> {
    domain_name(&default_name(stem, uuid)).map_err(|why| {
        Error::usage(format!("the file name {stem:?} cannot be part of a domain's name: {why}"))
            .hint("add --name NAME")
    })
}
