//! Which addresses guests have: DHCP leases, the ARP table, guest agents.

use std::collections::HashMap;
use std::net::IpAddr;

use common::Result;
use common::host::Host;
use common::libvirt::{Context, Libvirt};
use virt::sys;

/// Hardware addresses with the IP addresses seen behind them, best first.
#[derive(Debug, Default)]
pub struct Addresses {
    by_mac: HashMap<String, Vec<String>>,
}

impl Addresses {
    /// Asks every active network for its leases and, on this machine, reads the ARP table: a fixed
    /// number of round trips, however many domains there are.
    pub fn collect(host: &Host, libvirt: &Libvirt) -> Result<Self> {
        let mut addresses = Self::default();
        let active = sys::VIR_CONNECT_LIST_NETWORKS_ACTIVE;
        let networks = libvirt.connect().list_all_networks(active).context("list networks")?;
        for network in networks {
            // A network stopped meanwhile, or of a driver without leases, has none to tell.
            let mut leases = libvirt.leases(&network).unwrap_or_default();
            leases.sort_by_key(|lease| std::cmp::Reverse(lease.expires));
            for lease in leases {
                addresses.add(&lease.mac, lease.ip);
            }
        }
        if libvirt.is_local() {
            let table = host.read("/proc/net/arp").ok().flatten().unwrap_or_default();
            for (mac, ip) in table.lines().skip(1).filter_map(arp_entry) {
                addresses.add(&mac, ip);
            }
        }
        Ok(addresses)
    }

    fn add(&mut self, mac: &str, ip: String) {
        let known = self.by_mac.entry(mac.to_owned()).or_default();
        if !known.contains(&ip) {
            known.push(ip);
        }
    }

    /// The addresses of a domain's network cards, each once.
    pub fn of(&self, macs: &[String]) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for ip in macs.iter().filter_map(|mac| self.by_mac.get(mac)).flatten() {
            if !found.contains(ip) {
                found.push(ip.clone());
            }
        }
        found
    }
}

/// Source: proc_net(5) on `/proc/net/arp`: address, hardware type, flags, hardware address, mask,
/// device; flag 2 is a complete entry.
fn arp_entry(line: &str) -> Option<(String, String)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [ip, _, flags, mac, ..] = fields[..] else {
        return None;
    };
    let flags = u32::from_str_radix(flags.strip_prefix("0x")?, 16).ok()?;
    (flags & 2 != 0).then(|| (mac.to_lowercase(), ip.to_owned()))
}

/// The addresses a guest agent tells, from its answer to `guest-network-get-interfaces`.
///
/// Loopback and link-local addresses are left out: nobody else can use them.
/// Source: QEMU guest agent protocol reference.
pub fn of_agent(answer: &str) -> Vec<String> {
    let answer: serde_json::Value = serde_json::from_str(answer).unwrap_or_default();
    let interfaces = answer["return"].as_array().into_iter().flatten();
    let addresses = interfaces.flat_map(|i| i["ip-addresses"].as_array().into_iter().flatten());
    addresses
        .filter_map(|address| address["ip-address"].as_str())
        .filter(|ip| ip.parse().is_ok_and(is_reachable))
        .map(str::to_owned)
        .collect()
}

fn is_reachable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !ip.is_loopback() && !ip.is_unspecified() && !link_local
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arp_lines_are_read() {
        let line = "192.168.122.5    0x1         0x2         52:54:00:AA:bb:cc     *        virbr0";
        let entry = ("52:54:00:aa:bb:cc".to_owned(), "192.168.122.5".to_owned());
        assert_eq!(arp_entry(line), Some(entry));
        assert_eq!(arp_entry("192.168.122.5 0x1 0x0 00:00:00:00:00:00 * virbr0"), None);
        assert_eq!(arp_entry(""), None);
    }

    #[test]
    fn only_addresses_others_can_use_are_told() {
        let answer = r#"{"return":[{"name":"lo","ip-addresses":[{"ip-address":"127.0.0.1"}]},
            {"name":"eth0","ip-addresses":[{"ip-address":"10.0.0.5"},{"ip-address":"fe80::1"},
            {"ip-address":"2001:db8::5"}]},{"name":"eth1"}]}"#;
        assert_eq!(of_agent(answer), ["10.0.0.5", "2001:db8::5"]);
        assert_eq!(of_agent("not json"), Vec::<String>::new());
    }
}
