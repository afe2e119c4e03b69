//! The item of a domain in a document.

use std::borrow::Cow;

use common::document::Item;
use common::document::metrics::Gauge;
use common::libvirt::State;
use common::system::pci::Bdf;
use schemars::JsonSchema;
use serde::Serialize;

use crate::domain::addresses::OtherAddress;

/// A domain.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct DomainItem {
    /// Name of the domain.
    pub name: String,
    /// UUID of the domain.
    pub uuid: String,
    /// libvirt's id of the running domain; null while it is shut off.
    pub id: Option<u32>,
    /// State of the domain, in the words of virsh.
    pub state: State,
    /// Launch security: `tdx`, `sev`, `sev-es`, `sev-snp` or `none`.
    pub security: String,
    /// Whether these tools, or the original tdvirsh, created the domain.
    pub managed: bool,
    /// Number of virtual CPUs.
    pub vcpus: Option<u32>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// The guest's IP address; null when none is known. The first of `ips`.
    pub ip: Option<String>,
    /// All known addresses of the network cards in the domain's definition, at most 256.
    pub ips: Vec<String>,
    /// Addresses that `ssh` and `--wait` never use, at most 256. These are addresses that the guest agent
    /// reports for interfaces outside the definition (bridges in the guest, passed-through network cards),
    /// addresses of user networks, and addresses of this host. `list` asks an agent only when no other
    /// source has an address.
    pub other_addresses: Vec<OtherAddress>,
    /// Address and port of the guest's SSH server: a forwarded port, else port 22 of `ip`.
    pub ssh: Option<Ssh>,
    /// vsock context id of the running domain; null while it is shut off or without vsock.
    pub vsock_cid: Option<u32>,
    /// Path of the base image that backs the domain's overlay.
    pub base: Option<String>,
    /// Path of the domain's overlay.
    pub overlay: Option<String>,
    /// Pool of the domain's disk, for domains that these tools created.
    pub pool: Option<String>,
    /// Path of the domain's firmware; null while libvirt has not chosen it.
    pub firmware: Option<String>,
    /// Host PCI devices of the domain.
    pub hostdevs: Vec<Bdf>,
    /// Disks of the domain.
    pub disks: Vec<Disk>,
    /// Whether libvirt starts the domain when the host boots.
    pub autostart: bool,
    /// Whether `show --attest` found the launch measurement to be the expected one. Null for guests that are
    /// not running, and without `--attest`.
    pub attested: Option<bool>,
    /// The domain XML, for a running domain the live one. Only `show` prints it; null elsewhere.
    pub xml: Option<String>,
}

/// Address and port of an SSH server.
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
    /// Device name in the guest, such as `vda`.
    pub target: String,
    /// `disk`, `cdrom`, `lun` or `floppy`.
    pub device: String,
    /// Format of the image.
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
        let mut state = Gauge::new(
            "tdx_td_domain_state",
            "State of a domain, in the label state; the value is 1.",
        );
        let mut vcpus = Gauge::new("tdx_td_domain_vcpus", "Number of virtual CPUs of a domain.");
        let mut memory = Gauge::new("tdx_td_domain_memory_bytes", "Memory of a domain in bytes.");
        let mut hostdevs =
            Gauge::new("tdx_td_domain_hostdevs", "Number of host PCI devices of a domain.");
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
