//! The addresses of one guest: those of its network cards, and others.

use std::collections::HashSet;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Serialize;

use crate::domain::addresses::agent::Interface;
use crate::domain::addresses::mac::canonical_mac;
use crate::domain::addresses::seen::SeenAddresses;
use crate::domain::addresses::this_host::ThisHost;

/// The most addresses of each kind that a document lists for one domain: a guest agent may report any number.
pub(super) const MOST: usize = 256;

/// An address that a guest has or reports, and that these tools never connect to unless the user names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct OtherAddress {
    /// IP address.
    pub address: String,
    /// Name of the interface in the guest, as its agent reports it; null if the host saw the address itself.
    pub interface: Option<String>,
    /// Hardware address of the interface, lower case; null when unknown.
    pub mac: Option<String>,
}

/// The addresses of one guest: those of its own network cards, and all others.
#[derive(Debug)]
pub struct GuestAddresses<'h> {
    this_host: &'h ThisHost,
    macs: HashSet<String>,
    known: HashSet<IpAddr>,
    /// Addresses of the cards in the domain XML, the preferred ones first.
    pub own: Vec<IpAddr>,
    /// All other addresses.
    pub other: Vec<OtherAddress>,
}

impl<'h> GuestAddresses<'h> {
    /// Creates an empty list for a guest whose cards have these hardware addresses.
    pub fn new(this_host: &'h ThisHost, macs: &[String]) -> Self {
        // Loopback and tunnel interfaces have a MAC address of zeros, which identifies none of them.
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

    /// Whether the domain XML has a card whose addresses can be found.
    pub fn has_cards(&self) -> bool {
        !self.macs.is_empty()
    }

    /// Adds the addresses that this host has seen for the guest's cards.
    pub fn add_seen(&mut self, seen: &SeenAddresses) {
        let mut macs: Vec<String> = self.macs.iter().cloned().collect();
        macs.sort();
        for mac in macs {
            for ip in seen.by_mac.get(&mac).into_iter().flatten() {
                self.add(*ip, Some(&mac), None);
            }
        }
    }

    /// Adds the addresses that the guest's agent reports. The guest's own cards are handled first, so that an
    /// address of a card counts as such even if another interface has it as well.
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

/// Whether an address identifies the guest outside of it. Loopback, link-local and multicast addresses do not.
fn is_of_one_guest(ip: IpAddr) -> bool {
    let is_elsewhere = match ip {
        // 0.0.0.0/8 is "this network": a connection to 0.0.0.0 reaches the host itself.
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !is_elsewhere && !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast()
}

/// Returns a name from the guest, limited in length and without characters that a terminal would interpret.
fn printable(name: &str) -> String {
    let shown = |char: char| if char.is_control() { '?' } else { char };
    name.chars().take(64).map(shown).collect()
}
