//! Making a domain, or finding it there.
//!
//! Everything that can fail is looked at first. Then the pool is made ready, the image imported, devices
//! taken, the overlay made, the domain defined and started. What fails half way is undone: the domain and
//! its overlay go, devices go back; an image that was imported stays, since others may stand on it by then, and is named.

pub mod attached_image;
pub mod base_image;
pub mod cloud_init;
pub mod definition_source;
pub mod disk;
pub mod disk_plan;
pub mod identity;
pub mod ports;
pub mod settings;

use common::cli::config::Config;
use common::cli::{Change, Context, interrupt, log};
use common::document::Action;
use common::libvirt::{Context as _, Libvirt, State};
use common::units::Size;
use common::xml::Document as XmlDocument;
use common::{Error, Result};
use tdx_gpu::device_assignment::Handover;
use tdx_pool::image::Format;
use tdx_pool::pool::qemu_user::QemuUser;
use tdx_pool::pool::{qemu_access, qemu_user};
use tdx_pool::references::inflight::UseLock;
use tdx_pool::volume::new_volume::NewVolume;
use tdx_pool::volume::seed as seed_volume;
use virt::domain::Domain;
use virt::error::Error as VirtError;
use virt::sys;

use crate::capability::{self, Security};
use crate::commands::names;
use crate::create::base_image::ImageRequest;
use crate::create::cloud_init::{Seed, SeedArgs};
use crate::create::definition_source::Blueprint;
use crate::create::disk::Disk;
use crate::create::disk_plan::Drive;
use crate::create::identity::{Identity, default_name, new_uuid};
use crate::create::ports::Port;
use crate::create::settings::{GuestArgs, domain_name};
use crate::domain::definition::Definition;
use crate::domain::item::DomainItem;
use crate::domain::metadata::Metadata;
use crate::domain::{definition, power};
use crate::domain_xml::validation;
use crate::passthrough::{self, DeviceRequest, Devices};
use crate::remove;
use crate::scenario::layers::Setting;
use crate::scenario::profile;
use crate::security::attestation;
use crate::security::attestation::session::Order;

/// What it takes to have the domain.
#[derive(Debug)]
pub struct Plan<'a> {
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
    by_user: bool,
    libvirt: &'a Libvirt,
    /// Ours until the domain has it.
    _port: Option<Port>,
    drive: Drive,
    seed: Option<seed_volume::SeedPlan>,
    handover: Option<Handover>,
    /// How it is to be attested.
    order: Option<Order>,
    owner: Option<QemuUser>,
    metadata: Metadata,
    existing: Option<Domain>,
    /// UUID of the domain that has the name and goes first.
    overwrites: Option<String>,
}

impl<'a> Plan<'a> {
    /// Looks at everything that can fail: host, network, pool, image, name.
    ///
    /// Errors: those of [`Blueprint::new`] and [`Drive::plan`]; `conflict` when QEMU could not
    /// read the image, or when the name is taken by a domain that is not what was asked for.
    pub fn new(
        context: &Context,
        libvirt: &'a Libvirt,
        config: &Config,
        request: &ImageRequest,
        devices: &DeviceRequest,
        guest: &GuestArgs,
    ) -> Result<Self> {
        let existing = match &guest.name {
            Some(name) => names::find(libvirt, name)?,
            None => None,
        };
        let asked = (request, devices, guest);
        let Some(domain) = existing else {
            return Self::of(context, libvirt, config, asked, None);
        };
        let name = guest.name.as_deref().unwrap_or_default();
        let there = definition::inactive(&domain, name);
        let there = there.map_err(|error| or_gone(&domain, name, error))?;
        // What is there already needs nothing more of the host.
        let plan = Self::of(context, libvirt, config, asked, Some(&there))?;
        let stated = request.format.flag;
        let other_format = plan.drive.other_format(stated, &there).zip(stated);
        match differences(&there, name, &plan.metadata, other_format)? {
            None => Ok(Self { existing: Some(domain), ..plan }),
            Some(_) if guest.overwrite => {
                let mut plan = Self::of(context, libvirt, config, asked, None)?;
                let going = there;
                plan.warnings.push(format!(
                    "domain '{}' ({}) is deleted for it, with its own disks",
                    plan.name,
                    going.uuid()
                ));
                Ok(Self { overwrites: Some(going.uuid()), ..plan })
            }
            Some(how) => Err(taken(&plan.name, &format!("differs: {how}"))),
        }
    }

    /// Builds the plan; for a domain that is there, as `existing`, without what only making one needs.
    fn of(
        context: &Context,
        libvirt: &'a Libvirt,
        config: &Config,
        (request, devices, guest): (&ImageRequest, &DeviceRequest, &GuestArgs),
        existing: Option<&Definition>,
    ) -> Result<Self> {
        let making = existing.is_none();
        let disk_size = request.disk_size;
        let kind = guest.drive.kind(request.is_named());
        let blueprint = Blueprint::new(context, libvirt, config, guest, kind, making)?;
        let owner = qemu_user::qemu_user(libvirt)?;
        let choice = blueprint.choice();
        let owner_and_existing = (owner, existing);
        let drive = Drive::plan(
            context,
            libvirt,
            config,
            request,
            &guest.drive,
            choice,
            owner_and_existing,
        )?;
        let uuid = new_uuid()?;
        let disk = drive.disk();
        if let (Some(qemu), Some(folder), true) =
            (owner, disk.path().parent(), making && libvirt.is_local())
        {
            qemu_access::check(folder, qemu)?;
        }
        let seed = match Seed::read(&guest.seed, &uuid)? {
            Some(seed) => Some(seed_volume::SeedPlan::new(drive.folder()?, seed.to_image()?)?),
            None => None,
        };
        let security = blueprint.security();
        let devices = Devices::new(&context.host, libvirt, devices, security, &uuid, making)?;
        let cdrom = guest.drive.cdrom.as_deref();
        let cdrom = cdrom.map(|image| attached_image::cdrom(libvirt, image)).transpose()?;
        let mut request = [blueprint.request(), devices.request()].concat();
        request.extend(request_of(&guest.seed, disk_size));
        request.extend(drive.request());
        request.extend(cdrom.iter().map(|path| ("cdrom".to_owned(), path.display().to_string())));
        let seed_path = seed.as_ref().map(|seed| seed.path.as_path());
        let metadata = Metadata::new(&uuid, drive.pool_name(), &disk, seed_path, request);
        let port = match blueprint.port() {
            // Its own port is taken: by itself.
            Some(wanted) if making => Some(Port::choose(libvirt, wanted)?),
            _ => None,
        };
        let name = match &guest.name {
            Some(name) => name.clone(),
            None => domain_name(&default_name(blueprint.stem(), &uuid)).map_err(|why| {
                Error::usage(format!("no domain can be named after {:?}: {why}", blueprint.stem()))
                    .hint("choose a --name")
            })?,
        };
        let identity = Identity {
            name: &name,
            uuid: &uuid,
            disk: &disk,
            cdrom: cdrom.as_deref(),
            keep_base_owner: owner.is_some(),
            seed: seed_path,
            devices: &devices,
            ssh: port.as_ref().map(|port| port.socket),
            metadata: &metadata,
        };
        let (xml, changes) = blueprint.to_xml(&identity)?;
        let mut warnings =
            [blueprint.warnings(), &drive.warnings, &devices.warnings, &changes].concat();
        if making && blueprint.is_template() {
            validation::check(libvirt, &XmlDocument::parse(xml.as_str())?)?;
        }
        let definition = Definition::parse(xml.clone())?;
        let order = match making {
            true => Order::new(context, libvirt, config, &guest.launch.sev, &definition)?,
            false => None,
        };
        warnings.extend(order.iter().flat_map(|order| order.warnings.clone()));
        let memory = Size(definition.memory_bytes().unwrap_or_default());
        let shortage = match making {
            true => memory_shortage(context, libvirt, memory)?,
            false => None,
        };
        warnings.extend(shortage.clone());
        let handover = devices.handover(memory, &uuid);
        Ok(Self {
            name,
            xml,
            settings: choice.map(|choice| choice.settings.clone()).unwrap_or_default(),
            host: guest
                .scenario
                .scenario
                .clone()
                .zip(choice.map(|choice| choice.profile.host.clone())),
            memory_shortage: shortage.filter(|_| security != Security::None).map(|message| {
                Error::unsupported(message).hint("--memory says how much the guest gets")
            }),
            by_user: blueprint.is_template(),
            warnings,
            libvirt,
            _port: port,
            drive,
            seed,
            handover,
            order,
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

    /// The domain as [`Plan::apply`] would leave it, and what that would take.
    pub fn imagined(&self, context: &Context) -> Result<(DomainItem, Action)> {
        let name = &self.name;
        match &self.existing {
            Some(domain) => {
                let action = passthrough::imagined(&context.host, self.libvirt, domain, name)?;
                Ok((observed(domain, name)?, action))
            }
            None => {
                let definition = Definition::parse(self.xml.clone())?;
                Ok((definition.item(None, State::Running, false), Action::Create))
            }
        }
    }

    /// Has the domain running. Returns it, and what that took.
    pub fn apply(
        self,
        context: &Context,
        config: &Config,
        request: &ImageRequest,
    ) -> Result<(DomainItem, Action)> {
        let name = self.name.clone();
        if let Some(domain) = &self.existing {
            let done = passthrough::bring_up(&context.host, self.libvirt, domain, &name)
                .and_then(|action| Ok((observed(domain, &name)?, action)));
            return done.map_err(|error| or_gone(domain, &name, error));
        }
        let domain = self.create(context, config, request)?;
        let item = observed(&domain, &name)
            .map_err(|error| error.applied([format!("created domain '{name}'")]))
            .map_err(|error| or_gone(&domain, &name, error))?;
        Ok((item, Action::Create))
    }

    fn create(self, context: &Context, config: &Config, request: &ImageRequest) -> Result<Domain> {
        let name = &self.name;
        let (in_pool, asked) = (self.seed.is_some(), self.overwrites.is_some());
        // Until the domain is there to be seen: tdx-pool deletes what nothing uses.
        let _kept = match self.drive.disk() {
            Disk::Given { path, .. } => {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                Some(UseLock::begin(&context.host, &name)?)
            }
            _ => None,
        };
        let (drive, pool, mut applied) =
            self.drive.make_ready(context, self.libvirt, config, request, (in_pool, asked))?;
        let create = || drive.create(context, self.libvirt, pool.as_ref(), self.owner);
        // What was goes only when the new disk is there.
        let mut early = None;
        if let Some(uuid) = &self.overwrites {
            early = Some(make_way(context, self.libvirt, name, uuid, create()?)?);
            applied.push(format!("deleted the domain '{name}' that was"));
        }
        let carry_out = |order: &Order| order.carry_out(context, self.libvirt, name, &self.xml);
        let order = match self.order.as_ref().map(carry_out).transpose() {
            Ok(order) => order,
            Err(error) => {
                return Err(undo_volumes(self.libvirt, early.flatten(), error.applied(applied)));
            }
        };
        let xml = order.as_ref().map_or(&self.xml, |(_, xml)| xml);
        let build = || {
            let mut volumes = Vec::from_iter(early.take().map_or_else(create, Ok)?);
            if let (Some(seed), Some(pool)) = (&self.seed, &pool) {
                match seed.create(&context.host, self.libvirt, pool, self.owner) {
                    Ok(seed) => volumes.push(seed),
                    Err(error) => return Err(undo_volumes(self.libvirt, volumes, error)),
                }
            }
            define_and_start(context, self.libvirt, name, (xml, self.by_user), volumes)
        };
        let made = interrupt::check()
            .and_then(|()| passthrough::with(&context.host, self.handover, build));
        made.map_err(|error: Error| {
            // Still there when devices could not be had.
            let error = undo_volumes(self.libvirt, early.flatten(), error.applied(applied));
            match order {
                // The domain that could not be removed may still need its keys.
                Some((keep, _)) if matches!(names::find(self.libvirt, name), Ok(None)) => {
                    keep.undo_after(error)
                }
                Some((keep, _)) => error.left_behind([keep.shown()]),
                None => error,
            }
        })
    }
}

/// Says that a guest's memory is more than the host's, if it is.
fn memory_shortage(context: &Context, libvirt: &Libvirt, memory: Size) -> Result<Option<String>> {
    let has = Size(capability::capacity(&context.host, libvirt)?.memory_bytes);
    let message = || format!("the host has {has} of memory, {memory} were asked for");
    Ok((memory.0 > has.0).then(message))
}

/// Deletes the domain that was compared and asked about, and no other that has its name by now. Returns
/// the disk of the domain that comes in its place.
///
/// Errors: those of [`remove::remove`]; the disk is deleted then.
fn make_way(
    context: &Context,
    libvirt: &Libvirt,
    name: &str,
    uuid: &str,
    disk: Option<NewVolume>,
) -> Result<Option<NewVolume>> {
    let gone = interrupt::check().and_then(|()| remove::remove(&context.host, libvirt, name, uuid));
    match gone {
        Ok(()) => Ok(disk),
        Err(error) => Err(undo_volumes(libvirt, disk, error)),
    }
}

/// Defines the domain and has it running. When that fails the definition and the volumes are undone.
fn define_and_start(
    context: &Context,
    libvirt: &Libvirt,
    name: &str,
    (xml, by_user): (&str, bool),
    volumes: Vec<NewVolume>,
) -> Result<Domain> {
    let domain = match define(libvirt, name, xml, by_user) {
        Ok(domain) => domain,
        Err(error) => return Err(undo_volumes(libvirt, volumes, error)),
    };
    let started = interrupt::check()
        .and_then(|()| definition::inactive(&domain, name))
        .and_then(|made| attestation::bring_up(&context.host, libvirt, &domain, &made));
    match started {
        Ok(_) => Ok(domain),
        Err(error) => {
            let error = or_gone(&domain, name, error);
            Err(undo(libvirt, &domain, name, volumes, error))
        }
    }
}

/// In what the domain that has the name is not what is asked for, in words; `other_format` is how it uses
/// the user's own image, and how it should.
///
/// Errors: `conflict` for a domain of others.
fn differences(
    there: &Definition,
    name: &str,
    wanted: &Metadata,
    other_format: Option<(Format, Format)>,
) -> Result<Option<String>> {
    let record = there.metadata.as_ref();
    let record = record.ok_or_else(|| taken(name, "was not made by these tools"))?;
    let mut differences = record.differences(wanted);
    differences.extend(other_format.map(|(is, not)| format!("image_format is {is}, not {not}")));
    Ok((!differences.is_empty()).then(|| differences.join("; ")))
}

/// The error of work on a domain; that it is gone, if it is.
fn or_gone(domain: &Domain, name: &str, error: Error) -> Error {
    match power::is_deleted(domain) {
        true => {
            Error::conflict(format!("domain '{name}' was deleted by another command meanwhile"))
                .hint("run the same command again")
        }
        false => error,
    }
}

fn taken(name: &str, how: &str) -> Error {
    Error::conflict(format!("domain '{name}' exists and {how}"))
        .hint("choose another --name, or delete it first")
}

/// Defines the domain. With `by_user` the definition is a user's, and its faults are theirs.
fn define(libvirt: &Libvirt, name: &str, xml: &str, by_user: bool) -> Result<Domain> {
    interrupt::check()?;
    let doing = format_args!("define domain '{name}'");
    log::step(doing);
    let validate = sys::VIR_DOMAIN_DEFINE_VALIDATE;
    let error = match libvirt.connect().define_domain_xml_flags(xml, validate) {
        Ok(domain) => return Ok(domain),
        Err(error) => error,
    };
    // Its maker may have deleted it by now.
    if is_name_taken(&error) || matches!(names::find(libvirt, name), Ok(Some(_))) {
        let message = format!("domain '{name}' was made by another command meanwhile");
        return Err(
            Error::conflict(message).hint("run the same command again: it compares the two")
        );
    }
    if by_user && is_invalid(&error) {
        return Err(Error::invalid_input("libvirt does not take the template's definition")
            .because(error.message().to_owned()));
    }
    // A libvirtd that died over this may have done it all the same.
    let left = (!libvirt.is_alive()).then(|| format!("domain '{name}'"));
    Err(error).context(doing).map_err(|error| error.left_behind(left))
}

/// Whether libvirt refused to define a domain, with a UUID that no other has, because another has its name.
///
/// Source: libvirt `src/conf/virdomainobjlist.c`, `virDomainObjListAddLocked()`: while a domain is defined,
/// no other error is of this code and origin.
fn is_name_taken(error: &VirtError) -> bool {
    let (code, origin) = (error.code().to_raw(), error.domain().to_raw());
    code == sys::VIR_ERR_DOM_EXIST
        || (code == sys::VIR_ERR_OPERATION_FAILED && origin == sys::VIR_FROM_DOMAIN)
}

/// Whether libvirt found fault with the XML itself.
fn is_invalid(error: &VirtError) -> bool {
    let faults = [sys::VIR_ERR_XML_INVALID_SCHEMA, sys::VIR_ERR_XML_ERROR, sys::VIR_ERR_XML_DETAIL];
    faults.contains(&error.code().to_raw())
}

/// Takes a domain back that was defined and does not run. Its volumes go only after it.
fn undo(
    libvirt: &Libvirt,
    domain: &Domain,
    name: &str,
    volumes: Vec<NewVolume>,
    error: Error,
) -> Error {
    // Another command may have started it the moment it was there.
    match power::is_off(domain, name) && remove::undo_definition(libvirt, domain, name).is_ok() {
        true => undo_volumes(libvirt, volumes, error),
        false => {
            let paths = volumes.iter().map(|volume| volume.path().display().to_string());
            error.left_behind([format!("domain '{name}'")]).left_behind(paths)
        }
    }
}

fn undo_volumes(
    libvirt: &Libvirt,
    volumes: impl IntoIterator<Item = NewVolume>,
    error: Error,
) -> Error {
    volumes.into_iter().fold(error, |error, volume| volume.undo_after(libvirt, error))
}

/// The domain as it is now.
fn observed(domain: &Domain, name: &str) -> Result<DomainItem> {
    let doing = format_args!("read domain '{name}'");
    let definition = Definition::parse(domain.xml_desc(0).context(doing)?)?;
    let autostart = domain.autostart().context(doing)?;
    let state = power::state(domain, name)?;
    Ok(definition.item(domain.id(), state, autostart))
}

/// What was asked for of disk and user, in the form a later `new` of the same name compares. No
/// secrets.
fn request_of(seed: &SeedArgs, disk_size: Option<u64>) -> Vec<(String, String)> {
    let disk_size = disk_size.map_or_else(|| "image".to_owned(), |size| size.to_string());
    [
        ("disk_size_bytes", disk_size),
        ("user", seed.user.clone().unwrap_or_default()),
        ("hostname", seed.hostname.clone().unwrap_or_default()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}
