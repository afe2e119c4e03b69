//! The parsed definition of a domain, and its basic values.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use common::Result;
use common::xml::{Document, Node, size_bytes};
use tdx_pool::volume::names::ToolFile;

use crate::domain::metadata::Metadata;

/// A parsed domain definition, live or inactive.
#[derive(Debug)]
pub struct Definition {
    pub(super) xml: Document,
    /// The record of these tools, if they created the domain.
    pub metadata: Option<Metadata>,
}

impl Definition {
    /// Parses libvirt's domain XML.
    pub fn parse(xml: String) -> Result<Self> {
        let xml = Document::parse(xml)?;
        let metadata = Metadata::read(xml.root());
        Ok(Self { xml, metadata })
    }

    /// Returns the UUID of the domain.
    pub fn uuid(&self) -> String {
        self.root().text_at("uuid").unwrap_or_default()
    }

    pub(super) fn root(&self) -> Node<'_> {
        self.xml.root()
    }

    /// Returns the name of the domain.
    pub fn name(&self) -> String {
        self.root().text_at("name").unwrap_or_default()
    }

    /// Returns the overlay and its base image: those of the record, else those of the first disk
    /// whose file has the name of an overlay.
    pub fn overlay(&self) -> Option<(PathBuf, Option<PathBuf>)> {
        if let Some(metadata) = &self.metadata {
            return Some((metadata.overlay.clone()?, metadata.base.clone()));
        }
        self.chains().into_iter().find_map(|chain| {
            let at = chain.iter().position(|path| is_overlay_name(path))?;
            Some((chain[at].clone(), chain.get(at + 1).cloned()))
        })
    }

    /// Whether these tools or the original tdvirsh created the domain. Domains of the original are recognised by
    /// their names and the names of their overlays.
    pub fn is_managed(&self) -> bool {
        self.metadata.is_some() || (self.name().starts_with("tdvirsh-") && self.overlay().is_some())
    }

    /// Returns the hardware addresses of the network cards that can be reached from outside. The addresses on a
    /// card of a user network exist only inside the QEMU process: for the host, 10.0.2.15 is another machine.
    pub fn macs(&self) -> Vec<String> {
        let interfaces = self.root().find_all("devices/interface");
        interfaces
            .filter(|interface| interface.attr("type").as_deref() != Some("user"))
            .filter_map(|interface| interface.attr_at("mac", "address"))
            .map(Cow::into_owned)
            .collect()
    }

    /// Whether a guest agent is connected, which libvirt states for a running domain.
    pub fn has_agent(&self) -> bool {
        self.root().find_all("devices/channel/target").any(|target| {
            target.attr("name").as_deref() == Some("org.qemu.guest_agent.0")
                && target.attr("state").as_deref() == Some("connected")
        })
    }

    /// Returns the largest memory of the domain, in bytes.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.root().child("memory").and_then(memory_bytes)
    }

    /// Returns the number of virtual CPUs.
    pub fn vcpus(&self) -> Option<u32> {
        self.root().text_at("vcpu").and_then(|text| text.parse().ok())
    }

    /// Whether the guest sees the processor model of the host.
    pub fn has_host_cpu(&self) -> bool {
        self.root().attr_at("cpu", "mode").as_deref() == Some("host-passthrough")
    }

    /// Returns what libvirt does when the guest powers off.
    pub fn on_poweroff(&self) -> String {
        self.root().text_at("on_poweroff").unwrap_or_else(|| "destroy".to_owned())
    }
}

/// Whether a file has the name of an overlay, of these tools or of the original script.
pub fn is_overlay_name(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    ToolFile::classify(name) == Some(ToolFile::Overlay)
}

/// Returns the value of an element with a unit, in bytes.
pub fn memory_bytes(node: Node<'_>) -> Option<u64> {
    size_bytes(&node.text(), node.attr("unit").as_deref())
}
