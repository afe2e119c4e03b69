//! Making a domain, or finding it there.
//!
//! Everything that can fail is looked at first. Then the pool is made ready, the image imported, devices
//! taken, the overlay made, the domain defined and started. What fails half way is undone: the domain and
//! its overlay go, devices go back; an image that was imported stays, since others may stand on it by then, and is named.

use std::os::unix::fs::MetadataExt;

use common::cli::Context;
use common::config::Config;
use common::document::Action;
use common::libvirt::{Context as _, Libvirt, State};
use common::units::Size;
use common::{Error, IoContext, Result, interrupt, log};
use tdx_gpu::handover::Handover;
use tdx_pool::overlay::{self, Base, NewVolume};
use tdx_pool::owner::{self, Owner};
use tdx_pool::seed as seed_volume;
use virt::domain::Domain;
use virt::error::Error as VirtError;
use virt::sys;

use crate::blueprint::Blueprint;
use crate::definition::{self, Definition};
use crate::domain::DomainItem;
use crate::identity::{Identity, default_name, new_uuid};
use crate::image::{Image, ImageRequest, Source};
use crate::metadata::Metadata;
use crate::passthrough::{self, DeviceRequest, Devices};
use crate::ports::Port;
use crate::removal::undefine;
use crate::seed::{Seed, SeedArgs};
use crate::settings::{GuestArgs, domain_name};
use crate::{names, power};

/// What it takes to have the domain.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The domain's name.
    pub name: String,
    /// What would be defined.
    pub xml: String,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Whether the definition is a user's.
    by_user: bool,
    libvirt: &'a Libvirt,
    /// Ours until the domain has it.
    _port: Option<Port>,
    source: Source,
    overlay: overlay::Plan,
    seed: Option<seed_volume::Plan>,
    handover: Option<Handover>,
    owner: Option<Owner>,
    existing: Option<Domain>,
}

impl<'a> Plan<'a> {
    /// Looks at everything that can fail: host, network, pool, image, name.
    ///
    /// Errors: those of [`Blueprint::new`] and [`Source::find`]; `conflict` when QEMU could not
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
        // What is there already needs nothing more of the host.
        let blueprint = Blueprint::new(context, libvirt, config, guest, existing.is_none())?;
        let source = Source::find(context, libvirt, config, request)?;
        let base = source.image.base();
        let owner = owner::of_qemu(libvirt)?;
        if let (Image::There(base), Some(owner), true) = (&source.image, owner, libvirt.is_local())
        {
            check_readable(base, owner)?;
        }
        let size = request.disk_size;
        let overlay = overlay::Plan::new(source.pool.folder()?, base.clone(), size)?;
        let uuid = new_uuid()?;
        let seed = match Seed::read(&guest.seed, &uuid)? {
            Some(seed) => Some(seed_volume::Plan::new(source.pool.folder()?, seed.to_image()?)?),
            None => None,
        };
        let making = existing.is_none();
        let security = blueprint.security();
        let devices = Devices::new(&context.host, libvirt, devices, security, &uuid, making)?;
        let metadata = Metadata {
            pool: source.pool.pool_name().to_owned(),
            base: base.path.clone(),
            overlay: overlay.path.clone(),
            request: [blueprint.request(), devices.request(), request_of(&guest.seed, size)]
                .concat(),
        };
        if let (Some(domain), Some(name)) = (&existing, &guest.name) {
            check_same(domain, name, &metadata)?;
        }
        let port = match blueprint.port() {
            // Its own port is taken: by itself.
            Some(wanted) if existing.is_none() => Some(Port::choose(libvirt, wanted)?),
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
            base: &base,
            keep_base_owner: owner.is_some(),
            seed: seed.as_ref().map(|seed| seed.path.as_path()),
            devices: &devices,
            ssh: port.as_ref().map(|port| port.socket),
            metadata: &metadata,
        };
        let (xml, changes) = blueprint.to_xml(&identity)?;
        let warnings =
            [blueprint.warnings(), &source.warnings, &devices.warnings, &changes].concat();
        let memory = Definition::parse(xml.clone())?.memory_bytes().unwrap_or_default();
        let handover = devices.handover(Size(memory), &uuid);
        Ok(Self {
            name,
            xml,
            by_user: blueprint.is_template(),
            warnings,
            libvirt,
            _port: port,
            source,
            overlay,
            seed,
            handover,
            owner,
            existing,
        })
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
                Ok((definition.item(None, State::Running, false), CREATE))
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
            let action = passthrough::bring_up(&context.host, self.libvirt, domain, &name)?;
            return Ok((observed(domain, &name)?, action));
        }
        let domain = self.create(context, config, request)?;
        let item = observed(&domain, &name)
            .map_err(|error| error.applied([format!("created domain '{name}'")]))?;
        Ok((item, CREATE))
    }

    fn create(self, context: &Context, config: &Config, request: &ImageRequest) -> Result<Domain> {
        let name = &self.name;
        let (pool, applied) = self.source.make_ready(context, self.libvirt, config, request)?;
        let build = || {
            let overlay = self.overlay.create(&context.host, &pool, self.owner)?;
            let mut volumes = vec![overlay];
            if let Some(seed) = &self.seed {
                match seed.create(&context.host, self.libvirt, &pool, self.owner) {
                    Ok(seed) => volumes.push(seed),
                    Err(error) => return Err(undo_volumes(volumes, error)),
                }
            }
            let domain = match define(self.libvirt, name, &self.xml, self.by_user) {
                Ok(domain) => domain,
                Err(error) => return Err(undo_volumes(volumes, error)),
            };
            let started = interrupt::check().and_then(|()| power::bring_up(&domain, name));
            match started {
                Ok(_) => Ok(domain),
                Err(error) => Err(undo(&domain, name, volumes, error)),
            }
        };
        let made = interrupt::check()
            .and_then(|()| passthrough::with(&context.host, self.handover, build));
        made.map_err(|error: Error| error.applied(applied))
    }
}

/// A domain that was not there was made.
pub const CREATE: Action = Action("create");

/// Fails unless the domain that has the name is what is asked for.
fn check_same(domain: &Domain, name: &str, wanted: &Metadata) -> Result<()> {
    let taken = |how: &str| {
        Error::conflict(format!("domain '{name}' exists and {how}"))
            .hint("choose another --name, or delete it first")
    };
    let there = definition::inactive(domain, name)?.metadata;
    let there = there.ok_or_else(|| taken("was not made by these tools"))?;
    let differences = there.differences(wanted);
    match differences.is_empty() {
        true => Ok(()),
        false => Err(taken(&format!("differs: {}", differences.join("; ")))),
    }
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
    if matches!(names::find(libvirt, name), Ok(Some(_))) {
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

/// Whether libvirt found fault with the XML itself.
fn is_invalid(error: &VirtError) -> bool {
    let faults = [sys::VIR_ERR_XML_INVALID_SCHEMA, sys::VIR_ERR_XML_ERROR, sys::VIR_ERR_XML_DETAIL];
    faults.contains(&error.code().to_raw())
}

/// Takes a domain back that was defined and does not run. Its volumes go only after it.
fn undo(domain: &Domain, name: &str, volumes: Vec<NewVolume>, error: Error) -> Error {
    // Another command may have started it the moment it was there.
    let idle = power::is_active(domain, name).is_ok_and(|active| !active);
    match idle && undefine(domain, name, false).is_ok() {
        true => undo_volumes(volumes, error),
        false => {
            let paths = volumes.iter().map(|volume| volume.path().display().to_string());
            error.left_behind([format!("domain '{name}'")]).left_behind(paths)
        }
    }
}

fn undo_volumes(volumes: Vec<NewVolume>, error: Error) -> Error {
    volumes.into_iter().fold(error, |error, volume| volume.undo_after(error))
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

/// Fails for a base image that QEMU could not read, since libvirt will be told not to change that.
fn check_readable(base: &Base, qemu: Owner) -> Result<()> {
    let file = match base.path.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Ok(()),
        file => file.at("look at", &base.path)?,
    };
    let by_class = match () {
        () if qemu.uid == 0 => true,
        () if file.uid() == qemu.uid => file.mode() & 0o400 != 0,
        () if file.gid() == qemu.gid => file.mode() & 0o040 != 0,
        () => file.mode() & 0o004 != 0,
    };
    if by_class {
        return Ok(());
    }
    let (path, gid) = (base.path.display(), qemu.gid);
    Err(Error::conflict(format!("QEMU, which runs as {}:{gid} here, cannot read {path}", qemu.uid))
        .hint(format!("chgrp {gid} '{path}' && chmod 0640 '{path}'")))
}
