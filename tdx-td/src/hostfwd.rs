//! `hostfwd=` of QEMU's user network, in raw arguments: the original's way to a guest's ssh.
//!
//! Source: qemu(1), `-netdev user`: `hostfwd=[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use common::xml::{Document, Node};

/// A port of the host that leads to one of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostfwd {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The host's address; none: all of them.
    pub address: Option<IpAddr>,
    /// The host's port; 0: QEMU chooses one at each start.
    pub port: u16,
    /// `[ADDRESS]:PORT` of the guest.
    guest: String,
}

impl Hostfwd {
    /// Whether it leads to the guest's ssh.
    pub fn is_ssh(&self) -> bool {
        self.protocol == "tcp" && self.guest.rsplit_once(':').is_some_and(|(_, port)| port == "22")
    }

    /// Whether all addresses of the host lead there.
    pub fn is_open(&self) -> bool {
        self.address.is_none_or(|address| address.is_unspecified())
    }

    /// The same from one address of the host.
    pub fn from(self, socket: SocketAddr) -> Self {
        Self { address: Some(socket.ip()), port: socket.port(), ..self }
    }

    /// The same from this host alone.
    pub fn from_here(self) -> Self {
        let here = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.port);
        self.from(here)
    }
}

impl FromStr for Hostfwd {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (protocol, rest) = text.split_once(':').ok_or(())?;
        let (from, guest) = rest.split_once('-').ok_or(())?;
        let (address, port) = from.rsplit_once(':').ok_or(())?;
        Ok(Self {
            protocol: if protocol.is_empty() { "tcp" } else { protocol }.to_owned(),
            address: match address {
                "" => None,
                "0" => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                address => Some(address.parse().map_err(|_| ())?),
            },
            port: port.parse().map_err(|_| ())?,
            guest: guest.to_owned(),
        })
    }
}

impl fmt::Display for Hostfwd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, address, port, guest } = self;
        let address = address.map(|address| address.to_string()).unwrap_or_default();
        write!(f, "{protocol}:{address}:{port}-{guest}")
    }
}

const KEY: &str = "hostfwd=";

/// Every forward in a domain's raw arguments.
pub fn all(document: &Document) -> Vec<Hostfwd> {
    let parts = arguments(document).map(|(_, value)| {
        let parts = value.split(',').filter_map(|part| part.strip_prefix(KEY)?.parse().ok());
        parts.collect::<Vec<Hostfwd>>()
    });
    parts.flatten().collect()
}

/// The raw arguments whose forwards `change` makes others of, each with its old and its new value.
pub fn changed(
    document: &Document,
    mut change: impl FnMut(Hostfwd) -> Hostfwd,
) -> Vec<(Node<'_>, String, String)> {
    let mut part = |part: &str| match part.strip_prefix(KEY).and_then(|text| text.parse().ok()) {
        Some(forward) => format!("{KEY}{}", change(forward)),
        None => part.to_owned(),
    };
    let mut changes = Vec::new();
    for (node, old) in arguments(document) {
        let new: Vec<String> = old.split(',').map(&mut part).collect();
        let new = new.join(",");
        // Spelled in another way is not changed.
        let same = new == old.split(',').map(spelled).collect::<Vec<_>>().join(",");
        if !same {
            changes.push((node, old, new));
        }
    }
    changes
}

fn spelled(part: &str) -> String {
    match part.strip_prefix(KEY).and_then(|text| text.parse::<Hostfwd>().ok()) {
        Some(forward) => format!("{KEY}{forward}"),
        None => part.to_owned(),
    }
}

fn arguments(document: &Document) -> impl Iterator<Item = (Node<'_>, String)> {
    let arguments = document.root().descendants().filter(|node| node.local_name() == "arg");
    arguments.filter_map(|node| Some((node, node.attr("value")?.into_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read_as_qemu_reads_them() {
        for (text, shown, open, ssh) in [
            ("tcp::0-:22", "tcp::0-:22", true, true),
            (":0.0.0.0:2350-:22", "tcp:0.0.0.0:2350-:22", true, true),
            ("tcp:0:22-:22", "tcp:0.0.0.0:22-:22", true, true),
            ("tcp:127.0.0.1:2222-10.0.2.15:22", "tcp:127.0.0.1:2222-10.0.2.15:22", false, true),
            ("udp::53-:53", "udp::53-:53", true, false),
            ("tcp::8022-:8022", "tcp::8022-:8022", true, false),
        ] {
            let forward: Hostfwd = text.parse().unwrap();
            assert_eq!(forward.to_string(), shown);
            assert_eq!((forward.is_open(), forward.is_ssh()), (open, ssh), "{text}");
        }
        for text in ["", "tcp", "tcp::22", "tcp::x-:22", "tcp:host:1-:22", "tcp::99999-:22"] {
            assert!(text.parse::<Hostfwd>().is_err(), "{text}");
        }
    }
}
