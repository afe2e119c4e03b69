//! A template made into the definition of one domain: judged, translated, filled, and marked as ours.

use std::path::{Path, PathBuf};

use common::cli::Context;
use common::libvirt::Libvirt;
use common::units::Size;
use common::xml::{Document, Edit, Element, Node};
use common::{Error, Result};

use crate::capability::{self, Security, VirtType};
use crate::create::identity::DomainIdentity;
use crate::create::ports::PortRequest;
use crate::create::purpose::Purpose;
use crate::create::settings;
use crate::create::settings::GuestArgs;
use crate::domain::definition;
use crate::domain::metadata::{Metadata, TEMPLATE, digest};
use crate::domain_xml::base_image::{BaseImage, VolumePath};
use crate::domain_xml::part::Part;
use crate::domain_xml::template::{Template, Values, check, dialect, disks};
use crate::domain_xml::{builder, hostfwd};
use crate::security::launch::tdx;
use crate::security::launch::tdx::QGS_SOCKET;

/// A template that this host and libvirt can run.
#[derive(Debug)]
pub struct Fitting {
    template: Template,
    /// The parts that this libvirt does not know.
    unknown: Vec<Part>,
    /// The volumes that its disks name.
    volumes: Vec<VolumePath>,
    /// Whether the host of libvirt is this one.
    is_local: bool,
    /// Whether what does not fit may be changed.
    fix: bool,
    memory: Option<Size>,
    vcpus: Option<u32>,
    /// The port that takes the place of one that QEMU would choose at each start.
    pub ssh_port: Option<PortRequest>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Fitting {
    /// Reads a template and judges it by what this host and its libvirt can do.
    ///
    /// Errors: those of [`Template::read`] and [`check::check`]; `invalid_input` for what a trust
    /// domain cannot have; `unsupported` for what the host lacks; `not_found` for a network or a volume.
    pub fn new(
        context: &Context,
        libvirt: &Libvirt,
        path: &Path,
        args: &GuestArgs,
        purpose: Purpose,
    ) -> Result<Self> {
        if args.launch.any() {
            return Err(Error::usage("a template says itself how its guest is protected")
                .hint("write these values into its <launchSecurity>"));
        }
        let template = Template::read(path)?;
        let unknown = check::check(context, libvirt, &template, args.fix_template)?;
        let ssh_port = ssh_port(&template.document, args)?;
        // What is judged is what would be defined.
        let fixed = match args.fix_template {
            true => Some(Document::parse(dialect::fix(&template.document, &unknown, None)?.0)?),
            false => None,
        };
        let document = fixed.as_ref().unwrap_or(&template.document);
        dialect::check_tdx(document)?;
        disks::check_formats(document.root())?;
        check_resizable(document.root(), args)?;
        if purpose.is_create() && libvirt.is_local() {
            disks::check_headers(document.root())?;
        }
        let warnings = match purpose.is_create() {
            true => check_host(context, libvirt, document.root(), args)?,
            false => Vec::new(),
        };
        let volumes = match purpose.is_create() {
            true => VolumePath::all(libvirt, document.root())?,
            false => Vec::new(),
        };
        Ok(Self {
            unknown,
            volumes,
            is_local: libvirt.is_local(),
            fix: args.fix_template,
            memory: args.memory,
            vcpus: args.vcpus,
            ssh_port,
            warnings,
            template,
        })
    }

    /// How such guests are protected.
    pub fn security(&self) -> Security {
        security_of(self.template.document.root())
    }

    /// What such guests are called: the template file's name.
    pub fn stem(&self) -> &str {
        &self.template.stem
    }

    /// What was asked for, in the form a later `new` of the same name compares.
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

    /// The definition of one domain, and what was translated.
    ///
    /// Errors: those of [`Template::fill`] and [`BaseImage::check`]; `invalid_input` for an overlay that is
    /// not used as one.
    pub fn to_xml(&self, identity: &DomainIdentity<'_>) -> Result<(String, Vec<String>)> {
        let (overlay, base) = disks::overlay_of(identity)?;
        let (fixed, changes) = match self.fix {
            true => {
                let document = &self.template.document;
                let (text, changes) = dialect::fix(document, &self.unknown, identity.ssh)?;
                (Some(self.template.with_document(Document::parse(text)?)), changes)
            }
            false => (None, Vec::new()),
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
        disks::settle(&mut edit, document.root(), identity)?;
        if let Some(bytes) = identity.devices.window {
            widen(&mut edit, document.root(), bytes)?;
        }
        if security_of(document.root()) == Security::Tdx {
            without_balloon(&mut edit, document.root())?;
        }
        Ok((edit.finish()?, changes))
    }
}

/// The port that takes the place of one that QEMU would choose.
fn ssh_port(document: &Document, args: &GuestArgs) -> Result<Option<PortRequest>> {
    let by_qemu = hostfwd::all(document).iter().any(|raw| raw.is_ssh() && raw.port == 0);
    match (args.fix_template && by_qemu, args.ssh_port) {
        (true, Some(port)) if port.is_ipv6() => {
            Err(Error::unsupported("QEMU's user network forwards ports of IPv4 only"))
        }
        (true, port) => Ok(Some(port.unwrap_or(PortRequest::AUTO))),
        (false, None) => Ok(None),
        (false, Some(_)) => Err(Error::usage("--ssh-port has no place in this template")
            .hint("with --fix-template it takes that of a forward from port 0")),
    }
}

/// Fails for flags that the rest of the definition would contradict.
fn check_resizable(root: Node<'_>, args: &GuestArgs) -> Result<()> {
    let resized = args.memory.is_some() || args.vcpus.is_some();
    if resized && root.find("cpu/numa").is_some() {
        return Err(Error::usage("--memory and --vcpus would contradict the template's <numa>")
            .hint("change its cells in the template"));
    }
    Ok(())
}

/// Fails for a guest that this host cannot run. Returns what the user should know.
fn check_host(
    context: &Context,
    libvirt: &Libvirt,
    root: Node<'_>,
    args: &GuestArgs,
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
        Security::None => error.hint("a template of type 'qemu' is emulated in software, slowly"),
        _ => error.hint("a template without <launchSecurity> makes an ordinary guest"),
    })?;
    for name in root.find_all("devices/interface/source").filter_map(|s| s.attr("network")) {
        settings::check_network(libvirt, &name)?;
    }
    let vcpus = args.vcpus.or(root.text_at("vcpu").and_then(|text| text.parse().ok()));
    let capacity = capability::capacity(host, libvirt)?;
    let many = settings::check_vcpus(libvirt, capacity, virt_type, vcpus)?;
    let exists = |path: &Path| !libvirt.is_local() || host.path(path).exists();
    let no_quotes = quote_service(root).and_then(|path| tdx::no_service(&path, exists));
    Ok(many.into_iter().chain(no_quotes).collect())
}

fn security_of(root: Node<'_>) -> Security {
    definition::security(root).parse().unwrap_or(Security::None)
}

/// The socket that quotes would come from.
fn quote_service(root: Node<'_>) -> Option<PathBuf> {
    let service = root.find("launchSecurity/quoteGenerationService")?;
    let in_preview = service.child("SocketAddress").is_some();
    let path = service.attr("path").map_or_else(|| QGS_SOCKET.into(), |path| path.into_owned());
    (!in_preview).then(|| path.into())
}

/// Writes in the domain's name, its UUID and our record.
fn identify<'a>(edit: &mut Edit<'a>, root: Node<'a>, identity: &DomainIdentity<'_>) -> Result<()> {
    for (name, text) in [("name", identity.name), ("uuid", identity.uuid)] {
        match root.child(name) {
            Some(node) => edit.set_text(node, text),
            None => edit.insert_into(root, &Element::new(name).text(text).to_xml()?),
        };
    }
    let record = identity.metadata.to_element();
    match root.child("metadata") {
        None => edit.insert_into(root, &Element::new("metadata").child(record).to_xml()?),
        Some(metadata) => {
            // A template made of a domain of ours has that one's.
            for old in metadata.children().filter(|node| Metadata::is_record(*node)) {
                edit.remove(old);
            }
            edit.insert_into(metadata, &record.to_xml()?)
        }
    };
    Ok(())
}

/// Firmware variables are one guest's alone: libvirt names a file after the domain when none is named.
fn unshare_nvram<'a>(edit: &mut Edit<'a>, root: Node<'a>) -> Result<()> {
    if let Some(nvram) = root.find("os/nvram") {
        let template = nvram.attr("template");
        edit.replace(nvram, &Element::new("nvram").attr_opt("template", template).to_xml()?);
    }
    Ok(())
}

/// Replaces what the template says of memory and processors by what was asked for.
fn resize<'a>(
    edit: &mut Edit<'a>,
    root: Node<'a>,
    memory: Option<Size>,
    vcpus: Option<u32>,
) -> Result<()> {
    if let Some(Size(bytes)) = memory {
        for node in [root.child("memory"), root.child("currentMemory")].into_iter().flatten() {
            edit.set_text(node, &(bytes / 1024).to_string()).set_attr(node, "unit", "KiB");
        }
    }
    let Some(vcpus) = vcpus.map(|vcpus| vcpus.to_string()) else {
        return Ok(());
    };
    match root.child("vcpu") {
        None => {
            edit.insert_into(root, &Element::new("vcpu").text(&vcpus).to_xml()?);
        }
        Some(node) => {
            edit.set_text(node, &vcpus);
            if node.attr("current").is_some() {
                edit.set_attr(node, "current", &vcpus);
            }
        }
    }
    if let Some(topology) = root.find("cpu/topology") {
        for (name, _) in topology.attrs() {
            edit.set_attr(topology, name, if name == "cores" { &vcpus } else { "1" });
        }
    }
    Ok(())
}

/// Gives the guest's devices so much 64-bit address space, unless the template says how much itself.
fn widen<'a>(edit: &mut Edit<'a>, root: Node<'a>, bytes: u64) -> Result<()> {
    let is_root = |node: &Node<'_>| node.attr("model").as_deref() == Some("pcie-root");
    let hole = builder::pci_hole(bytes);
    match (root.find_all("devices/controller").find(is_root), root.child("devices")) {
        (Some(controller), _) if controller.child("pcihole64").is_some() => {}
        (Some(controller), _) => {
            edit.insert_into(controller, &hole.to_xml()?);
        }
        (None, Some(devices)) => {
            let controller = Element::new("controller")
                .attr("type", "pci")
                .attr("index", "0")
                .attr("model", "pcie-root")
                .child(hole);
            edit.insert_into(devices, &controller.to_xml()?);
        }
        (None, None) => {}
    }
    Ok(())
}

/// libvirt gives every guest a balloon unless told otherwise; private memory cannot be taken back.
fn without_balloon<'a>(edit: &mut Edit<'a>, root: Node<'a>) -> Result<()> {
    if let (Some(devices), None) = (root.child("devices"), root.find("devices/memballoon")) {
        edit.insert_into(devices, &Element::new("memballoon").attr("model", "none").to_xml()?);
    }
    Ok(())
}
