//! Carrying out a creation plan: creates and starts the domain, or undoes everything.
//!
//! The steps in order: passphrase, pool and image; deletion of the domain that `--overwrite` replaces; keys of
//! an attested launch; host devices; disk and seed; definition; start. A failure undoes the steps in reverse
//! order. An imported image stays, because other domains may use it already. The error names it.

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
    /// Creates and starts the domain. An existing domain that is as requested is only started. Returns the
    /// domain and the action.
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
            // The old domain is deleted only after the new disk exists.
            if let Some(uuid) = &self.overwrites {
                create_disk(&disk, context, (libvirt, pool), self.owner, undo)?;
                interrupt::check()?;
                remove::remove(host, libvirt, name, uuid)?;
                undo.applied(format!("deleted the previous domain '{name}'"));
            }
            let xml = match &self.attestation {
                Some(attestation) => {
                    let (keys, xml) = attestation.prepare(context, libvirt, name, &self.xml)?;
                    undo.push_with(move |error| match lookup::find(libvirt, name) {
                        Ok(None) => keys.undo_after(error),
                        // A domain that could not be removed may still need the keys.
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

    /// Keeps `tdx-pool` from deleting the image of `--vmimage` until the domain's definition names it.
    fn keep_user_image(&self, context: &Context) -> Result<Option<UseLock>> {
        let Disk::Given { path, .. } = self.disk.disk() else { return Ok(None) };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        UseLock::begin(&context.host, &name).map(Some)
    }
}

/// Creates the disk. An image of `--vmimage` exists already, so nothing is undone for it.
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

/// Defines the domain. With `is_template`, an invalid definition is an error of the user's input.
fn define(libvirt: &Libvirt, name: &str, xml: &str, is_template: bool) -> Result<Domain> {
    interrupt::check()?;
    let doing = format_args!("define domain '{name}'");
    log::step(doing);
    let validate = sys::VIR_DOMAIN_DEFINE_VALIDATE;
    let error = match libvirt.connect().define_domain_xml_flags(xml, validate) {
        Ok(domain) => return Ok(domain),
        Err(error) => error,
    };
    // The command that took the name may have deleted its domain already.
    if is_name_taken(&error) || matches!(lookup::find(libvirt, name), Ok(Some(_))) {
        let message = format!("another command created domain '{name}' at the same time");
        return Err(Error::conflict(message).hint(
            "run the command again: tdx-td new then compares the existing domain with the \
                 requested one",
        ));
    }
    if is_template && is_invalid(&error) {
        return Err(Error::invalid_input("libvirt refuses the definition made from the template")
            .because(error.message().to_owned()));
    }
    // A libvirtd that died meanwhile may have defined the domain nevertheless.
    let left = (!libvirt.is_alive()).then(|| format!("domain '{name}'"));
    Err(error).context(doing).map_err(|error| error.left_behind(left))
}

/// Starts the domain. An attested one runs only after its launch measurement was verified.
fn start(context: &Context, libvirt: &Libvirt, domain: &Domain, name: &str) -> Result<()> {
    interrupt::check()
        .and_then(|()| definition::inactive(domain, name))
        .and_then(|made| attestation::start_or_resume(&context.host, libvirt, domain, &made))
        .map(drop)
        .map_err(|error| or_deleted_meanwhile(domain, name, error))
}

/// Undefines the new domain, which does not run. Its volumes are deleted after that.
///
/// Errors: `conflict` if the domain runs: another command may have started it.
fn undefine(libvirt: &Libvirt, domain: &Domain, name: &str) -> Result<()> {
    if !power::is_off(domain, name) {
        return Err(Error::conflict(format!("domain '{name}' is running")));
    }
    remove::undo_definition(libvirt, domain, name)
}

/// Whether libvirt refused to define a domain because another domain, with another UUID, has its name.
///
/// Source: libvirt `src/conf/virdomainobjlist.c`, `virDomainObjListAddLocked()`: while a domain is defined,
/// no other error is of this code and origin.
fn is_name_taken(error: &VirtError) -> bool {
    let (code, origin) = (error.code().to_raw(), error.domain().to_raw());
    code == sys::VIR_ERR_DOM_EXIST
        || (code == sys::VIR_ERR_OPERATION_FAILED && origin == sys::VIR_FROM_DOMAIN)
}

/// Whether libvirt refused the XML itself.
fn is_invalid(error: &VirtError) -> bool {
    let faults = [sys::VIR_ERR_XML_INVALID_SCHEMA, sys::VIR_ERR_XML_ERROR, sys::VIR_ERR_XML_DETAIL];
    faults.contains(&error.code().to_raw())
}
