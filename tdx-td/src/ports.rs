//! Ports of this host that lead to a guest's ssh: chosen once, kept in the domain's definition.

use std::fmt;
use std::io::ErrorKind as IoErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::str::FromStr;

use common::host::Host;
use common::libvirt::{Context, Libvirt, is_gone};
use common::{Error, ErrorKind, Result, parallel};
use tdx_pool::inflight::InFlight;
use virt::sys;

use crate::definition::Definition;

/// Where ports are looked for when none is named.
const AUTO: std::ops::RangeInclusive<u16> = 2201..=9999;

/// The port that the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRequest {
    address: IpAddr,
    /// None: any that is free.
    port: Option<u16>,
}

impl PortRequest {
    /// Any free port of 127.0.0.1.
    pub const AUTO: Self = Self { address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: None };

    /// Whether it is a port of an IPv6 address.
    pub fn is_ipv6(self) -> bool {
        self.address.is_ipv6()
    }
}

impl FromStr for PortRequest {
    type Err = String;

    /// `auto`, `2222`, `192.0.2.1:2222`, `[::1]:auto`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "auto, a port, or ADDRESS:PORT such as 127.0.0.1:2222".to_owned();
        let (address, port) = match text.rsplit_once(':') {
            None => (Self::AUTO.address, text),
            Some((address, port)) => {
                let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
                (bare.unwrap_or(address).parse().map_err(|_| wrong())?, port)
            }
        };
        let port = match port {
            "auto" => None,
            port => Some(port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?),
        };
        Ok(Self { address, port })
    }
}

impl fmt::Display for PortRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => write!(f, "{}:auto", self.address),
        }
    }
}

/// A port that no domain and no program has. No other command takes it while this is there.
#[derive(Debug)]
pub struct Port {
    /// The host's address and port.
    pub socket: SocketAddr,
    _lock: InFlight,
}

impl Port {
    /// Settles on a port.
    ///
    /// Errors: `conflict` when the named one is taken, or all are; `unsupported` for an automatic
    /// choice on another host, where nobody knows what is free.
    pub fn choose(host: &Host, libvirt: &Libvirt, request: PortRequest) -> Result<Self> {
        let taken = taken(libvirt)?;
        let local = libvirt.is_local();
        let Some(port) = request.port else {
            if !local {
                return Err(Error::unsupported("a port can be chosen on this host only")
                    .hint("name a free one: --ssh-port 127.0.0.1:2201"));
            }
            for port in AUTO.filter(|port| !taken.iter().any(|(other, _)| other == port)) {
                match Self::take(host, SocketAddr::new(request.address, port), local) {
                    Err(error) if error.kind() == ErrorKind::Conflict => {}
                    taken => return taken,
                }
            }
            return Err(Error::conflict("no port is free for the guest's ssh"));
        };
        // The same port of another address is free to whoever names it: it is tried below.
        if let Some((_, domain)) = taken.iter().find(|(other, _)| *other == port) {
            return Err(Error::conflict(format!("port {port} is that of domain '{domain}'"))
                .hint("choose another, or --ssh-port auto"));
        }
        Self::take(host, SocketAddr::new(request.address, port), local)
    }

    fn take(host: &Host, socket: SocketAddr, local: bool) -> Result<Self> {
        let lock = InFlight::begin(host, &format!("port.{}", socket.port()))?;
        if local {
            TcpListener::bind(socket).map_err(|error| {
                let message = match error.kind() {
                    IoErrorKind::AddrInUse => format!("port {socket} is taken"),
                    _ => format!("port {socket} cannot be had"),
                };
                Error::conflict(message).because(error).hint("choose another, or --ssh-port auto")
            })?;
        }
        Ok(Self { socket, _lock: lock })
    }
}

/// The host ports that definitions forward, running or not, with their domains.
fn taken(libvirt: &Libvirt) -> Result<Vec<(u16, String)>> {
    let domains = libvirt.connect().list_all_domains(0).context("list domains")?;
    let ports = parallel::map(domains, parallel::DOMAINS, |domain| -> Result<_> {
        match domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE) {
            Err(error) if is_gone(&error) => Ok(Vec::new()),
            text => {
                let definition = Definition::parse(text.context("read a domain")?)?;
                let ports = definition.host_ports().into_iter();
                Ok(ports.map(|port| (port, definition.name())).collect())
            }
        }
    });
    ports.into_iter().collect::<Result<Vec<Vec<_>>>>().map(|ports| ports.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_and_shown() {
        for (text, shown) in [
            ("auto", "127.0.0.1:auto"),
            ("2222", "127.0.0.1:2222"),
            ("0.0.0.0:2222", "0.0.0.0:2222"),
            ("[::1]:2222", "[::1]:2222"),
            ("192.0.2.1:auto", "192.0.2.1:auto"),
        ] {
            assert_eq!(text.parse::<PortRequest>().unwrap().to_string(), shown);
        }
        for text in ["", "0", "65536", "any", "host:22", "1.2.3.4:", ":22"] {
            assert!(text.parse::<PortRequest>().is_err(), "{text:?}");
        }
    }
}
