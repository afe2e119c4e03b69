//! `tdx-td list`: every domain with where to reach it.
//!
//! A fixed number of round trips, plus one for each domain's XML.

use std::collections::HashSet;

use clap::Args;
use common::cli::Context;
use common::document::Document;
use common::host::Host;
use common::libvirt::{Context as _, Libvirt, State, is_gone};
use common::output::Outcome;
use common::{Result, log};
use virt::domain::Domain;
use virt::sys;

use crate::addresses::Addresses;
use crate::definition::{Definition, Forward};
use crate::domain::{DomainItem, Ssh};
use common::parallel;

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {}

/// Shows every domain, running or not.
pub fn run(context: &Context, libvirt: &Libvirt, _: ListArgs) -> Result<Outcome> {
    let observer = || Observer::new(&context.host, libvirt);
    let (domains, observer) = parallel::both(|| libvirt.domains(), observer);
    let (domains, observer) = (domains?, observer?);
    let read = |(domain, state): (Domain, State)| observer.item(&domain, state);
    let items: Result<Vec<_>> =
        parallel::map(domains, parallel::DOMAINS, read).into_iter().collect();
    Ok(Document::new("tdx.td.domains", items?.into_iter().flatten().collect()).into())
}

/// What has to be asked once, whatever the number of domains.
#[derive(Debug)]
pub struct Observer {
    addresses: Addresses,
    autostart: HashSet<String>,
}

impl Observer {
    /// Asks about leases, neighbours and autostart.
    pub fn new(host: &Host, libvirt: &Libvirt) -> Result<Self> {
        let flag = sys::VIR_CONNECT_LIST_DOMAINS_AUTOSTART;
        let autostart = libvirt.connect().list_all_domains(flag).context("list domains")?;
        let names = autostart.iter().filter_map(|domain| domain.name().ok());
        Ok(Self { autostart: names.collect(), addresses: Addresses::collect(host, libvirt)? })
    }

    /// Reads one domain; none when it went away meanwhile.
    pub fn item(&self, domain: &Domain, state: State) -> Result<Option<DomainItem>> {
        let name = domain.name().context("ask a domain for its name")?;
        let text = match domain.xml_desc(0) {
            Err(error) if is_gone(&error) => return Ok(None),
            text => text.context(format_args!("read domain '{name}'"))?,
        };
        let definition = Definition::parse(text)?;
        let mut item = definition.item(domain.id(), state, self.autostart.contains(&name));
        if item.id.is_some() {
            item.ips = self.addresses.of(&definition.macs());
        }
        if item.id.is_some() && definition.ssh_forward() == Forward::Ephemeral {
            item.ssh = chosen_port(domain, &name);
        }
        complete(&mut item);
        Ok(Some(item))
    }
}

/// Fills in what follows from the addresses, of which IPv4 come first.
pub fn complete(item: &mut DomainItem) {
    item.ips.sort_by_key(|ip| ip.contains(':'));
    item.ip = item.ips.first().cloned();
    if item.ssh.is_none() {
        item.ssh = item.ip.clone().map(|host| Ssh { host, port: 22 });
    }
}

/// The port that QEMU's user network chose for ssh, from its monitor.
fn chosen_port(domain: &Domain, name: &str) -> Option<Ssh> {
    let hmp = sys::VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP;
    match domain.qemu_monitor_command("info usernet", hmp) {
        Ok(answer) => usernet_port(&answer).map(|port| Ssh { host: "127.0.0.1".into(), port }),
        Err(error) => {
            log::detail(format_args!("no port of '{name}' from its monitor: {error}"));
            None
        }
    }
}

/// The host port forwarded to guest port 22.
///
/// Source: QEMU `net/slirp.c` prints libslirp's connection table: `TCP[HOST_FORWARD]`, descriptor,
/// source address, source port, destination address, destination port.
fn usernet_port(answer: &str) -> Option<u16> {
    answer.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [protocol, _, _, port, _, guest, ..] = fields[..] else {
            return None;
        };
        (protocol == "TCP[HOST_FORWARD]" && guest == "22").then(|| port.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monitors_table_is_read() {
        let answer = "Hub -1 (net1):\r\n  Protocol[State]    FD  Source Address  Port   \
            Dest. Address  Port RecvQ SendQ\r\n  TCP[HOST_FORWARD]  32               * 43967       \
            10.0.2.15    22     0     0\r\n";
        assert_eq!(usernet_port(answer), Some(43967));
        assert_eq!(usernet_port(""), None);
    }
}
