//! Ports of this host that lead to a guest's ssh: chosen once, kept in the domain's definition.

use std::fmt;
use std::io::ErrorKind as IoErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::str::FromStr;
use std::time::Duration;

use common::cli::interrupt;
use common::libvirt::{Context, Libvirt, is_gone};
use common::{Error, ErrorKind, Result, parallel};
use virt::sys;

use crate::domain::definition::Definition;

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
pub struct PortReservation {
    /// The host's address and port.
    pub socket: SocketAddr,
    _claim: UnixListener,
}

impl PortReservation {
    /// Settles on a port.
    ///
    /// Errors: `conflict` when the named one is taken, or all are; `permission` for one that only root
    /// can have, which QEMU is not; `unsupported` for an automatic choice on another host, where nobody
    /// knows what is free.
    pub fn choose(libvirt: &Libvirt, request: PortRequest) -> Result<Self> {
        let local = libvirt.is_local();
        let Some(port) = request.port else {
            if !local {
                return Err(Error::unsupported("a port can be chosen on this host only")
                    .hint("name a free one: --ssh-port 127.0.0.1:2201"));
            }
            let known = taken(libvirt)?;
            let sockets = AUTO.map(|port| SocketAddr::new(request.address, port));
            for socket in sockets.filter(|socket| holder(&known, *socket).is_none()) {
                match Self::take(libvirt, socket) {
                    Err(error) if error.kind() == ErrorKind::Conflict => {}
                    taken => return taken,
                }
            }
            return Err(Error::conflict("no port is free for the guest's ssh"));
        };
        let socket = SocketAddr::new(request.address, port);
        for _ in 0..20 {
            match reserve(port) {
                // Another command looks at it, or makes a domain that has it.
                Err(error) if error.kind() == IoErrorKind::AddrInUse => {
                    interrupt::sleep(Duration::from_millis(50))?;
                }
                _ => break,
            }
        }
        Self::take(libvirt, socket)
    }

    fn take(libvirt: &Libvirt, socket: SocketAddr) -> Result<Self> {
        const HINT: &str = "choose another, or --ssh-port auto";
        let claim = reserve(socket.port()).map_err(|error| {
            Error::conflict(format!("port {socket} is being taken by another command"))
                .because(error)
                .hint(HINT)
        })?;
        // Looked at now that nobody else can take it.
        if let Some(domain) = holder(&taken(libvirt)?, socket) {
            let message = format!("port {} is that of domain '{domain}'", socket.port());
            return Err(Error::conflict(message).hint(HINT));
        }
        if libvirt.is_local() {
            TcpListener::bind(socket).map_err(|error| match error.kind() {
                IoErrorKind::AddrInUse => {
                    Error::conflict(format!("port {socket} is taken")).because(error).hint(HINT)
                }
                IoErrorKind::PermissionDenied => privileged(socket).because(error),
                _ => Error::conflict(format!("port {socket} cannot be had"))
                    .because(error)
                    .hint(HINT),
            })?;
            // Root may listen there, but QEMU and passt are not root.
            if socket.port() < first_unprivileged() {
                return Err(privileged(socket));
            }
        }
        Ok(Self { socket, _claim: claim })
    }
}

fn privileged(socket: SocketAddr) -> Error {
    let first = first_unprivileged();
    Error::permission(format!("port {socket} is for root only, which QEMU is not"))
        .hint(format!("choose one from {first} up, or --ssh-port auto"))
}

/// Source: Linux `Documentation/networking/ip-sysctl.rst`.
fn first_unprivileged() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

/// A claim on a port among these tools, of whatever user: a name that the kernel gives once in each
/// network, as it does with ports, and takes back with the process. No file is made.
fn reserve(port: u16) -> std::io::Result<UnixListener> {
    let name = UnixAddr::from_abstract_name(format!("tdx-tools/ssh-port/{port}"))?;
    UnixListener::bind_addr(&name)
}

/// The domain, of those known, whose definition has a port.
fn holder(known: &[Taken], socket: SocketAddr) -> Option<&str> {
    let same = |address: Option<IpAddr>| match address {
        None => true,
        Some(address) => {
            address == socket.ip() || address.is_unspecified() || socket.ip().is_unspecified()
        }
    };
    let found = known.iter().find(|taken| taken.port == socket.port() && same(taken.address));
    found.map(|taken| taken.domain.as_str())
}

/// A port that a definition forwards, of one address or of all.
#[derive(Debug, Clone)]
struct Taken {
    address: Option<IpAddr>,
    port: u16,
    domain: String,
}

/// The host ports that definitions forward, running or not.
fn taken(libvirt: &Libvirt) -> Result<Vec<Taken>> {
    let domains = libvirt.connect().list_all_domains(0).context("list domains")?;
    let ports = parallel::map(domains, parallel::DOMAINS, |domain| -> Result<_> {
        match domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE) {
            Err(error) if is_gone(&error) => Ok(Vec::new()),
            text => {
                let definition = Definition::parse(text.context("read a domain")?)?;
                let taken = |(address, port)| Taken { address, port, domain: definition.name() };
                Ok(definition.host_ports().into_iter().map(taken).collect())
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
