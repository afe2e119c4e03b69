//! What the host gives to a new domain: the disk, the cloud-init seed, the devices and the SSH port.

use std::path::PathBuf;

use common::Result;
use common::cli::Context;
use common::cli::config::Config;
use common::libvirt::Libvirt;
use tdx_pool::pool::qemu_user::QemuUser;
use tdx_pool::pool::{qemu_access, qemu_user};
use tdx_pool::volume::seed::SeedPlan;

use crate::create::attached_image;
use crate::create::cloud_init::Seed;
use crate::create::definition_source::DefinitionSource;
use crate::create::disk::Disk;
use crate::create::disk_plan::DiskPlan;
use crate::create::identity::{DomainIdentity, new_uuid};
use crate::create::ports::PortReservation;
use crate::create::request::CreationRequest;
use crate::domain::definition::Definition;
use crate::domain::metadata::Metadata;
use crate::domain::purpose::Purpose;
use crate::passthrough::Devices;

/// What the host gives to a new domain.
#[derive(Debug)]
pub struct HostPlan {
    /// The source of the definition.
    pub source: DefinitionSource,
    /// UUID of the new domain.
    pub uuid: String,
    /// The user and group that QEMU runs as.
    pub owner: Option<QemuUser>,
    /// The disk.
    pub disk: DiskPlan,
    /// The cloud-init seed.
    pub seed: Option<SeedPlan>,
    /// The CD image in the domain's drive.
    cdrom: Option<PathBuf>,
    /// The host devices.
    pub devices: Devices,
    /// The reservation of the SSH port.
    pub port: Option<PortReservation>,
}

impl HostPlan {
    /// Chooses everything on the host. With `existing`, the plan is only compared with that domain: the host is
    /// not checked, and no port is reserved.
    ///
    /// Errors: those of [`DefinitionSource::new`] and [`DiskPlan::plan`]; `conflict` if QEMU could not read the
    /// image.
    pub fn new(
        context: &Context,
        libvirt: &Libvirt,
        config: &Config,
        CreationRequest { guest, image, devices }: &CreationRequest,
        existing: Option<&Definition>,
    ) -> Result<Self> {
        let purpose = if existing.is_some() { Purpose::Compare } else { Purpose::Create };
        let kind = guest.disk.kind(image.is_named());
        let source = DefinitionSource::new(context, libvirt, config, guest, kind, purpose)?;
        let scenario = source.scenario();
        let owner = qemu_user::qemu_user(libvirt)?;
        let users = (owner, existing);
        let disk = DiskPlan::plan(context, libvirt, config, image, &guest.disk, scenario, users)?;
        if let (Some(qemu), Purpose::Create) = (owner, purpose) {
            check_reachable(libvirt, &disk.disk(), qemu)?;
        }
        let uuid = new_uuid()?;
        let seed = Seed::read(&guest.access, &uuid)?;
        let seed = seed.map(|seed| SeedPlan::new(disk.folder()?, seed.to_image()?)).transpose()?;
        let security = source.security();
        let devices = Devices::new(&context.host, libvirt, devices, security, &uuid, purpose)?;
        let cdrom = guest.disk.cdrom.as_deref();
        let cdrom = cdrom.map(|image| attached_image::cdrom(libvirt, image)).transpose()?;
        let port = match (source.port(), purpose) {
            (Some(wanted), Purpose::Create) => Some(PortReservation::choose(libvirt, wanted)?),
            // An existing domain has its port already.
            _ => None,
        };
        Ok(Self { source, uuid, owner, disk, seed, cdrom, devices, port })
    }

    /// Returns the record of these tools for the domain's `<metadata>`.
    pub fn metadata(&self, request: &CreationRequest) -> Metadata {
        let seed = self.seed.as_ref().map(|seed| seed.path.as_path());
        let disk = &self.disk;
        let asked = self.recorded_request(request);
        Metadata::new(&self.uuid, disk.pool_name(), &disk.disk(), seed, asked)
    }

    /// Returns the request without secrets, in the form that the domain's metadata stores. A later `new` of the
    /// same name compares it.
    fn recorded_request(
        &self,
        CreationRequest { guest, image, .. }: &CreationRequest,
    ) -> Vec<(String, String)> {
        let size = image.disk_size.map_or_else(|| "image".to_owned(), |size| size.to_string());
        let flags = [
            ("disk_size_bytes", size),
            ("user", guest.access.user.clone().unwrap_or_default()),
            ("hostname", guest.access.hostname.clone().unwrap_or_default()),
        ];
        let mut request = [self.source.request(), self.devices.request()].concat();
        request.extend(flags.map(|(key, value)| (key.to_owned(), value)));
        request.extend(self.disk.request());
        let cdrom = self.cdrom.iter().map(|path| path.display().to_string());
        request.extend(cdrom.map(|path| ("cdrom".to_owned(), path)));
        request
    }

    /// Returns the domain XML to define, and a warning for each change of a user's template.
    ///
    /// Errors: those of [`DefinitionSource::to_xml`].
    pub fn to_xml(&self, name: &str, metadata: &Metadata) -> Result<(String, Vec<String>)> {
        self.source.to_xml(&DomainIdentity {
            name,
            uuid: &self.uuid,
            disk: &self.disk.disk(),
            cdrom: self.cdrom.as_deref(),
            keep_base_owner: self.owner.is_some(),
            seed: self.seed.as_ref().map(|seed| seed.path.as_path()),
            devices: &self.devices,
            ssh: self.port.as_ref().map(|port| port.socket),
            metadata,
        })
    }
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
