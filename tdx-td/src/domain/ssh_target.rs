//! How to connect to a guest's SSH server.

use std::net::IpAddr;

use common::cli::Context;
use common::libvirt::{Context as _, Libvirt};
use common::{Error, Result};

use crate::domain::item::DomainItem;

/// The place to connect to for a guest's SSH server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SshTarget {
    /// A TCP port: a forwarded port of the host, or a port of the guest.
    Tcp {
        /// Address or host name.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// vsock port 22 of the guest.
    Vsock {
        /// Context ID of the guest.
        cid: u32,
    },
}

impl SshTarget {
    /// Returns the target of a domain: a forwarded port, else port 22 of its address, else vsock.
    ///
    /// Errors: `conflict` for a domain without any of them.
    pub fn for_domain(item: &DomainItem) -> Result<Self> {
        match (&item.ssh, item.vsock_cid) {
            (Some(ssh), _) => Ok(Self::Tcp { host: ssh.host.clone(), port: ssh.port }),
            (None, Some(cid)) => Ok(Self::Vsock { cid }),
            (None, None) => Err(no_address(item)),
        }
    }

    /// Checks that the target can be reached from this machine. A port of a loopback address and vsock can be
    /// reached only from the host of the domain.
    ///
    /// Errors: `unsupported` (exit 6) if the target is such a one of another host.
    pub fn expect_in_reach(&self, context: &Context, libvirt: &Libvirt, name: &str) -> Result<()> {
        let place = match self {
            Self::Tcp { host, port } if is_loopback(host) => format!("{host}:{port}"),
            Self::Tcp { .. } => return Ok(()),
            Self::Vsock { cid } => format!("vsock {cid}"),
        };
        if libvirt.is_local() {
            return Ok(());
        }
        let remote = libvirt.connect().hostname().context("read the host name of libvirt")?;
        let local = context.host.read("/proc/sys/kernel/hostname")?.unwrap_or_default();
        if remote.eq_ignore_ascii_case(local.trim()) {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "domain '{name}' can be reached only from its own host '{remote}', at {place}"
        ))
        .hint(format!("ssh -t {remote} tdx-td ssh {name}")))
    }

    /// Returns the arguments of ssh(1) for this target.
    pub fn arguments(&self) -> Vec<String> {
        match self {
            Self::Tcp { host, port } => vec!["-p".to_owned(), port.to_string(), host.clone()],
            // Source: socat(1), VSOCK-CONNECT. Guests with systemd 256 listen on vsock port 22.
            Self::Vsock { cid } => vec![
                format!("-oProxyCommand=socat - VSOCK-CONNECT:{cid}:22"),
                format!("vsock-{cid}"),
            ],
        }
    }
}

fn no_address(item: &DomainItem) -> Error {
    let name = &item.name;
    let error = Error::conflict(format!("domain '{name}' has no address yet"));
    match item.other_addresses.first() {
        None => error.hint(format!(
            "wait until the guest has booted; to see the boot messages, run tdx-td console {name}"
        )),
        Some(other) => error.hint(format!(
            "all known addresses belong to this host or to network cards that are not in the definition; \
             to use such an address nevertheless, run tdx-td ssh {name} --address {}",
            other.address
        )),
    }
}

fn is_loopback(host: &str) -> bool {
    let is_loopback = |ip: IpAddr| ip.to_canonical().is_loopback() || ip.is_unspecified();
    host.parse().map_or_else(|_| host == "localhost", is_loopback)
}

/// Parses an IP address, with or without a zone, or a host name.
pub fn parse_address(text: &str) -> Result<String, String> {
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (text, None),
    };
    let is_word = |word: &str, most: usize, more: &[u8]| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || more.contains(&byte);
        (1..=most).contains(&word.len()) && word.bytes().all(fits)
    };
    let is_zone = |zone: &str| is_word(zone, 15, b"-_.") && !zone.starts_with('-');
    let is_valid = match (address.parse::<IpAddr>(), zone) {
        (Ok(_), None) => true,
        (Ok(ip), Some(zone)) => ip.is_ipv6() && is_zone(zone),
        (Err(_), None) => {
            let is_label = |label: &str| is_word(label, 63, b"-_") && !label.starts_with('-');
            text.len() <= 253 && text.split('.').all(is_label)
        }
        (Err(_), Some(_)) => false,
    };
    is_valid
        .then(|| text.to_owned())
        .ok_or_else(|| "expected an IP address or host name".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_name_port_and_address_or_vsock() {
        let tcp = SshTarget::Tcp { host: "127.0.0.1".to_owned(), port: 2201 };
        assert_eq!(tcp.arguments(), ["-p", "2201", "127.0.0.1"]);
        let vsock = SshTarget::Vsock { cid: 3 };
        assert_eq!(vsock.arguments(), ["-oProxyCommand=socat - VSOCK-CONNECT:3:22", "vsock-3"]);
    }

    #[test]
    fn parse_address_refuses_what_ssh_could_parse_as_an_option() {
        for address in [
            "10.0.0.5",
            "2001:db8::5",
            "::ffff:10.0.0.5",
            "fe80::1%virbr0",
            "web1",
            "web_1.example-2.org",
        ] {
            assert_eq!(parse_address(address).as_deref(), Ok(address));
        }
        let long = format!("{}.x", "a.".repeat(126));
        for text in [
            "",
            "-oProxyCommand=x",
            "-x",
            "a.-oX",
            "a..b",
            ".",
            "user@host",
            "a b",
            "a\nb",
            "[::1]",
            "::1%",
            "10.0.0.1%eth0",
            "10.0.0.1:22",
            "fe80::1%-x",
            "fe80::1%a b",
            "fe80::1%%",
            "web%eth0",
            "ä",
            &long,
        ] {
            assert!(parse_address(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn is_loopback_accepts_loopback_and_unspecified_addresses() {
        for host in ["127.0.0.1", "127.1.2.3", "::1", "localhost", "0.0.0.0", "::ffff:127.0.0.1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["10.0.0.1", "host", "2001:db8::1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
