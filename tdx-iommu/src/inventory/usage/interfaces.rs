//! Finds the PCI devices that the host's network uses.

use std::collections::BTreeSet;

use common::system::pci::Bdf;
use common::system::sysfs;
use common::system::sysfs::{names, target};
use common::system::sysroot::Host;

use crate::inventory::usage::host_use::{HostUse, Usage};

/// The flag of a route that rejects packets.
const REJECT: u32 = 0x200;

/// Adds the interfaces of routes, and interfaces that are part of other interfaces.
///
/// Source: proc(5), `/proc/net/route` and `/proc/net/ipv6_route`; Linux `net/ipv4/fib_trie.c`,
/// `net/ipv6/route.c`, `Documentation/ABI/testing/sysfs-class-net`.
pub(super) fn read(host: &Host, usage: &mut Usage, problems: &mut Vec<String>) {
    let mut routes = BTreeSet::new();
    for (path, parse) in
        [("/proc/net/route", route as fn(&str) -> Option<Route>), ("/proc/net/ipv6_route", route6)]
    {
        match host.read(path) {
            Ok(text) => routes.extend(text.iter().flat_map(|t| t.lines()).filter_map(parse)),
            Err(error) => problems.push(error.to_string()),
        }
    }
    for Route { interface, is_default } in routes {
        let host_use = if is_default {
            HostUse::DefaultRoute(interface.clone())
        } else {
            HostUse::Interface(format!("the host has an address on {interface}"))
        };
        usage.add(below(host, &interface), host_use);
    }
    for name in names(host, "/sys/class/net") {
        if let Some(master) = target(host, &format!("/sys/class/net/{name}/master")) {
            let master = master.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let what = HostUse::Interface(format!("{name} is part of {master}"));
            usage.add(below(host, &name), what);
        }
    }
}

/// A route: a destination and its interface.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    interface: String,
    is_default: bool,
}

/// Parses a line of `/proc/net/route`: interface, destination, gateway, flags, …, mask.
fn route(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let number = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
    let (destination, flags, mask) = (number(1)?, number(3)?, number(7)?);
    let interface = fields[0].to_owned();
    (flags & REJECT == 0 && interface != "lo")
        .then_some(Route { interface, is_default: (destination, mask) == (0, 0) })
}

/// Parses a line of `/proc/net/ipv6_route`: destination, its prefix, …, flags, interface.
fn route6(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let destination = u128::from_str_radix(fields.first()?, 16).ok()?;
    let flags = u32::from_str_radix(fields.get(8)?, 16).ok()?;
    let interface = (*fields.get(9)?).to_owned();
    let is_default = destination == 0 && fields[1] == "00";
    // Link-local and multicast routes are skipped, because every active interface has them.
    let is_everywhere = matches!(destination >> 112, 0xfe80 | 0xff00);
    (flags & REJECT == 0 && interface != "lo" && !is_everywhere)
        .then_some(Route { interface, is_default })
}

/// The PCI devices of a network interface: its own, or those of the interfaces that it consists of.
fn below(host: &Host, interface: &str) -> BTreeSet<Bdf> {
    let mut found = BTreeSet::new();
    let mut looked_at = BTreeSet::new();
    let mut left = vec![interface.to_owned()];
    while let Some(name) = left.pop() {
        if !looked_at.insert(name.clone()) {
            continue;
        }
        let Some(path) = target(host, &format!("/sys/class/net/{name}")) else { continue };
        found.extend(sysfs::controllers(&path));
        let lower = names(host, &path.to_string_lossy()).into_iter();
        left.extend(lower.filter_map(|name| name.strip_prefix("lower_").map(str::to_owned)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(route: Option<Route>) -> Option<(String, bool)> {
        route.map(|route| (route.interface, route.is_default))
    }

    #[test]
    fn route_returns_the_interface_and_whether_the_route_is_the_default() {
        for (line, wanted) in [
            ("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\tMTU", None),
            ("eth0\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\t0\t0", Some(("eth0", true))),
            ("eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0", Some(("eth0", false))),
            // Half of the Internet, as VPNs do it, is no default route.
            ("tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0", Some(("tun0", false))),
            ("*\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0", None),
            ("", None),
        ] {
            let wanted = wanted.map(|(name, is_default)| (name.to_owned(), is_default));
            assert_eq!(found(route(line)), wanted, "{line}");
        }
        let zero = "00000000000000000000000000000000";
        let line6 = |destination: &str, prefix: &str, flags: &str, interface: &str| {
            format!(
                "{destination} {prefix} {zero} 00 {zero} 00000400 00000001 00000000 {flags} {interface}"
            )
        };
        for (line, wanted) in [
            (line6(zero, "00", "00450003", "eth0"), Some(("eth0", true))),
            (line6(zero, "00", "00200200", "lo"), None),
            (line6("fe800000000000000000000000000000", "40", "00000001", "eth0"), None),
            (line6("ff000000000000000000000000000000", "08", "00000001", "eth0"), None),
            (
                line6("20010db8000000000000000000000000", "40", "00000001", "br0"),
                Some(("br0", false)),
            ),
        ] {
            let wanted = wanted.map(|(name, is_default)| (name.to_owned(), is_default));
            assert_eq!(found(route6(&line)), wanted, "{line}");
        }
    }
}
