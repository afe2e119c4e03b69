//! The host ports that a definition forwards to its guest.

use std::borrow::Cow;
use std::net::IpAddr;

use common::xml::Node;

use crate::domain::definition::parsed::Definition;
use crate::domain::item::Ssh;
use crate::domain_xml::hostfwd;
use crate::domain_xml::hostfwd::Hostfwd;

/// The port of the host that is forwarded to the guest's SSH server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SshForward {
    /// No port is forwarded.
    None,
    /// This address and port.
    To(Ssh),
    /// A port that QEMU chose at start and that its monitor reports.
    Ephemeral,
}

impl Definition {
    /// Returns the port of the host that the XML forwards to the guest's SSH server.
    pub fn ssh_forward(&self) -> SshForward {
        let forwards = self.root().find_all("devices/interface/portForward");
        if let Some(ssh) = forwards.into_iter().find_map(port_forward) {
            return SshForward::To(ssh);
        }
        match hostfwd::find_all(&self.xml).into_iter().find(Hostfwd::is_ssh) {
            None => SshForward::None,
            Some(raw) if raw.port == 0 => SshForward::Ephemeral,
            Some(raw) => {
                let host = raw.address.filter(|_| !raw.is_open());
                let host = host.map_or_else(|| "127.0.0.1".to_owned(), |host| host.to_string());
                SshForward::To(Ssh { host, port: raw.port })
            }
        }
    }

    /// Returns all ports of the host that the definition forwards, each on one address or on all.
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
        let raw = hostfwd::find_all(&self.xml).into_iter();
        ports.extend(raw.filter(|raw| raw.port > 0).map(|raw| (raw.address, raw.port)));
        ports
    }
}

/// Returns the port of the host that a `<portForward>` forwards to port 22 of the guest.
///
/// Source: <https://libvirt.org/formatdomain.html#passt-portforward-configuration>: a range starts at
/// the same port in the guest unless `to` says otherwise.
fn port_forward(forward: Node<'_>) -> Option<Ssh> {
    if forward.attr("proto").as_deref() != Some("tcp") {
        return None;
    }
    // Without an address passt listens on all addresses, and 127.0.0.1 is the nearest.
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
