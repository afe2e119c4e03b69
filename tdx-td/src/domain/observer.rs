//! Reading the definition, the state and the addresses of domains.
//!
//! This takes a fixed number of round trips, plus one for each definition and one for each guest agent that is
//! the only source of its guest's address.

use std::collections::HashSet;
use std::net::IpAddr;

use common::Result;
use common::cli::log;
use common::libvirt::{Context as _, Libvirt, State, is_gone};
use common::system::sysroot::Host;
use virt::domain::Domain;
use virt::sys;

use crate::domain::addresses::agent::{Inquiry, Question};
use crate::domain::addresses::{GuestAddresses, SeenAddresses, ThisHost, agent};
use crate::domain::definition::{Definition, SshForward};
use crate::domain::item::{DomainItem, Ssh};
use crate::domain::{lookup, power};

/// What is read once for all domains: leases, neighbours, autostart.
#[derive(Debug)]
pub struct Observer {
    seen: SeenAddresses,
    this_host: ThisHost,
    autostart: HashSet<String>,
    /// Whether items get the domain XML.
    keeps_xml: bool,
}

impl Observer {
    /// Reads leases, neighbours and autostart.
    pub fn new(host: &Host, libvirt: &Libvirt) -> Result<Self> {
        let flag = sys::VIR_CONNECT_LIST_DOMAINS_AUTOSTART;
        let autostart = libvirt.connect().list_all_domains(flag).context("list domains")?;
        let names = autostart.iter().filter_map(|domain| domain.name().ok());
        Ok(Self {
            autostart: names.collect(),
            seen: SeenAddresses::collect(host, libvirt)?,
            this_host: ThisHost::read()?,
            keeps_xml: false,
        })
    }

    /// Puts the domain XML into the items.
    #[must_use]
    pub fn keep_xml(self) -> Self {
        Self { keeps_xml: true, ..self }
    }

    /// Reads one domain; `None` if it was deleted meanwhile.
    pub fn observe(&self, domain: &Domain, state: State) -> Result<Option<ObservedDomain<'_>>> {
        let name = domain.name().context("read the name of a domain")?;
        let text = match domain.xml_desc(0) {
            Err(error) if is_gone(&error) => return Ok(None),
            text => text.context(format_args!("read domain '{name}'"))?,
        };
        let xml = self.keeps_xml.then(|| text.clone());
        let definition = Definition::parse(text)?;
        let mut item = definition.item(domain.id(), state, self.autostart.contains(&name));
        item.xml = xml;
        let mut addresses = GuestAddresses::new(&self.this_host, &definition.macs());
        if item.id.is_some() {
            addresses.add_seen(&self.seen);
        }
        if item.id.is_some() && definition.ssh_forward() == SshForward::Ephemeral {
            item.ssh = ephemeral_ssh_port(domain, &name);
        }
        let has_agent = state == State::Running && definition.has_agent();
        Ok(Some(ObservedDomain { domain: domain.clone(), item, addresses, has_agent }))
    }
}

/// A domain with the addresses known so far.
#[derive(Debug)]
pub struct ObservedDomain<'o> {
    domain: Domain,
    item: DomainItem,
    addresses: GuestAddresses<'o>,
    has_agent: bool,
}

impl ObservedDomain<'_> {
    /// Whether the domain has a guest agent that can be asked.
    pub fn has_agent(&self) -> bool {
        self.has_agent
    }

    /// Whether the guest agent is the only possible source of an address.
    pub fn needs_agent(&self) -> bool {
        self.has_agent && self.addresses.own.is_empty() && self.addresses.has_cards()
    }

    /// Whether the guest agent is the only possible source of an address or port for SSH.
    pub fn lacks_ssh(&self) -> bool {
        self.has_agent && self.item.ssh.is_none() && self.addresses.own.is_empty()
    }

    /// Starts asking the guest agent.
    pub fn ask_agent(&self, question: Question) -> Inquiry {
        Inquiry::start(vec![self.domain.clone()], question)
    }

    /// Adds the addresses in an agent's answer.
    pub fn add_report(&mut self, answer: &str) {
        self.addresses.add_report(&agent::interfaces(answer));
    }

    /// Returns the item of the domain. IPv4 addresses come first.
    pub fn into_item(self) -> DomainItem {
        let Self { mut item, addresses, .. } = self;
        let mut ips = addresses.own;
        ips.sort_by_key(IpAddr::is_ipv6);
        item.ips = ips.iter().map(ToString::to_string).collect();
        item.ip = item.ips.first().cloned();
        item.other_addresses = addresses.other;
        if item.ssh.is_none() {
            item.ssh = item.ip.clone().map(|host| Ssh { host, port: 22 });
        }
        item
    }
}

/// Asks the guest agents of the domains that `wants` selects, in parallel and for a limited time. Callers do
/// this last: while libvirtd waits for agents that hang, other calls wait as well.
pub fn ask_agents<'o>(
    observed: &mut [ObservedDomain<'o>],
    wants: impl Fn(&ObservedDomain<'o>) -> bool,
) {
    let mut asked: Vec<_> = observed.iter_mut().filter(|one| wants(one)).collect();
    let domains = asked.iter().map(|one| one.domain.clone()).collect();
    let inquiry = Inquiry::start(domains, Question::Interfaces);
    inquiry.collect(|index, answer| asked[index].add_report(answer));
}

/// Reads one domain. Its guest agent is asked if no other source has an address or port for SSH.
///
/// Errors: `not_found`.
pub fn observe_by_name(host: &Host, libvirt: &Libvirt, name: &str) -> Result<DomainItem> {
    let domain = lookup::get(libvirt, name)?;
    let observer = Observer::new(host, libvirt)?;
    let state = power::state(&domain, name)?;
    let observed = observer.observe(&domain, state)?.ok_or_else(|| lookup::not_found(name))?;
    let mut observed = [observed];
    ask_agents(&mut observed, ObservedDomain::lacks_ssh);
    let [observed] = observed;
    Ok(observed.into_item())
}

/// Returns the port that QEMU's user network chose for SSH, from QEMU's monitor.
fn ephemeral_ssh_port(domain: &Domain, name: &str) -> Option<Ssh> {
    let hmp = sys::VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP;
    match domain.qemu_monitor_command("info usernet", hmp) {
        Ok(answer) => usernet_port(&answer).map(|port| Ssh { host: "127.0.0.1".into(), port }),
        Err(error) => {
            log::detail(format_args!(
                "cannot read the forwarded port of domain '{name}' from its monitor: {error}"
            ));
            None
        }
    }
}

/// Returns the host port that is forwarded to guest port 22.
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
    fn ssh_port_is_parsed_from_the_monitors_table() {
        let answer = "Hub -1 (net1):\r\n  Protocol[State]    FD  Source Address  Port   \
            Dest. Address  Port RecvQ SendQ\r\n  TCP[HOST_FORWARD]  32               * 43967       \
            10.0.2.15    22     0     0\r\n";
        assert_eq!(usernet_port(answer), Some(43967));
        assert_eq!(usernet_port(""), None);
    }
}
