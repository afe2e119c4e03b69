//! The addresses that the host has seen: DHCP leases and the ARP table.

use std::collections::HashMap;
use std::net::IpAddr;

use common::Result;
use common::libvirt::{Context, Libvirt};
use common::system::sysroot::Host;
use virt::sys;

use crate::domain::addresses::mac::canonical_mac;

/// Addresses that this host has seen, by hardware address, the latest lease first.
#[derive(Debug, Default)]
pub struct SeenAddresses {
    pub(super) by_mac: HashMap<String, Vec<IpAddr>>,
}

impl SeenAddresses {
    /// Asks every active network for its leases and, on this machine, reads the ARP table. The number of round
    /// trips does not depend on the number of domains.
    pub fn collect(host: &Host, libvirt: &Libvirt) -> Result<Self> {
        let mut addresses = Self::default();
        let active = sys::VIR_CONNECT_LIST_NETWORKS_ACTIVE;
        let networks = libvirt.connect().list_all_networks(active).context("list networks")?;
        for network in networks {
            // A network that was stopped meanwhile, or whose driver has no leases, has none.
            let mut leases = libvirt.leases(&network).unwrap_or_default();
            leases.sort_by_key(|lease| std::cmp::Reverse(lease.expires));
            for lease in leases {
                addresses.add(&lease.mac, &lease.ip);
            }
        }
        if libvirt.is_local() {
            let table = host.read("/proc/net/arp").ok().flatten().unwrap_or_default();
            for (mac, ip) in table.lines().skip(1).filter_map(arp_entry) {
                addresses.add(mac, ip);
            }
        }
        Ok(addresses)
    }

    pub(super) fn add(&mut self, mac: &str, ip: &str) {
        if let (Some(mac), Ok(ip)) = (canonical_mac(mac), ip.parse()) {
            self.by_mac.entry(mac).or_default().push(ip);
        }
    }
}

/// Parses the ARP table.
///
/// Source: proc_net(5) on `/proc/net/arp`: address, hardware type, flags, hardware address, mask,
/// device; flag 2 is a complete entry.
pub(super) fn arp_entry(line: &str) -> Option<(&str, &str)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [ip, _, flags, mac, ..] = fields[..] else {
        return None;
    };
    let flags = u32::from_str_radix(flags.strip_prefix("0x")?, 16).ok()?;
    (flags & 2 != 0).then_some((mac, ip))
}
