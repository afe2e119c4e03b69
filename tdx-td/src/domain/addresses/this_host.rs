//! The IP addresses of this host.

use std::collections::HashSet;
use std::net::IpAddr;

use common::{Error, Result};
use nix::ifaddrs::getifaddrs;

/// All addresses of all interfaces of the machine that the tool runs on.
///
/// A connection to one of them reaches this host and not a guest, even if a guest reports the address.
#[derive(Debug, Clone, Default)]
pub struct ThisHost {
    addresses: HashSet<IpAddr>,
}

impl ThisHost {
    /// Asks the kernel, also with `--sysroot`: connections are made from this machine.
    ///
    /// Errors: `failed` if the kernel does not return the addresses.
    pub fn read() -> Result<Self> {
        let interfaces = getifaddrs().map_err(|errno| {
            Error::failed(format!("cannot list the addresses of this host: {}", errno.desc()))
        })?;
        let addresses = interfaces.filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
        });
        Ok(addresses.collect())
    }

    /// Whether this host has the address.
    pub fn has(&self, ip: IpAddr) -> bool {
        self.addresses.contains(&ip.to_canonical())
    }
}

impl FromIterator<IpAddr> for ThisHost {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        Self { addresses: addresses.into_iter().map(|ip| ip.to_canonical()).collect() }
    }
}
