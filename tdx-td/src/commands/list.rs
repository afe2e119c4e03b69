//! `tdx-td list`: lists all domains with their addresses.

use clap::Args;
use common::cli::Context;
use common::document::Document;
use common::document::output::Outcome;
use common::libvirt::{Libvirt, State};
use common::{Result, parallel};
use virt::domain::Domain;

use crate::domain::observer::{ObservedDomain, Observer, ask_agents};

const ADDRESSES: &str = "Addresses:
  tdx-td list takes addresses from DHCP leases and this host's ARP table. If neither the leases nor
  the table has an address of a running domain, tdx-td list asks the guest agent of that domain.
  tdx-td list stops waiting for guest agents when no answer has arrived for one second, and after
  five seconds in any case. tdx-td show asks every connected guest agent.
  Addresses of interfaces that are not in the domain's definition, and addresses of this host, are
  only in other_addresses of the JSON document.

Examples:
  tdx-td list
  tdx-td list --json | jq -r '.items[] | select(.ip) | [.name, .ip] | @tsv'";

/// Arguments of `list`.
#[derive(Debug, Args)]
#[command(after_help = ADDRESSES)]
pub struct ListArgs {}

/// Lists every domain, running or not.
pub fn run(context: &Context, libvirt: &Libvirt, _: ListArgs) -> Result<Outcome> {
    let observer = || Observer::new(&context.host, libvirt);
    let (domains, observer) = parallel::both(|| libvirt.domains(), observer);
    let (domains, observer) = (domains?, observer?);
    let read = |(domain, state): (Domain, State)| observer.observe(&domain, state);
    let observed: Result<Vec<_>> =
        parallel::map(domains, parallel::DOMAINS, read).into_iter().collect();
    let mut observed: Vec<_> = observed?.into_iter().flatten().collect();
    ask_agents(&mut observed, ObservedDomain::needs_agent);
    let items = observed.into_iter().map(ObservedDomain::into_item).collect();
    Ok(Document::new("tdx.td.domains", items).into())
}
