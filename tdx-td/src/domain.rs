//! A domain as its XML tells it.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use common::Result;
use common::document::Item;
use common::libvirt::State;
use common::pci::Bdf;
use common::xml::{Document, Node};
use schemars::JsonSchema;
use serde::Serialize;
use tdx_pool::names::Ours;

use crate::metadata::Metadata;

/// A domain in a document.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct DomainItem {
    /// Name.
    pub name: String,
    /// UUID.
    pub uuid: String,
    /// libvirt's number for it while it runs.
    pub id: Option<u32>,
    /// State, in virsh's words.
    pub state: State,
    /// Launch security: `tdx`, `sev`, `sev-es`, `sev-snp` or `none`.
    pub security: String,
    /// Whether these tools, or the original tdvirsh, made it.
    pub managed: bool,
    /// Virtual CPUs.
    pub vcpus: Option<u32>,
    /// Memory, bytes.
    pub memory_bytes: Option<u64>,
    /// The address to reach it at, if one is known.
    pub ip: Option<String>,
    /// Every address known.
    pub ips: Vec<String>,
    /// Where its ssh answers: a forwarded port, else port 22 of its address.
    pub ssh: Option<Ssh>,
    /// Its vsock context id while it runs.
    pub vsock_cid: Option<u32>,
    /// The base image under its overlay.
    pub base: Option<String>,
    /// Its own disk over the base image.
    pub overlay: Option<String>,
    /// The pool of its overlay, for domains of these tools.
    pub pool: Option<String>,
    /// PCI devices of the host passed through to it.
    pub hostdevs: Vec<Bdf>,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Whether libvirt starts it on its own.
    pub autostart: bool,
}

/// Where ssh answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Ssh {
    /// Address or name of the host to connect to.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// A disk of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Disk {
    /// Guest target, `vda`.
    pub target: String,
    /// `disk`, `cdrom`, `lun` or `floppy`.
    pub device: String,
    /// Image format.
    pub format: Option<String>,
    /// File, block device or `pool/volume`; null for an empty drive.
    pub source: Option<String>,
}

impl Item for DomainItem {
    const COLUMNS: &'static [&'static str] =
        &["ID", "NAME", "STATE", "SECURITY", "IP", "SSH", "CID"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let ssh = self.ssh.as_ref().map(|ssh| format!("{}:{}", ssh.host, ssh.port));
        vec![
            self.id.map(|id| id.to_string()).unwrap_or_default(),
            self.name.clone(),
            self.state.as_str().to_owned(),
            self.security.clone(),
            self.ip.clone().unwrap_or_default(),
            ssh.unwrap_or_default(),
            self.vsock_cid.map(|cid| cid.to_string()).unwrap_or_default(),
        ]
    }
}

/// A parsed definition: live or inactive.
#[derive(Debug)]
pub struct Definition {
    xml: Document,
    /// Our record, when these tools made the domain.
    pub metadata: Option<Metadata>,
}

/// A file under a disk: the disk's own source first, then its backing files.
pub type Chain = Vec<PathBuf>;

impl Definition {
    /// Parses libvirt's domain XML.
    pub fn parse(xml: String) -> Result<Self> {
        let xml = Document::parse(xml)?;
        let metadata = Metadata::read(xml.root());
        Ok(Self { xml, metadata })
    }

    fn root(&self) -> Node<'_> {
        self.xml.root()
    }

    /// The domain's name.
    pub fn name(&self) -> String {
        self.root().text_at("name").unwrap_or_default()
    }

    /// The overlay and what it stands on, as the definition tells: our record, else the first disk
    /// whose file is named as overlays are.
    pub fn overlay(&self) -> Option<(PathBuf, Option<PathBuf>)> {
        if let Some(metadata) = &self.metadata {
            return Some((metadata.overlay.clone(), Some(metadata.base.clone())));
        }
        self.chains().into_iter().find_map(|chain| {
            let at = chain.iter().position(|path| is_overlay(path))?;
            Some((chain[at].clone(), chain.get(at + 1).cloned()))
        })
    }

    /// Whether these tools or the original tdvirsh made it. The original left no mark but its names:
    /// the domain's, and that of the overlay.
    pub fn is_managed(&self) -> bool {
        self.metadata.is_some() || (self.name().starts_with("tdvirsh-") && self.overlay().is_some())
    }

    /// The files of every disk with those under them, as far as the XML tells.
    pub fn chains(&self) -> Vec<Chain> {
        let disks = self.root().find_all("devices/disk");
        disks.map(chain).filter(|chain| !chain.is_empty()).collect()
    }

    /// Hardware addresses of its network cards, lower case.
    pub fn macs(&self) -> Vec<String> {
        let interfaces = self.root().find_all("devices/interface");
        interfaces
            .filter_map(|interface| interface.attr_at("mac", "address"))
            .map(|mac| mac.to_lowercase())
            .collect()
    }

    /// What libvirt does when the guest powers itself off.
    pub fn on_poweroff(&self) -> String {
        self.root().text_at("on_poweroff").unwrap_or_else(|| "destroy".to_owned())
    }

    /// Where the XML says that ssh is forwarded from, and whether the port is only known to QEMU.
    pub fn ssh_forward(&self) -> Forward {
        let ports = self.root().find_all("devices/interface/portForward");
        for forward in ports.filter(|f| f.attr("proto").as_deref() == Some("tcp")) {
            let address = forward.attr("address").map(Cow::into_owned);
            for range in forward.children().filter(|range| range.name() == "range") {
                let port = |name| range.attr(name).and_then(|port| port.parse::<u16>().ok());
                let guest = port("to").or_else(|| port("start"));
                if let (Some(start), Some(22)) = (port("start"), guest) {
                    let host = address.clone().unwrap_or_else(|| "127.0.0.1".to_owned());
                    return Forward::To(Ssh { host, port: start });
                }
            }
        }
        // Raw slirp arguments of the original's templates: hostfwd=tcp:HOST:PORT-GUEST:22.
        let arguments = self.root().descendants().filter(|node| node.local_name() == "arg");
        for value in arguments.filter_map(|argument| argument.attr("value")) {
            let mut parts = value.split(',').filter_map(|part| part.strip_prefix("hostfwd=tcp:"));
            if let Some(forward) = parts.find_map(slirp_forward) {
                return forward;
            }
        }
        Forward::None
    }

    /// The domain as it stands in a document, without what only asking around can tell.
    pub fn item(&self, id: Option<u32>, state: State, autostart: bool) -> DomainItem {
        let root = self.root();
        let text = |path: &PathBuf| path.display().to_string();
        let overlay = self.overlay();
        DomainItem {
            name: self.name(),
            uuid: root.text_at("uuid").unwrap_or_default(),
            id,
            state,
            security: self.security(),
            managed: self.is_managed(),
            vcpus: root.text_at("vcpu").and_then(|text| text.parse().ok()),
            memory_bytes: root.child("memory").and_then(memory_bytes),
            ip: None,
            ips: Vec::new(),
            ssh: None,
            vsock_cid: root
                .attr_at("devices/vsock/cid", "address")
                .and_then(|cid| cid.parse().ok())
                .filter(|_| id.is_some()),
            base: overlay.as_ref().and_then(|(_, base)| base.as_ref()).map(text),
            overlay: overlay.as_ref().map(|(overlay, _)| text(overlay)),
            pool: self.metadata.as_ref().map(|metadata| metadata.pool.clone()),
            hostdevs: root.find_all("devices/hostdev").filter_map(hostdev).collect(),
            disks: root.find_all("devices/disk").map(disk).collect(),
            autostart,
        }
    }

    fn security(&self) -> String {
        let Some(node) = self.root().child("launchSecurity") else {
            return "none".to_owned();
        };
        let kind = node.attr("type").unwrap_or_default();
        // libvirt tells SEV-ES from SEV by bit 2 of the policy.
        // Source: https://libvirt.org/formatdomain.html#launch-security
        let policy = node.text_at("policy").unwrap_or_default();
        let policy = u64::from_str_radix(policy.trim_start_matches("0x"), 16).unwrap_or(0);
        match kind.as_ref() {
            "sev" if policy & 4 != 0 => "sev-es".to_owned(),
            kind => kind.to_owned(),
        }
    }
}

/// Where ssh is forwarded from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forward {
    /// Not at all.
    None,
    /// From this address.
    To(Ssh),
    /// From a port that QEMU chose at start; its monitor tells.
    Ephemeral,
}

/// Reads `HOST:PORT-GUEST:22` of a slirp forward.
fn slirp_forward(text: &str) -> Option<Forward> {
    let (from, to) = text.rsplit_once('-')?;
    let (host, port) = from.rsplit_once(':')?;
    if to.rsplit_once(':')?.1 != "22" {
        return None;
    }
    let host = if host.is_empty() || host == "0.0.0.0" { "127.0.0.1" } else { host };
    Some(match port.parse().ok()? {
        0 => Forward::Ephemeral,
        port => Forward::To(Ssh { host: host.to_owned(), port }),
    })
}

/// Whether a file is named as overlays are, by us and by the original script.
pub fn is_overlay(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    Ours::classify(name) == Some(Ours::Overlay)
}

fn chain(disk: Node<'_>) -> Chain {
    let mut files = Vec::new();
    let mut next = Some(disk);
    while let Some(node) = next {
        let file = node.attr_at("source", "file");
        files.extend(file.map(|file| PathBuf::from(file.as_ref())));
        next = node.child("backingStore");
    }
    files
}

fn disk(node: Node<'_>) -> Disk {
    let owned = |value: Option<Cow<'_, str>>| value.map(Cow::into_owned);
    let source = node.child("source");
    let volume = source.and_then(|s| Some(format!("{}/{}", s.attr("pool")?, s.attr("volume")?)));
    let plain = ["file", "dev", "dir", "name"]
        .iter()
        .find_map(|name| owned(source.and_then(|source| source.attr(name))));
    Disk {
        target: owned(node.attr_at("target", "dev")).unwrap_or_default(),
        device: owned(node.attr("device")).unwrap_or_else(|| "disk".to_owned()),
        format: owned(node.attr_at("driver", "type")),
        source: volume.or(plain),
    }
}

/// The PCI address of a hostdev; none for other kinds.
fn hostdev(node: Node<'_>) -> Option<Bdf> {
    let address =
        node.find("source/address").filter(|_| node.attr("type").as_deref() == Some("pci"))?;
    // libvirt writes hexadecimal with 0x; without it C's rules make a leading zero octal.
    let number = |name: &str| {
        let text = address.attr(name)?;
        match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        }
    };
    Some(Bdf {
        domain: number("domain").unwrap_or(0),
        bus: number("bus")?.try_into().ok()?,
        device: number("slot")?.try_into().ok()?,
        function: number("function")?.try_into().ok()?,
    })
}

/// Source: <https://libvirt.org/formatdomain.html#memory-allocation>; dumps are always in KiB.
fn memory_bytes(node: Node<'_>) -> Option<u64> {
    let unit = node.attr("unit");
    let unit = unit.as_deref().unwrap_or("KiB");
    let text = format!("{}{unit}", node.text());
    text.replace("bytes", "").parse::<common::units::Size>().ok().map(|size| size.0)
}
