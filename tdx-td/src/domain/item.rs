//! A domain as it stands in a document.

use std::borrow::Cow;

use common::document::Item;
use common::document::metrics::Gauge;
use common::libvirt::State;
use common::system::pci::Bdf;
use schemars::JsonSchema;
use serde::Serialize;

use crate::domain::addresses::OtherAddress;

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
    /// Every known address of the network cards in its definition, at most 256.
    pub ips: Vec<String>,
    /// Addresses that `ssh` and `--wait` never use, at most 256: those the guest agent reports for
    /// interfaces that are not in the definition (bridges in the guest, passed-through network cards),
    /// those of user networks, and those that belong to this host. `list` asks an agent only when no
    /// other source has an address.
    pub other_addresses: Vec<OtherAddress>,
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
    /// Whether its launch measurement was found to be right just now: `show --attest` on a running AMD
    /// SEV or SEV-ES guest whose keys are kept.
    pub attested: Option<bool>,
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
    const DROPPED: &'static [&'static str] = &["CID", "ID", "SECURITY"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let ssh = self.ssh.as_ref().map(|ssh| {
            if ssh.host.contains(':') {
                format!("[{}]:{}", ssh.host, ssh.port)
            } else {
                format!("{}:{}", ssh.host, ssh.port)
            }
        });
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

    fn metrics(domains: &[Self]) -> Vec<Gauge> {
        let mut state = Gauge::new("tdx_td_domain_state", "The state a domain is in: always 1.");
        let mut vcpus = Gauge::new("tdx_td_domain_vcpus", "Virtual CPUs of a domain.");
        let mut memory = Gauge::new("tdx_td_domain_memory_bytes", "Memory of a domain.");
        let mut hostdevs =
            Gauge::new("tdx_td_domain_hostdevs", "PCI devices of the host that a domain has.");
        for domain in domains {
            let known = [("name", domain.name.as_str()), ("uuid", domain.uuid.as_str())];
            let [name, uuid] = known;
            let now = [("state", domain.state.as_str()), ("security", domain.security.as_str())];
            state.set([name, uuid, now[0], now[1]], 1);
            if let Some(number) = domain.vcpus {
                vcpus.set(known, number.into());
            }
            if let Some(bytes) = domain.memory_bytes {
                memory.set(known, bytes);
            }
            hostdevs.set(known, domain.hostdevs.len() as u64);
        }
        vec![state, vcpus, memory, hostdevs]
    }
}
