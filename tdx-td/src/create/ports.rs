//! Ports of this host that are forwarded to a guest's SSH server. A port is chosen once and stored in the
//! domain's definition.

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

/// The range that `auto` chooses a port from.
const AUTO: std::ops::RangeInclusive<u16> = 2201..=9999;

/// The requested port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRequest {
    address: IpAddr,
    /// The port number; `None` for any free port.
    port: Option<u16>,
}

impl PortRequest {
    /// A request for any free port of 127.0.0.1.
    pub const AUTO: Self = Self { address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: None };

    /// Whether the port is one of an IPv6 address.
    pub fn is_ipv6(self) -> bool {
        self.address.is_ipv6()
    }
}

impl FromStr for PortRequest {
    type Err = String;

    /// Parses `auto`, `2222`, `192.0.2.1:2222` or `[::1]:auto`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected auto, a port, or ADDRESS:PORT such as 127.0.0.1:2222".to_owned();
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

/// A free port, reserved for one domain. No other command of these tools takes the port while this value
/// lives.
#[derive(Debug)]
pub struct PortReservation {
    /// Address and port of the host.
    pub socket: SocketAddr,
    _claim: UnixListener,
}

impl PortReservation {
    /// Chooses and reserves a port.
    ///
    /// Errors: `conflict` if the named port, or every port, is in use; `permission` for a port that only root
    /// may listen on; `unsupported` for `auto` on a remote host, whose free ports are unknown.
    pub fn choose(libvirt: &Libvirt, request: PortRequest) -> Result<Self> {
        let local = libvirt.is_local();
        let Some(port) = request.port else {
            if !local {
                return Err(Error::unsupported("--ssh-port auto does not work on a remote host")
                    .hint("name a free port of that host: --ssh-port 127.0.0.1:2201"));
            }
            let known = taken(libvirt)?;
            let sockets = AUTO.map(|port| SocketAddr::new(request.address, port));
            for socket in sockets.filter(|socket| holder(&known, *socket).is_none()) {
                match Self::take(libvirt, socket) {
                    Err(error) if error.kind() == ErrorKind::Conflict => {}
                    taken => return taken,
                }
            }
            return Err(Error::conflict(format!(
                "--ssh-port auto: no port from {} to {} is free",
                AUTO.start(),
                AUTO.end()
            )));
        };
        let socket = SocketAddr::new(request.address, port);
        for _ in 0..20 {
            match reserve(port) {
                // Another command has reserved the port, to check it or for its domain.
                Err(error) if error.kind() == IoErrorKind::AddrInUse => {
                    interrupt::sleep(Duration::from_millis(50))?;
                }
                _ => break,
            }
        }
        Self::take(libvirt, socket)
    }

    fn take(libvirt: &Libvirt, socket: SocketAddr) -> Result<Self> {
        const HINT: &str = "choose another port, or --ssh-port auto";
        let claim = reserve(socket.port()).map_err(|error| {
            Error::conflict(format!("port {socket} is reserved by another command"))
                .because(error)
                .hint(HINT)
        })?;
        // The domains are read after the reservation, so that no other command can take the port meanwhile.
        if let Some(domain) = holder(&taken(libvirt)?, socket) {
            let message = format!("port {} belongs to domain '{domain}'", socket.port());
            return Err(Error::conflict(message).hint(HINT));
        }
        if libvirt.is_local() {
            TcpListener::bind(socket).map_err(|error| match error.kind() {
                IoErrorKind::AddrInUse => {
                    Error::conflict(format!("port {socket} is in use")).because(error).hint(HINT)
                }
                IoErrorKind::PermissionDenied => privileged(socket).because(error),
                _ => Error::conflict(format!("cannot listen on port {socket}"))
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
    Error::permission(format!(
        "only root may listen on port {socket}, and QEMU does not run as root"
    ))
    .hint(format!("choose port {first} or above, or --ssh-port auto"))
}

/// Returns the lowest port that an ordinary user may listen on.
///
/// Source: Linux `Documentation/networking/ip-sysctl.rst`.
fn first_unprivileged() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

/// Reserves a port among the commands of these tools, of all users. The reservation is an abstract socket name:
/// unique in its network namespace, as ports are, and released when the process ends. No file is created.
fn reserve(port: u16) -> std::io::Result<UnixListener> {
    let name = UnixAddr::from_abstract_name(format!("tdx-tools/ssh-port/{port}"))?;
    UnixListener::bind_addr(&name)
}

/// Returns the domain whose definition forwards a port.
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

/// A port that a definition forwards, on one address or on all.
#[derive(Debug, Clone)]
struct Taken {
    address: Option<IpAddr>,
    port: u16,
    domain: String,
}

/// Returns the host ports that the definitions of all domains forward.
fn taken(libvirt: &Libvirt) -> Result<Vec<Taken>> {
    let domains = libvirt.connect().list_all_domains(0).context("list domains")?;
    let ports = parallel::map(domains, parallel::DOMAINS, |domain| -> Result<_> {
        match domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE) {
            Err(error) if is_gone(&error) => Ok(Vec::new()),
            text => {
                let name = domain.name().unwrap_or_default();
                let doing = format_args!("read the definition of domain '{name}'");
                let definition = Definition::parse(text.context(doing)?)?;
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
    fn port_request_parses_and_displays_all_forms() {
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
