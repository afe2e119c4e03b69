//! Carrying out a plan: the domain is made and started, or everything is undone.
//!
//! The order is: passphrase, pool and image; the domain that is overwritten; keys of an attested launch;
//! devices; the disk and the seed; the definition; the start. A failure undoes these in reverse. An imported
//! image stays, since other domains may use it by then, and the error names it.

use common::cli::config::Config;
use common::cli::{Context, interrupt, log};
use common::document::Action;
use common::libvirt::{Context as _, Libvirt};
use common::undo::Undo;
use common::{Error, Result, undo};
use tdx_pool::pool::Pool;
use tdx_pool::pool::qemu_user::QemuUser;
use tdx_pool::references::inflight::UseLock;
use virt::domain::Domain;
use virt::error::Error as VirtError;
use virt::sys;

use crate::create::base_image::ImageRequest;
use crate::create::disk::Disk;
use crate::create::disk_plan::PreparedDisk;
use crate::create::existing::{or_deleted_meanwhile, read_item};
use crate::create::plan::CreationPlan;
use crate::domain::item::DomainItem;
use crate::domain::{definition, lookup, power};
use crate::security::attestation;
use crate::{passthrough, remove};

impl CreationPlan<'_> {
    /// Makes the domain and starts it; one that exists as asked for is only started. Returns the domain
    /// and what was done.
    pub fn apply(
        self,
        context: &Context,
        config: &Config,
        request: &ImageRequest,
    ) -> Result<(DomainItem, Action)> {
        let name = self.name.clone();
        if let Some(domain) = &self.existing {
            let done = passthrough::start_or_resume(&context.host, self.libvirt, domain, &name)
                .and_then(|action| Ok((read_item(domain, &name)?, action)));
            return done.map_err(|error| or_deleted_meanwhile(domain, &name, error));
        }
        let domain = self.create(context, config, request)?;
        let item = read_item(&domain, &name)
            .map_err(|error| error.applied([format!("created domain '{name}'")]))
            .map_err(|error| or_deleted_meanwhile(&domain, &name, error))?;
        Ok((item, Action::Create))
    }

    fn create(self, context: &Context, config: &Config, request: &ImageRequest) -> Result<Domain> {
        let _kept = self.keep_user_image(context)?;
        let (host, libvirt, name) = (&context.host, self.libvirt, self.name.as_str());
        let needs_pool = self.seed.is_some();
        let (disk, pool, applied) = self.disk.prepare(
            context,
            libvirt,
            config,
            request,
            (needs_pool, self.overwrites.is_some()),
        )?;
        let pool = pool.as_ref();
        undo::on_failure(|undo| {
            applied.into_iter().for_each(|change| undo.applied(change));
            // What was there goes only when the new disk exists.
            if let Some(uuid) = &self.overwrites {
                create_disk(&disk, context, (libvirt, pool), self.owner, undo)?;
                interrupt::check()?;
                remove::remove(host, libvirt, name, uuid)?;
                undo.applied(format!("deleted the domain '{name}' that was"));
            }
            let xml = match &self.attestation {
                Some(attestation) => {
                    let (keys, xml) = attestation.prepare(context, libvirt, name, &self.xml)?;
                    undo.push_with(move |error| match lookup::find(libvirt, name) {
                        Ok(None) => keys.undo_after(error),
                        // The domain that could not be removed may still need its keys.
                        _ => error.left_behind([keys.display_path()]),
                    });
                    xml
                }
                None => self.xml.clone(),
            };
            interrupt::check()?;
            passthrough::with_devices(host, self.assignment, || {
                undo::on_failure(|undo| {
                    if self.overwrites.is_none() {
                        create_disk(&disk, context, (libvirt, pool), self.owner, undo)?;
                    }
                    if let (Some(seed), Some(pool)) = (&self.seed, pool) {
                        let seed = seed.create(host, libvirt, pool, self.owner)?;
                        undo.push_with(move |error| seed.undo_after(libvirt, error));
                    }
                    let domain = define(libvirt, name, &xml, self.is_template)?;
                    let made = domain.clone();
                    undo.push(format!("domain '{name}'"), move || undefine(libvirt, &made, name));
                    start(context, libvirt, &domain, name)?;
                    Ok(domain)
                })
            })
        })
    }

    /// Keeps `tdx-pool` from deleting the user's own image until the domain shows that it uses it.
    fn keep_user_image(&self, context: &Context) -> Result<Option<UseLock>> {
        let Disk::Given { path, .. } = self.disk.disk() else { return Ok(None) };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        UseLock::begin(&context.host, &name).map(Some)
    }
}

/// Makes the disk. The user's own image is not made, and so not undone.
fn create_disk<'a>(
    disk: &PreparedDisk,
    context: &Context,
    (libvirt, pool): (&'a Libvirt, Option<&Pool>),
    owner: Option<QemuUser>,
    undo: &mut Undo<'a>,
) -> Result<()> {
    if let Some(volume) = disk.create(context, libvirt, pool, owner)? {
        undo.push_with(move |error| volume.undo_after(libvirt, error));
    }
    Ok(())
}

/// Defines the domain. With `is_template` the definition is a user's, and its faults are theirs.
fn define(libvirt: &Libvirt, name: &str, xml: &str, is_template: bool) -> Result<Domain> {
    interrupt::check()?;
    let doing = format_args!("define domain '{name}'");
    log::step(doing);
    let validate = sys::VIR_DOMAIN_DEFINE_VALIDATE;
    let error = match libvirt.connect().define_domain_xml_flags(xml, validate) {
        Ok(domain) => return Ok(domain),
        Err(error) => error,
    };
    // Its maker may have deleted it by now.
    if is_name_taken(&error) || matches!(lookup::find(libvirt, name), Ok(Some(_))) {
        let message = format!("domain '{name}' was made by another command meanwhile");
        return Err(
            Error::conflict(message).hint("run the same command again: it compares the two")
        );
    }
    if is_template && is_invalid(&error) {
        return Err(Error::invalid_input("libvirt does not take the template's definition")
            .because(error.message().to_owned()));
    }
    // A libvirtd that died over this may have defined the domain all the same.
    let left = (!libvirt.is_alive()).then(|| format!("domain '{name}'"));
    Err(error).context(doing).map_err(|error| error.left_behind(left))
}

/// Starts the domain; an attested one runs only once it was measured.
fn start(context: &Context, libvirt: &Libvirt, domain: &Domain, name: &str) -> Result<()> {
    interrupt::check()
        .and_then(|()| definition::inactive(domain, name))
        .and_then(|made| attestation::start_or_resume(&context.host, libvirt, domain, &made))
        .map(drop)
        .map_err(|error| or_deleted_meanwhile(domain, name, error))
}

/// Undefines a domain that was defined and does not run. Its volumes are needed as long as it is defined.
///
/// Errors: `conflict` for a domain that runs: another command may have started it.
fn undefine(libvirt: &Libvirt, domain: &Domain, name: &str) -> Result<()> {
    if !power::is_off(domain, name) {
        return Err(Error::conflict(format!("domain '{name}' is running")));
    }
    remove::undo_definition(libvirt, domain, name)
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
