//! A domain as its XML tells it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use common::Result;
use common::libvirt::{Context, State};
use common::system::pci::Bdf;
use common::units::hex_u64;
use common::xml::{Document, Node, host_address};
use tdx_pool::volume::names::ToolFile;
use virt::domain::Domain;
use virt::sys;

use crate::capability::Security;
use crate::domain::item::{Disk, DomainItem, Ssh};
use crate::domain::metadata::Metadata;
use crate::domain_xml::hostfwd;
use crate::domain_xml::hostfwd::Hostfwd;

mod image_format;

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

    /// The domain's UUID.
    pub fn uuid(&self) -> String {
        self.root().text_at("uuid").unwrap_or_default()
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
            return Some((metadata.overlay.clone()?, metadata.base.clone()));
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
        chains_of(self.root())
    }

    /// The block devices of the host that its disks are.
    pub fn block_devices(&self) -> Vec<PathBuf> {
        let disks = self.root().find_all("devices/disk");
        let device = |disk: Node<'_>| Some(PathBuf::from(disk.attr_at("source", "dev")?.as_ref()));
        disks.filter_map(device).collect()
    }

    /// The volumes of pools that its disks are, each with the pool's name.
    pub fn volumes(&self) -> Vec<(String, String)> {
        let volume = |source: Node<'_>| {
            Some((source.attr("pool")?.into_owned(), source.attr("volume")?.into_owned()))
        };
        self.root().find_all("devices/disk/source").filter_map(volume).collect()
    }

    /// Hardware addresses of the network cards that others can reach. The addresses on a card of a
    /// user network exist only inside its process: 10.0.2.15 is another machine, or none, for the host.
    pub fn macs(&self) -> Vec<String> {
        let interfaces = self.root().find_all("devices/interface");
        interfaces
            .filter(|interface| interface.attr("type").as_deref() != Some("user"))
            .filter_map(|interface| interface.attr_at("mac", "address"))
            .map(Cow::into_owned)
            .collect()
    }

    /// Whether a guest agent has opened its channel, which libvirt tells of a domain that runs.
    pub fn has_agent(&self) -> bool {
        self.root().find_all("devices/channel/target").any(|target| {
            target.attr("name").as_deref() == Some("org.qemu.guest_agent.0")
                && target.attr("state").as_deref() == Some("connected")
        })
    }

    /// What its memory is at most, bytes.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.root().child("memory").and_then(memory_bytes)
    }

    /// The devices of the host that it gets and that libvirt does not bind by itself.
    pub fn unmanaged_devices(&self) -> Vec<Bdf> {
        let unmanaged = |node: &Node<'_>| node.attr("managed").as_deref() != Some("yes");
        let hostdevs = self.root().find_all("devices/hostdev").filter(unmanaged);
        hostdevs.filter_map(|node| hostdev(node).ok().flatten()).collect()
    }

    /// How it is protected.
    pub fn security(&self) -> Security {
        security(self.root()).parse().unwrap_or(Security::None)
    }

    /// What its launch security says under a name, `session` for one.
    pub fn launch_text(&self, name: &str) -> Option<String> {
        self.root().text_at(&format!("launchSecurity/{name}")).filter(|text| !text.is_empty())
    }

    /// The policy it is launched with.
    pub fn policy(&self) -> Option<u64> {
        hex_u64(&self.launch_text("policy")?)
    }

    /// Virtual CPUs.
    pub fn vcpus(&self) -> Option<u32> {
        self.root().text_at("vcpu").and_then(|text| text.parse().ok())
    }

    /// Whether its processors look as the host's own.
    pub fn has_hosts_processor(&self) -> bool {
        self.root().attr_at("cpu", "mode").as_deref() == Some("host-passthrough")
    }

    /// Whether it boots a kernel of the host's and not from its disk.
    pub fn boots_kernel(&self) -> bool {
        self.root().find("os/kernel").is_some()
    }

    /// The file of its firmware.
    pub fn loader(&self) -> Option<PathBuf> {
        self.root().text_at("os/loader").filter(|path| path.starts_with('/')).map(PathBuf::from)
    }

    /// Whether it boots by UEFI, which keeps variables.
    pub fn has_uefi(&self) -> bool {
        let root = self.root();
        root.attr_at("os", "firmware").as_deref() == Some("efi")
            || root.attr_at("os/loader", "type").as_deref() == Some("pflash")
    }

    /// The file of its firmware's variables.
    pub fn nvram(&self) -> Option<PathBuf> {
        self.root().text_at("os/nvram").filter(|path| path.starts_with('/')).map(PathBuf::from)
    }

    /// What libvirt does when the guest powers itself off.
    pub fn on_poweroff(&self) -> String {
        self.root().text_at("on_poweroff").unwrap_or_else(|| "destroy".to_owned())
    }

    /// Where the XML says that ssh is forwarded from, and whether the port is only known to QEMU.
    pub fn ssh_forward(&self) -> Forward {
        let forwards = self.root().find_all("devices/interface/portForward");
        if let Some(ssh) = forwards.into_iter().find_map(port_forward) {
            return Forward::To(ssh);
        }
        match hostfwd::all(&self.xml).into_iter().find(Hostfwd::is_ssh) {
            None => Forward::None,
            Some(raw) if raw.port == 0 => Forward::Ephemeral,
            Some(raw) => {
                let host = raw.address.filter(|_| !raw.is_open());
                let host = host.map_or_else(|| "127.0.0.1".to_owned(), |host| host.to_string());
                Forward::To(Ssh { host, port: raw.port })
            }
        }
    }

    /// The ports of the host that it forwards, whatever to, each of an address or of all.
    pub fn host_ports(&self) -> Vec<(Option<IpAddr>, u16)> {
        let mut ports = Vec::new();
        for forward in self.root().find_all("devices/interface/portForward") {
            let address = forward.attr("address").and_then(|address| address.parse().ok());
            for range in forward.children().filter(|node| node.name() == "range") {
                let port = |name| range.attr(name).and_then(|port| port.parse::<u16>().ok());
                let Some(start) = port("start") else { continue };
                ports.extend((start..=port("end").unwrap_or(start)).map(|port| (address, port)));
            }
        }
        let raw = hostfwd::all(&self.xml).into_iter();
        ports.extend(raw.filter(|raw| raw.port > 0).map(|raw| (raw.address, raw.port)));
        ports
    }

    /// The domain as it stands in a document, without what only asking around can tell.
    pub fn item(&self, id: Option<u32>, state: State, autostart: bool) -> DomainItem {
        let root = self.root();
        let text = |path: &PathBuf| path.display().to_string();
        let overlay = self.overlay();
        DomainItem {
            name: self.name(),
            uuid: self.uuid(),
            id,
            state,
            security: security(root),
            managed: self.is_managed(),
            vcpus: self.vcpus(),
            memory_bytes: root.child("memory").and_then(memory_bytes),
            ip: None,
            ips: Vec::new(),
            other_addresses: Vec::new(),
            ssh: match self.ssh_forward() {
                Forward::To(ssh) => Some(ssh),
                Forward::None | Forward::Ephemeral => None,
            },
            vsock_cid: root
                .attr_at("devices/vsock/cid", "address")
                .and_then(|cid| cid.parse().ok())
                .filter(|_| id.is_some()),
            base: overlay.as_ref().and_then(|(_, base)| base.as_ref()).map(text),
            overlay: overlay.as_ref().map(|(overlay, _)| text(overlay)),
            pool: self.metadata.as_ref().and_then(|metadata| metadata.pool.clone()),
            hostdevs: root
                .find_all("devices/hostdev")
                .filter_map(|node| hostdev(node).ok().flatten())
                .collect(),
            disks: root.find_all("devices/disk").map(disk).collect(),
            autostart,
            attested: None,
        }
    }
}

/// The definition by which a domain starts next.
pub fn inactive(domain: &Domain, name: &str) -> Result<Definition> {
    let doing = format_args!("read domain '{name}'");
    Definition::parse(domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).context(doing)?)
}

/// The definition a domain runs by.
pub fn active(domain: &Domain, name: &str) -> Result<Definition> {
    Definition::parse(domain.xml_desc(0).context(format_args!("read domain '{name}'"))?)
}

/// The kind of launch security, as on the command line; `none` without.
pub fn security(domain: Node<'_>) -> String {
    let Some(node) = domain.child("launchSecurity") else {
        return "none".to_owned();
    };
    let kind = node.attr("type").unwrap_or_default();
    // libvirt tells SEV-ES from SEV by bit 2 of the policy.
    // Source: https://libvirt.org/formatdomain.html#launch-security
    let policy = node.text_at("policy").unwrap_or_default();
    let policy = hex_u64(&policy).unwrap_or(0);
    match kind.as_ref() {
        "sev" if policy & 4 != 0 => "sev-es".to_owned(),
        kind => kind.to_owned(),
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

/// Where a `<portForward>` has port 22 of the guest.
///
/// Source: <https://libvirt.org/formatdomain.html#passt-portforward-configuration>: a range starts at
/// the same port in the guest unless `to` says otherwise.
fn port_forward(forward: Node<'_>) -> Option<Ssh> {
    if forward.attr("proto").as_deref() != Some("tcp") {
        return None;
    }
    // Without an address passt listens on all of them, and this one is nearest.
    let host = forward.attr("address").map_or_else(|| "127.0.0.1".to_owned(), Cow::into_owned);
    forward.children().filter(|range| range.name() == "range").find_map(|range| {
        let port = |name| range.attr(name).and_then(|port| port.parse::<u16>().ok());
        let start = port("start")?;
        let end = port("end").unwrap_or(start);
        let offset = 22u16.checked_sub(port("to").unwrap_or(start))?;
        let port = start.checked_add(offset).filter(|port| *port <= end)?;
        let excluded = range.attr("exclude").as_deref() == Some("yes");
        (!excluded).then(|| Ssh { host: host.clone(), port })
    })
}

/// Whether a file is named as overlays are, by us and by the original script.
pub fn is_overlay(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    ToolFile::classify(name) == Some(ToolFile::Overlay)
}

/// The files of every disk of a domain element with those under them, as far as the XML tells.
pub fn chains_of(domain: Node<'_>) -> Vec<Chain> {
    let disks = domain.find_all("devices/disk");
    disks.map(chain).filter(|chain| !chain.is_empty()).collect()
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

/// The PCI device of the host that a hostdev passes through; none for other kinds.
///
/// Errors: `invalid_input` for an address that cannot be understood: it can be that of any device.
pub(crate) fn hostdev(node: Node<'_>) -> Result<Option<Bdf>> {
    let is_pci = node.attr("type").as_deref() == Some("pci");
    is_pci.then(|| host_address::source_pci(node)).transpose()
}

/// The PCI device of the host behind a network card or a disk; none for those of other kinds.
///
/// Errors: as for [`hostdev`].
/// Source: <https://libvirt.org/formatdomain.html>: interfaces of type `hostdev`, disks of type `nvme`.
pub(crate) fn inside(node: Node<'_>) -> Result<Option<Bdf>> {
    let is_device = matches!(node.attr("type").as_deref(), Some("hostdev" | "nvme"));
    is_device.then(|| host_address::source_pci(node)).transpose()
}

/// The bytes that an element with a unit stands for.
///
/// Source: <https://libvirt.org/formatdomain.html#memory-allocation>; dumps are always in KiB.
pub fn memory_bytes(node: Node<'_>) -> Option<u64> {
    let unit = node.attr("unit");
    let unit = unit.as_deref().unwrap_or("KiB");
    let text = format!("{}{unit}", node.text());
    text.replace("bytes", "").parse::<common::units::Size>().ok().map(|size| size.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(inside: &str) -> Definition {
        let xml = format!(
            "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>{inside}</domain>"
        );
        Definition::parse(xml).unwrap()
    }

    fn ssh(host: &str, port: u16) -> Forward {
        Forward::To(Ssh { host: host.to_owned(), port })
    }

    #[test]
    fn forwarded_ports_are_found() {
        let passt = |ranges: &str| {
            parse(&format!(
                "<devices><interface type='user'><backend type='passt'/>\
                 <portForward proto='udp'><range start='22'/></portForward>\
                 <portForward proto='tcp' address='10.0.0.1'>{ranges}</portForward>\
                 </interface></devices>"
            ))
            .ssh_forward()
        };
        assert_eq!(passt("<range start='22'/>"), ssh("10.0.0.1", 22));
        assert_eq!(
            passt("<range start='80'/><range start='2222' to='22'/>"),
            ssh("10.0.0.1", 2222)
        );
        assert_eq!(passt("<range start='2000' end='2010' to='20'/>"), ssh("10.0.0.1", 2002));
        assert_eq!(passt("<range start='2000' end='2001' to='20'/>"), Forward::None);
        assert_eq!(passt("<range start='22' exclude='yes'/>"), Forward::None);
        assert_eq!(passt("<range start='x'/>"), Forward::None);
    }

    #[test]
    fn the_originals_raw_arguments_are_read() {
        let slirp = |forward: &str| {
            parse(&format!(
                "<qemu:commandline><qemu:arg value='-netdev'/>\
                 <qemu:arg value='user,id=nic,hostfwd={forward}'/></qemu:commandline>"
            ))
            .ssh_forward()
        };
        assert_eq!(slirp("tcp::0-:22"), Forward::Ephemeral);
        assert_eq!(slirp("tcp::10022-:22"), ssh("127.0.0.1", 10022));
        assert_eq!(slirp("tcp:10.1.2.3:10022-10.0.2.15:22"), ssh("10.1.2.3", 10022));
        assert_eq!(slirp("tcp::8080-:80"), Forward::None);
        assert_eq!(slirp("udp::22-:22"), Forward::None);
    }

    #[test]
    fn all_ports_of_the_host_are_found() {
        let ports = parse(
            "<devices><interface><portForward proto='tcp'><range start='80' end='82'/>\
             <range start='2201' to='22'/></portForward></interface></devices>\
             <qemu:commandline><qemu:arg value='user,id=n,hostfwd=tcp:127.0.0.1:2202-:22,\
             hostfwd=tcp::0-:80'/></qemu:commandline>",
        )
        .host_ports();
        let here = "127.0.0.1".parse().ok();
        let all = [80, 81, 82, 2201].map(|port| (None, port));
        assert_eq!(ports, [&all[..], &[(here, 2202)]].concat());
    }

    #[test]
    fn hostdevs_are_read_whatever_their_base() {
        let hostdev = |attributes: &str| {
            let xml = format!(
                "<devices><hostdev mode='subsystem' type='pci'><source>\
                 <address {attributes}/></source></hostdev></devices>"
            );
            let item = parse(&xml).item(None, State::Off, false);
            item.hostdevs.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            hostdev("domain='0x0010' bus='0xb8' slot='0x1f' function='0x7'"),
            ["0010:b8:1f.7"]
        );
        assert_eq!(hostdev("bus='23' slot='0' function='0'"), ["0000:17:00.0"]);
        assert_eq!(hostdev("bus='027' slot='010' function='07'"), ["0000:17:08.7"]);
        assert_eq!(hostdev("bus='many' slot='0' function='0'"), Vec::<String>::new());
    }

    #[test]
    fn cards_of_user_networks_have_no_address_that_others_reach() {
        let definition = parse(
            "<devices><interface type='user'><mac address='52:54:00:00:00:01'/></interface>\
             <interface type='network'><mac address='52:54:00:00:00:02'/></interface>\
             <interface type='hostdev'><mac address='52:54:00:00:00:03'/></interface>\
             <interface type='bridge'/></devices>",
        );
        assert_eq!(definition.macs(), ["52:54:00:00:00:02", "52:54:00:00:00:03"]);
    }

    #[test]
    fn agent_counts_only_when_it_is_connected() {
        let channel = |target: &str| {
            parse(&format!("<devices><channel><target {target}/></channel></devices>")).has_agent()
        };
        assert!(channel("name='org.qemu.guest_agent.0' state='connected'"));
        assert!(!channel("name='org.qemu.guest_agent.0' state='disconnected'"));
        assert!(!channel("name='org.qemu.guest_agent.0'"));
        assert!(!channel("name='com.redhat.spice.0' state='connected'"));
    }

    #[test]
    fn only_our_names_or_our_record_make_a_domain_ours() {
        let disk =
            "<devices><disk><source file='/x//overlay.abcDEF012345678.qcow2'/></disk></devices>";
        let managed = |inside: &str| parse(inside).is_managed();
        assert!(managed(&format!("<name>tdvirsh-trust_domain-1</name>{disk}")));
        assert!(!managed(&format!("<name>my-tdvirsh-lab</name>{disk}")));
        assert!(!managed("<name>tdvirsh-lab</name>"));
    }

    #[test]
    fn security_is_told_apart() {
        let security = |xml: &str| parse(xml).item(None, State::Off, false).security;
        assert_eq!(security(""), "none");
        assert_eq!(security("<launchSecurity type='tdx'/>"), "tdx");
        assert_eq!(
            security("<launchSecurity type='sev-snp'><policy>0x30000</policy></launchSecurity>"),
            "sev-snp"
        );
        assert_eq!(
            security("<launchSecurity type='sev'><policy>0x0007</policy></launchSecurity>"),
            "sev-es"
        );
        assert_eq!(
            security("<launchSecurity type='sev'><policy>0x0003</policy></launchSecurity>"),
            "sev"
        );
    }
}
