//! `tdx-td new`: from a disk image to a running domain.
//!
//! Everything that can fail is looked at first. Then the pool is made ready, the image imported, the
//! overlay made, the domain defined and started. What fails half way is undone: the domain and its
//! overlay go; an image that was imported stays, since others may stand on it by then, and is named.

use std::borrow::Cow;
use std::os::unix::fs::MetadataExt;

use clap::Args;
use common::cli::{Change, Context};
use common::config::Config;
use common::document::{Action, Document, Item};
use common::libvirt::{Context as _, Libvirt, State};
use common::output::Outcome;
use common::{Error, IoContext, Result, interrupt, log};
use schemars::JsonSchema;
use serde::Serialize;
use tdx_pool::names::random_bytes;
use tdx_pool::overlay::{self, Base, Overlay};
use tdx_pool::owner::{self, Owner};
use tdx_pool::pool::Pool;
use tdx_pool::{ensure, import};
use virt::domain::Domain;
use virt::sys;

use crate::capability::Security;
use crate::definition::Guest;
use crate::delete::undefine;
use crate::domain::{Definition, DomainItem};
use crate::metadata::Metadata;
use crate::names;
use crate::request::{GuestArgs, Image, ImageArgs, ImageRequest, Settings};

/// Arguments of `new`.
#[derive(Debug, Args)]
pub struct NewArgs {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    change: Change,
}

/// A domain and what was done to have it running.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NewItem {
    #[serde(flatten)]
    domain: DomainItem,
    /// `create`; for a name that was there as asked for, `start` or `none`.
    action: Action,
}

impl Item for NewItem {
    const COLUMNS: &'static [&'static str] = DomainItem::COLUMNS;

    fn key(&self) -> Cow<'_, str> {
        self.domain.key()
    }

    fn row(&self) -> Vec<String> {
        self.domain.row()
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// Creates and starts a domain, or finds it there as asked for.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    config: &Config,
    args: NewArgs,
) -> Result<Outcome> {
    let mut plan = Plan::new(context, connect, config, &args.image, &args.guest)?;
    let dry_run = args.change.dry_run;
    let warnings = std::mem::take(&mut plan.warnings);
    let action = plan.action()?;
    let item = match dry_run {
        true => plan.imagined(action)?,
        false => plan.apply(context, action)?,
    };
    let document = Document::new("tdx.td.new", vec![item]);
    Ok(document.dry_run(dry_run).warnings(warnings).into())
}

const CREATE: Action = Action("create");
const START: Action = Action("start");

/// What it takes to have the domain.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) guest: Guest,
    pub(crate) warnings: Vec<String>,
    libvirt: Libvirt,
    pool: ensure::Plan,
    image: Image,
    overlay: overlay::Plan,
    owner: Option<Owner>,
    existing: Option<Domain>,
}

impl Plan {
    pub(crate) fn new(
        context: &Context,
        connect: impl FnOnce() -> Result<Libvirt>,
        config: &Config,
        image: &ImageArgs,
        guest: &GuestArgs,
    ) -> Result<Self> {
        let request = ImageRequest::read(image)?;
        interrupt::guard();
        let libvirt = connect()?;
        let settings = Settings::new(context, &libvirt, config, guest)?;
        let mut warnings = settings.warnings.clone();
        let pool = ensure::Plan::new(&libvirt, config, &request.pool_args(), None)?;
        warnings.extend(pool.warnings.iter().cloned());
        let image_plan = request.find(context, &libvirt, config, &pool, &mut warnings)?;
        let base = image_plan.base();
        let owner = owner::of_qemu(&libvirt)?;
        if let (Image::There(base), Some(owner), true) = (&image_plan, owner, libvirt.is_local()) {
            check_readable(base, owner)?;
        }
        let size = image.disk_size.map(|size| size.0);
        let overlay = overlay::Plan::new(pool.folder()?, base.clone(), size)?;
        let uuid = new_uuid()?;
        let name = guest.name.clone().unwrap_or_else(|| default_name(settings.security, &uuid));
        let metadata = Metadata {
            pool: pool.pool_name().to_owned(),
            base: base.path.clone(),
            overlay: overlay.path.clone(),
            request: request_of(&settings, size),
        };
        let vsock = libvirt.is_local() && context.host.has("/dev/vhost-vsock");
        let existing = names::find(&libvirt, &name)?;
        let guest = Guest {
            name,
            uuid,
            virt_type: settings.virt_type,
            security: settings.security,
            memory_bytes: settings.memory_bytes,
            vcpus: settings.vcpus,
            base_format: base.format,
            keep_base_owner: owner.is_some(),
            network: settings.network,
            vsock,
            hotplug_ports: settings.hotplug_ports,
            metadata,
        };
        Ok(Self { guest, warnings, libvirt, pool, image: image_plan, overlay, owner, existing })
    }

    /// What [`Plan::apply`] would do.
    ///
    /// Errors: `conflict` when the name is taken by a domain that is not what was asked for.
    fn action(&self) -> Result<Action> {
        let Some(domain) = &self.existing else {
            return Ok(CREATE);
        };
        let name = &self.guest.name;
        let doing = format_args!("read domain '{name}'");
        let next = domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).context(doing)?;
        let taken = |how: &str| {
            Error::conflict(format!("domain '{name}' exists{how}"))
                .hint("choose another --name, or delete it first")
        };
        let Some(theirs) = Definition::parse(next)?.metadata else {
            return Err(taken(" and was not made by these tools"));
        };
        let ours = &self.guest.metadata;
        let mut differences = Vec::new();
        if theirs.base != ours.base {
            differences.push(format!("base is {}", theirs.base.display()));
        }
        for (key, value) in &ours.request {
            let there = theirs.request.iter().find(|(known, _)| known == key);
            let there = there.map_or("unknown", |(_, value)| value.as_str());
            if there != value {
                differences.push(format!("{key} is {there}, not {value}"));
            }
        }
        if !differences.is_empty() {
            return Err(taken(&format!(" and differs: {}", differences.join("; "))));
        }
        let active = domain.is_active().context(format_args!("ask about domain '{name}'"))?;
        Ok(if active { Action::NONE } else { START })
    }

    /// The item a dry run shows.
    fn imagined(&self, action: Action) -> Result<NewItem> {
        match &self.existing {
            Some(domain) => observed(domain, &self.guest.name, action),
            None => {
                let definition = Definition::parse(self.guest.to_xml()?)?;
                Ok(NewItem { domain: definition.item(None, State::Running, false), action })
            }
        }
    }

    fn apply(self, context: &Context, action: Action) -> Result<NewItem> {
        let name = self.guest.name.clone();
        if let Some(domain) = &self.existing {
            if action == START {
                log::step(format_args!("start domain '{name}'"));
                domain.create().context(format_args!("start domain '{name}'"))?;
            }
            return observed(domain, &name, action);
        }
        let xml = self.guest.to_xml()?;
        let made_pool = self.pool.found().is_none();
        let pool = self.pool.apply(&self.libvirt)?;
        let mut applied: Vec<String> = Vec::new();
        applied.extend(made_pool.then(|| format!("created pool '{}'", pool.name)));
        let made = (|| {
            applied.extend(apply_image(context, &self.libvirt, &pool, self.image)?);
            interrupt::check()?;
            let overlay = self.overlay.create(&context.host, &pool, self.owner)?;
            match define_and_start(&self.libvirt, &name, &xml) {
                Ok(domain) => Ok(domain),
                Err(error) => Err(undo_overlay(overlay, error)),
            }
        })();
        match made {
            Ok(domain) => observed(&domain, &name, action),
            Err(error) => Err(error.applied(applied)),
        }
    }
}

/// Imports the image if it has to be; says so for the error of a later step.
pub(crate) fn apply_image(
    context: &Context,
    libvirt: &Libvirt,
    pool: &Pool,
    image: Image,
) -> Result<Option<String>> {
    let Image::Import(plan) = image else {
        return Ok(None);
    };
    let plan: import::Plan = *plan;
    let (item, base) = plan.apply(context, libvirt, pool)?;
    let imported = item.action().is_some_and(|action| action != Action::NONE);
    Ok(imported.then(|| format!("imported volume '{}'", base.name)))
}

fn define_and_start(libvirt: &Libvirt, name: &str, xml: &str) -> Result<Domain> {
    interrupt::check()?;
    log::step(format_args!("define domain '{name}'"));
    let validate = sys::VIR_DOMAIN_DEFINE_VALIDATE;
    let domain = match libvirt.connect().define_domain_xml_flags(xml, validate) {
        Err(_) if names::find(libvirt, name)?.is_some() => {
            return Err(Error::conflict(format!(
                "domain '{name}' was made by another command meanwhile"
            )));
        }
        defined => defined.context(format_args!("define domain '{name}'"))?,
    };
    let started = interrupt::check().and_then(|()| {
        log::step(format_args!("start domain '{name}'"));
        domain.create().context(format_args!("start domain '{name}'"))
    });
    match started {
        Ok(()) => Ok(domain),
        Err(error) => match undefine(&domain, name) {
            Ok(()) => Err(error),
            Err(_) => Err(error.left_behind([format!("domain '{name}'")])),
        },
    }
}

fn undo_overlay(overlay: Overlay, error: Error) -> Error {
    let path = overlay.path.display().to_string();
    match overlay.undo() {
        Ok(()) => error,
        Err(_) => error.left_behind([path]),
    }
}

fn observed(domain: &Domain, name: &str, action: Action) -> Result<NewItem> {
    let doing = format_args!("read domain '{name}'");
    let definition = Definition::parse(domain.xml_desc(0).context(doing)?)?;
    let autostart = domain.autostart().context(doing)?;
    let state = match domain.id() {
        Some(_) => State::Running,
        None => State::Off,
    };
    Ok(NewItem { domain: definition.item(domain.id(), state, autostart), action })
}

/// What was asked for, in the form a later `new` of the same name compares.
fn request_of(settings: &Settings, disk_size: Option<u64>) -> Vec<(String, String)> {
    let disk_size = disk_size.map_or_else(|| "image".to_owned(), |size| size.to_string());
    [
        ("security", settings.security.to_string()),
        ("virt_type", settings.virt_type.as_str().to_owned()),
        ("memory_bytes", settings.memory_bytes.to_string()),
        ("vcpus", settings.vcpus.to_string()),
        ("disk_size_bytes", disk_size),
        ("network", settings.network.clone()),
        ("hotplug_ports", settings.hotplug_ports.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// The name the original script would have chosen: users' scripts match on it.
fn default_name(security: Security, uuid: &str) -> String {
    let stem = match security {
        Security::None => "regular_vm",
        Security::Tdx => "trust_domain",
    };
    format!("tdvirsh-{stem}-{uuid}")
}

/// A random UUID. Source: RFC 9562, section 5.4 (version 4).
fn new_uuid() -> Result<String> {
    let mut bytes: [u8; 16] = random_bytes()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_random_and_of_version_4() {
        let uuid = new_uuid().unwrap();
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
        assert!("89ab".contains(&uuid[19..20]), "{uuid}");
        assert_ne!(uuid, new_uuid().unwrap());
    }
}
