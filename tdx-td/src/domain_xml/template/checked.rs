//! A template that was checked against this host and its libvirt, and the definition made from it.

use std::path::{Path, PathBuf};

use common::cli::Context;
use common::libvirt::Libvirt;
use common::units::Size;
use common::xml::{Document, Node};
use common::{Error, Result};

use crate::capability;
use crate::capability::{Security, VirtType};
use crate::create::identity::DomainIdentity;
use crate::create::ports::PortRequest;
use crate::create::settings;
use crate::domain::definition;
use crate::domain::metadata::{TEMPLATE, digest};
use crate::domain::purpose::Purpose;
use crate::domain_xml::base_image::{BaseImage, VolumePath};
use crate::domain_xml::part::Part;
use crate::domain_xml::template::edits::{
    disable_balloon, enlarge_pci_hole, identify, resize, unshare_nvram,
};
use crate::domain_xml::template::{Template, Values, dialect, disks, schema_check};
use crate::domain_xml::{builder, hostfwd};
use crate::security::launch::tdx;
use crate::security::launch::tdx::QGS_SOCKET;

/// The flags that change a template.
#[derive(Debug, Clone, Copy, Default)]
pub struct TemplateRequest {
    /// Whether `--fix-template` was given.
    pub fix: bool,
    /// Memory that replaces the template's.
    pub memory: Option<Size>,
    /// Number of virtual CPUs that replaces the template's.
    pub vcpus: Option<u32>,
    /// Port of the host that is forwarded to the guest's SSH server.
    pub ssh_port: Option<PortRequest>,
}

/// A template that this host and its libvirt can run.
#[derive(Debug)]
pub struct CheckedTemplate {
    template: Template,
    /// The parts that this libvirt does not know.
    unknown: Vec<Part>,
    /// The volumes that the template's disks name.
    volumes: Vec<VolumePath>,
    /// Whether libvirt runs on this host.
    is_local: bool,
    /// Whether `--fix-template` was given.
    fix: bool,
    memory: Option<Size>,
    vcpus: Option<u32>,
    /// The port that replaces one that QEMU would choose at each start.
    pub ssh_port: Option<PortRequest>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

impl CheckedTemplate {
    /// Reads a template and checks it against this host and its libvirt.
    ///
    /// Errors: those of [`Template::read`] and [`schema_check::check`]; `invalid_input` for settings that a trust
    /// domain cannot have; `unsupported` for what the host lacks; `not_found` for a network or a volume.
    pub fn new(
        context: &Context,
        libvirt: &Libvirt,
        path: &Path,
        request: TemplateRequest,
        purpose: Purpose,
    ) -> Result<Self> {
        let template = Template::read(path)?;
        let unknown = schema_check::check(context, libvirt, &template, request.fix)?;
        let ssh_port = ssh_port(&template.document, request)?;
        // The definition is checked in the form in which it would be defined.
        let fixed = if request.fix {
            Some(Document::parse(dialect::fix(&template.document, &unknown, None)?.0)?)
        } else {
            None
        };
        let document = fixed.as_ref().unwrap_or(&template.document);
        dialect::check_tdx(document)?;
        disks::check_formats(document.root())?;
        check_resizable(document.root(), request)?;
        if purpose.is_create() && libvirt.is_local() {
            disks::check_headers(document.root())?;
        }
        let (mut warnings, mut volumes) = (Vec::new(), Vec::new());
        if purpose.is_create() {
            warnings = check_host(context, libvirt, document.root(), request)?;
            volumes = VolumePath::all(libvirt, document.root())?;
        }
        Ok(Self {
            unknown,
            volumes,
            is_local: libvirt.is_local(),
            fix: request.fix,
            memory: request.memory,
            vcpus: request.vcpus,
            ssh_port,
            warnings,
            template,
        })
    }

    /// Returns the protection of the guest.
    pub fn security(&self) -> Security {
        security_of(self.template.document.root())
    }

    /// Returns the template file's name, which is KIND in the default name of the domain.
    pub fn stem(&self) -> &str {
        &self.template.stem
    }

    /// Returns the request in the form that a later `new` of the same name compares.
    pub fn request(&self) -> Vec<(String, String)> {
        let memory = self.memory.map(|size| size.0.to_string());
        let vcpus = self.vcpus.map(|vcpus| vcpus.to_string());
        let own = || "template".to_owned();
        [
            (TEMPLATE, digest(self.template.document.text().as_bytes())),
            ("fix_template", self.fix.to_string()),
            ("memory_bytes", memory.unwrap_or_else(own)),
            ("vcpus", vcpus.unwrap_or_else(own)),
        ]
        .into_iter()
        .chain(self.ssh_port.map(|port| ("ssh_port", port.to_string())))
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }

    /// Returns the definition of one domain, and descriptions of the changes to the template.
    ///
    /// Errors: those of [`Template::fill`] and [`BaseImage::check`]; `invalid_input` for an overlay that the
    /// template uses in another format.
    pub fn to_xml(&self, identity: &DomainIdentity<'_>) -> Result<(String, Vec<String>)> {
        let (overlay, base) = disks::expect_overlay(identity)?;
        let (fixed, changes) = if self.fix {
            let document = &self.template.document;
            let (text, changes) = dialect::fix(document, &self.unknown, identity.ssh)?;
            (Some(self.template.with_document(Document::parse(text)?)), changes)
        } else {
            (None, Vec::new())
        };
        let document = fixed.as_ref().unwrap_or(&self.template).fill(&Values {
            name: identity.name,
            base: builder::utf8(&base.path)?,
            overlay: builder::utf8(overlay)?,
            hostdevs: &identity.devices.hostdevs,
            seed: identity.seed.map(builder::utf8).transpose()?,
        })?;
        let image = BaseImage { base, is_local: self.is_local, volumes: &self.volumes };
        image.check(&document)?;
        let mut edit = document.edit();
        if identity.keep_base_owner {
            image.keep_owner(&mut edit, document.root(), builder::utf8(overlay)?)?;
        }
        identify(&mut edit, document.root(), identity)?;
        if !self.template.has_own_nvram() {
            unshare_nvram(&mut edit, document.root())?;
        }
        resize(&mut edit, document.root(), self.memory, self.vcpus)?;
        disks::state_formats(&mut edit, document.root(), identity)?;
        if let Some(bytes) = identity.devices.window {
            enlarge_pci_hole(&mut edit, document.root(), bytes)?;
        }
        if security_of(document.root()) == Security::Tdx {
            disable_balloon(&mut edit, document.root())?;
        }
        Ok((edit.finish()?, changes))
    }
}

/// Returns the port that replaces one that QEMU would choose.
fn ssh_port(document: &Document, request: TemplateRequest) -> Result<Option<PortRequest>> {
    let by_qemu = hostfwd::find_all(document).iter().any(|raw| raw.is_ssh() && raw.port == 0);
    match (request.fix && by_qemu, request.ssh_port) {
        (true, Some(port)) if port.is_ipv6() => {
            Err(Error::unsupported("QEMU's user network forwards only ports of IPv4 addresses")
                .hint("name an IPv4 address, such as --ssh-port 127.0.0.1:2201"))
        }
        (true, port) => Ok(Some(port.unwrap_or(PortRequest::AUTO))),
        (false, None) => Ok(None),
        (false, Some(_)) => Err(Error::usage(
            "--ssh-port with a template needs --fix-template and a forward from port 0 to the guest's \
             port 22",
        )
        .hint("add --fix-template if the template has such a forward (hostfwd=tcp::0-:22)")),
    }
}

/// Fails for flags that contradict the rest of the template.
fn check_resizable(root: Node<'_>, request: TemplateRequest) -> Result<()> {
    let resized = request.memory.is_some() || request.vcpus.is_some();
    if resized && root.find("cpu/numa").is_some() {
        return Err(Error::usage("--memory and --vcpus contradict <numa> of the template")
            .hint("change the cells of <numa> in the template instead"));
    }
    Ok(())
}

/// Fails for a guest that this host cannot run. Returns warnings for the user.
fn check_host(
    context: &Context,
    libvirt: &Libvirt,
    root: Node<'_>,
    request: TemplateRequest,
) -> Result<Vec<String>> {
    let host = &context.host;
    if root.find("devices/vsock").is_some() && libvirt.is_local() {
        capability::check_vsock(host)?;
    }
    let security = security_of(root);
    let virt_type = match root.attr("type").as_deref() {
        Some("kvm") => VirtType::Kvm,
        _ => VirtType::Qemu,
    };
    let able = match (security, virt_type) {
        (Security::None, VirtType::Qemu) => Ok(()),
        (Security::None, VirtType::Kvm) => capability::check_kvm(host, libvirt),
        (security, _) => capability::check_security(host, libvirt, security),
    };
    able.map_err(|error| match security {
        Security::None => error.hint(
            "to see the reason, run tdx-td host check --for none; to run the guest in slow software \
             emulation, write <domain type='qemu'> into the template",
        ),
        _ => error.hint(
            "to see the fixes, run tdx-td host check; to create an ordinary guest, remove <launchSecurity> \
             from the template",
        ),
    })?;
    for name in root.find_all("devices/interface/source").filter_map(|s| s.attr("network")) {
        settings::check_network(libvirt, &name)?;
    }
    let vcpus = request.vcpus.or(root.text_at("vcpu").and_then(|text| text.parse().ok()));
    let capacity = capability::capacity(host, libvirt)?;
    let many = settings::check_vcpus(libvirt, capacity, virt_type, vcpus)?;
    let exists = |path: &Path| !libvirt.is_local() || host.path(path).exists();
    let no_quotes = quote_service(root).and_then(|path| tdx::no_service(&path, exists));
    Ok(many.into_iter().chain(no_quotes).collect())
}

fn security_of(root: Node<'_>) -> Security {
    definition::security(root).parse().unwrap_or(Security::None)
}

/// Returns the socket of the quote generation service.
fn quote_service(root: Node<'_>) -> Option<PathBuf> {
    let service = root.find("launchSecurity/quoteGenerationService")?;
    let in_preview = service.child("SocketAddress").is_some();
    let path = service.attr("path").map_or_else(|| QGS_SOCKET.into(), |path| path.into_owned());
    (!in_preview).then(|| path.into())
}
