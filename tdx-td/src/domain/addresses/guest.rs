//! The addresses of one guest, divided into its own and others.

use std::collections::HashSet;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Serialize;

use crate::domain::addresses::agent::Interface;
use crate::domain::addresses::mac::canonical_mac;
use crate::domain::addresses::seen::SeenAddresses;
use crate::domain::addresses::this_host::ThisHost;

/// The most addresses of each kind that a document lists for one domain. A guest agent may report any
/// number of them.
pub(super) const MOST: usize = 256;

/// An address that a guest has, or says it has, and that these tools never connect to by themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct OtherAddress {
    /// IP address.
    pub address: String,
    /// The interface in the guest, as its agent names it; null when the host saw the address itself.
    pub interface: Option<String>,
    /// Hardware address of the interface, lower case; null when unknown.
    pub mac: Option<String>,
}

/// The addresses of one guest, divided into those of its own network cards and all others.
#[derive(Debug)]
pub struct GuestAddresses<'h> {
    this_host: &'h ThisHost,
    macs: HashSet<String>,
    known: HashSet<IpAddr>,
    /// Addresses of the cards in the domain XML, best first.
    pub own: Vec<IpAddr>,
    /// All others.
    pub other: Vec<OtherAddress>,
}

impl<'h> GuestAddresses<'h> {
    /// Nothing is known yet of the guest whose cards have these hardware addresses.
    pub fn new(this_host: &'h ThisHost, macs: &[String]) -> Self {
        // Loopback and tunnel interfaces have a MAC of zeros, which tells none of them from another.
        let zeros = "00:00:00:00:00:00";
        let macs = macs.iter().filter_map(|mac| canonical_mac(mac)).filter(|mac| mac != zeros);
        Self {
            this_host,
            macs: macs.collect(),
            known: HashSet::new(),
            own: Vec::new(),
            other: Vec::new(),
        }
    }

    /// Whether the domain XML has a card whose address could be found.
    pub fn has_cards(&self) -> bool {
        !self.macs.is_empty()
    }

    /// Adds what this host has seen of the guest's cards.
    pub fn add_seen(&mut self, seen: &SeenAddresses) {
        let mut macs: Vec<String> = self.macs.iter().cloned().collect();
        macs.sort();
        for mac in macs {
            for ip in seen.by_mac.get(&mac).into_iter().flatten() {
                self.add(*ip, Some(&mac), None);
            }
        }
    }

    /// Adds what the guest's agent reports. Addresses of the guest's own cards come first: none is
    /// taken for another's because some other interface has it too.
    pub fn add_report(&mut self, report: &[Interface]) {
        let reported = report.iter().map(|interface| (interface, interface.mac()));
        let is_own = |mac: &Option<String>| mac.as_ref().is_some_and(|mac| self.macs.contains(mac));
        let (own, other): (Vec<_>, Vec<_>) = reported.partition(|(_, mac)| is_own(mac));
        for (interface, mac) in own.into_iter().chain(other) {
            for ip in interface.addresses() {
                self.add(ip, mac.as_deref(), Some(&interface.name));
            }
        }
    }

    fn add(&mut self, ip: IpAddr, mac: Option<&str>, interface: Option<&str>) {
        let ip = ip.to_canonical();
        if !is_of_one_guest(ip) || !self.known.insert(ip) {
            return;
        }
        let is_own = mac.is_some_and(|mac| self.macs.contains(mac)) && !self.this_host.has(ip);
        if is_own && self.own.len() < MOST {
            self.own.push(ip);
        }
        if !is_own && self.other.len() < MOST {
            let interface = interface.map(printable);
            let mac = mac.map(str::to_owned);
            self.other.push(OtherAddress { address: ip.to_string(), interface, mac });
        }
    }
}

/// Whether an address names one guest for whoever is outside of it: loopback, link-local and group
/// addresses do not.
fn is_of_one_guest(ip: IpAddr) -> bool {
    let is_elsewhere = match ip {
        // 0.0.0.0/8 is "this network", and connecting to 0.0.0.0 reaches the host itself.
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !is_elsewhere && !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast()
}

/// A name that the guest chose, fit for a terminal and no longer than any real one.
fn printable(name: &str) -> String {
    let shown = |char: char| if char.is_control() { '?' } else { char };
    name.chars().take(64).map(shown).collect()
}
