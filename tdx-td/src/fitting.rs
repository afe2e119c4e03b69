//! A template made into the definition of one domain: judged, translated, filled, and marked as ours.

use std::path::{Path, PathBuf};

use common::cli::Context;
use common::libvirt::Libvirt;
use common::units::Size;
use common::xml::{Document, Edit, Element, Node};
use common::{Error, Result};

use crate::blueprint::Identity;
use crate::builder;
use crate::capability::{self, Security};
use crate::definition::{Definition, Forward};
use crate::dialect::{self, Dialect};
use crate::identity::digest;
use crate::launch::tdx::{self, QGS_SOCKET};
use crate::metadata::{Metadata, TEMPLATE};
use crate::ports::PortRequest;
use crate::settings::{self, GuestArgs};
use crate::template::{Template, Values};

/// A template that this host and libvirt can run.
#[derive(Debug)]
pub struct Fitting {
    template: Template,
    document: Document,
    dialect: Dialect,
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
    /// Errors: those of [`Template::read`]; `invalid_input` for elements that this libvirt would drop
    /// in silence, unless `--fix-template` translates them, and for what a trust domain cannot have;
    /// `unsupported` for what the host lacks.
    pub fn new(
        context: &Context,
        libvirt: &Libvirt,
        path: &Path,
        args: &GuestArgs,
    ) -> Result<Self> {
        if args.launch.any() {
            return Err(Error::usage("a template says itself how its guest is protected")
                .hint("write these values into its <launchSecurity>"));
        }
        let template = Template::read(path)?;
        let document = template.document()?;
        let dialect = Dialect::of(&context.host, libvirt)?;
        let dropped = dialect.dropped(&document);
        if !dropped.is_empty() && !args.fix_template {
            return Err(Error::invalid_input(format!(
                "this libvirt would drop in silence {}",
                dropped.join(", ")
            ))
            .hint("--fix-template translates them; they are of Canonical's preview packages"));
        }
        dialect::check_tdx(&document)?;
        let root = document.root();
        check_host(context, libvirt, root)?;
        for name in root.find_all("devices/interface/source").filter_map(|s| s.attr("network")) {
            settings::check_network(libvirt, &name)?;
        }
        let capacity = capability::capacity(libvirt)?;
        let written = root.child("memory").and_then(crate::definition::memory_bytes).map(Size);
        if let Some(memory) = args.memory.or(written) {
            settings::check_memory(capacity, memory)
                .map_err(|e| e.hint("--memory says another"))?;
        }
        let mut warnings = Vec::new();
        let written = root.text_at("vcpu").and_then(|text| text.parse().ok());
        if let Some(vcpus) = args.vcpus.or(written) {
            warnings.extend(settings::many_vcpus(capacity, vcpus));
        }
        let exists = |path: &Path| !libvirt.is_local() || context.host.path(path).exists();
        warnings.extend(quote_service(root).and_then(|path| tdx::no_service(&path, exists)));
        let open = dialect::open_forwards(&document);
        if !args.fix_template {
            warnings.extend(open.iter().map(|argument| {
                format!("'{argument}' opens a port on every address: --fix-template closes it")
            }));
        }
        let forward = Definition::parse(document.text().to_owned())?.ssh_forward();
        let ssh_port = match args.fix_template && forward == Forward::Ephemeral {
            true => Some(args.ssh_port.unwrap_or(PortRequest::AUTO)),
            false if args.ssh_port.is_some() => {
                return Err(Error::usage("--ssh-port has no place in this template")
                    .hint("with --fix-template it takes that of a forward from port 0"));
            }
            false => None,
        };
        Ok(Self {
            template,
            document,
            dialect,
            fix: args.fix_template,
            memory: args.memory,
            vcpus: args.vcpus,
            ssh_port,
            warnings,
        })
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
            (TEMPLATE, format!("{} {}", self.stem(), digest(self.document.text().as_bytes()))),
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
    /// Errors: those of [`Template::fill`]; `invalid_input` for an overlay that is not used as one.
    pub fn to_xml(&self, identity: &Identity<'_>) -> Result<(String, Vec<String>)> {
        let (template, changes) = match self.fix {
            true => {
                let (text, changes) = dialect::fix(&self.document, self.dialect, identity.ssh)?;
                (self.template.with_text(text), changes)
            }
            false => (self.template.clone(), Vec::new()),
        };
        let filled = template.fill(&Values {
            name: identity.name,
            base: builder::utf8(&identity.base.path)?,
            overlay: builder::utf8(&identity.metadata.overlay)?,
            hostdevs: &[],
            seed: identity.seed.map(builder::utf8).transpose()?,
        })?;
        let document = Document::parse(filled)?;
        let mut edit = document.edit();
        identify(&mut edit, document.root(), identity)?;
        resize(&mut edit, document.root(), self.memory, self.vcpus)?;
        stand_on_base(&mut edit, document.root(), identity)?;
        if security_of(document.root()) == Security::Tdx {
            drop_balloon(&mut edit, document.root())?;
        }
        Ok((edit.finish()?, changes))
    }
}

/// Fails for a guest that this host cannot run.
fn check_host(context: &Context, libvirt: &Libvirt, root: Node<'_>) -> Result<()> {
    if root.find("devices/vsock").is_some() && libvirt.is_local() {
        capability::check_vsock(&context.host)?;
    }
    let security = security_of(root);
    if security == Security::None && root.attr("type").as_deref() != Some("kvm") {
        return Ok(());
    }
    let able = match security {
        Security::None => capability::check_kvm(&context.host, libvirt),
        security => capability::check_security(&context.host, libvirt, security),
    };
    able.map_err(|error| match security {
        Security::None => error.hint("a template of type 'qemu' is emulated in software, slowly"),
        _ => error.hint("a template without <launchSecurity> makes an ordinary guest"),
    })
}

fn security_of(root: Node<'_>) -> Security {
    match crate::definition::security(root).as_str() {
        "tdx" => Security::Tdx,
        "sev" => Security::Sev,
        "sev-es" => Security::SevEs,
        "sev-snp" => Security::SevSnp,
        _ => Security::None,
    }
}

/// The socket that quotes would come from.
fn quote_service(root: Node<'_>) -> Option<PathBuf> {
    let service = root.find("launchSecurity/quoteGenerationService")?;
    let in_preview = service.child("SocketAddress").is_some();
    let path = service.attr("path").map_or_else(|| QGS_SOCKET.into(), |path| path.into_owned());
    (!in_preview).then(|| path.into())
}

/// Writes in the domain's name, its UUID and our record.
fn identify<'a>(edit: &mut Edit<'a>, root: Node<'a>, identity: &Identity<'_>) -> Result<()> {
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

/// Replaces what the template says of memory and processors by what was asked for.
fn resize<'a>(
    edit: &mut Edit<'a>,
    root: Node<'a>,
    memory: Option<Size>,
    vcpus: Option<u32>,
) -> Result<()> {
    let mut put = |old: Option<Node<'a>>, new: Element| -> Result<()> {
        match old {
            Some(node) => edit.replace(node, &new.to_xml()?),
            None => edit.insert_into(root, &new.to_xml()?),
        };
        Ok(())
    };
    if let Some(Size(bytes)) = memory {
        put(root.child("memory"), builder::memory(bytes))?;
    }
    if let Some(vcpus) = vcpus {
        put(root.child("vcpu"), builder::vcpus(vcpus))?;
        if let Some(topology) = root.find("cpu/topology") {
            put(Some(topology), builder::topology(vcpus))?;
        }
    }
    if let (Some(_), Some(current)) = (memory, root.child("currentMemory")) {
        edit.remove(current);
    }
    Ok(())
}

/// Has the overlay used as a qcow2 image over its base, and the base left to its owner.
fn stand_on_base<'a>(edit: &mut Edit<'a>, root: Node<'a>, identity: &Identity<'_>) -> Result<()> {
    let overlay = builder::utf8(&identity.metadata.overlay)?;
    let disks = root.find_all("devices/disk");
    for disk in disks.filter(|d| d.attr_at("source", "file").as_deref() == Some(overlay)) {
        let format = disk.attr_at("driver", "type");
        if format.as_deref() != Some("qcow2") {
            let format = format.unwrap_or_else(|| "raw".into());
            return Err(Error::invalid_input(format!(
                "the template uses the overlay as {format}, but it is qcow2"
            ))
            .hint("<driver name='qemu' type='qcow2'/> belongs to its disk"));
        }
        // Whatever the template says of the base: where it is and what is in it, is known.
        let backing = builder::backing_store(identity.base, identity.keep_base_owner)?.to_xml()?;
        match disk.child("backingStore") {
            Some(there) => edit.replace(there, &backing),
            None => edit.insert_into(disk, &backing),
        };
    }
    Ok(())
}

/// libvirt gives every guest a balloon unless told otherwise; private memory cannot be taken back.
fn drop_balloon<'a>(edit: &mut Edit<'a>, root: Node<'a>) -> Result<()> {
    if let (Some(devices), None) = (root.child("devices"), root.find("devices/memballoon")) {
        edit.insert_into(devices, &Element::new("memballoon").attr("model", "none").to_xml()?);
    }
    Ok(())
}
