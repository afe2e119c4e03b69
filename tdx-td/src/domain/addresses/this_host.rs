//! The addresses of this host itself.

use std::collections::HashSet;
use std::net::IpAddr;

use common::{Error, Result};
use nix::ifaddrs::getifaddrs;

/// Every address of every interface of the machine that the tool runs on.
///
/// Whoever connects to one of them reaches this host and no guest, whatever a guest reports.
#[derive(Debug, Clone, Default)]
pub struct ThisHost {
    addresses: HashSet<IpAddr>,
}

impl ThisHost {
    /// Asks the kernel, whatever `--sysroot` says: connections are made from this machine.
    ///
    /// Errors: `failed` when the kernel does not tell.
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
