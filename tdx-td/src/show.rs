//! `tdx-td show`: domains with everything known of them.

use std::collections::HashMap;

use clap::Args;
use common::Result;
use common::cli::Context;
use common::document::Document;
use common::libvirt::{Libvirt, State};
use common::output::Outcome;
use virt::domain::Domain;

use crate::attestation::Attestation;
use crate::domain::DomainItem;
use crate::list::{Observer, complete};
use crate::names::{self, NameArgs, Named};
use crate::{addresses, definition, power};
use common::parallel;

/// Seconds to wait for a guest agent; one that is not there answers never.
const AGENT_TIMEOUT: i32 = 2;

/// Arguments of `show`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ShowArgs {
    #[command(flatten)]
    names: NameArgs,
    /// Measure AMD SEV and SEV-ES guests again, and say whether they are what was to be launched
    #[arg(long)]
    attest: bool,
}

const EXAMPLES: &str = "Examples:
  tdx-td show web1
  tdx-td show --attest vault1 | jq '.items[].attested'";

/// Shows the named domains, asking their guest agents for addresses too.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    args: ShowArgs,
) -> Result<Outcome> {
    let wanted = args.names.read()?;
    let libvirt = connect()?;
    let named = |(domain, state): (Domain, State)| Some((domain.name().ok()?, (domain, state)));
    let domains: HashMap<_, _> = libvirt.domains()?.into_iter().filter_map(named).collect();
    let observer = Observer::new(&context.host, &libvirt)?;
    let host_name = context.host_name();
    let show = |named: Named| {
        let found = domains.get(&named.name);
        named.compare(found.map(|(domain, _)| domain), host_name.as_deref())?;
        let name = named.name;
        let (domain, state) = found.ok_or_else(|| names::absent(&name))?;
        let mut item = observer.item(domain, *state)?.ok_or_else(|| names::absent(&name))?;
        if item.state == State::Running {
            add_agent_addresses(domain, &mut item);
        }
        if args.attest {
            let definition = definition::inactive(domain, &name)?;
            let attestation = Attestation::demanded(&context.host, &libvirt, &definition)?;
            if item.id.is_some() {
                attestation.check(&definition)?;
                item.attested = Some(attestation.is_good(domain)?);
            }
        }
        Ok(item)
    };
    let items = parallel::settle(parallel::map(wanted, parallel::GUESTS, show), |_| None)?;
    Ok(Document::new("tdx.td.domains", items).into())
}

/// One domain with everything known of it.
///
/// Errors: `not_found`.
pub fn one(context: &Context, libvirt: &Libvirt, name: &str) -> Result<DomainItem> {
    let domain = names::get(libvirt, name)?;
    let observer = Observer::new(&context.host, libvirt)?;
    let state = power::state(&domain, name)?;
    let mut item = observer.item(&domain, state)?.ok_or_else(|| names::absent(name))?;
    if item.state == State::Running && item.ip.is_none() {
        add_agent_addresses(&domain, &mut item);
    }
    Ok(item)
}

/// Adds the addresses that the guest itself tells, if it does.
fn add_agent_addresses(domain: &Domain, item: &mut DomainItem) {
    let ask = r#"{"execute":"guest-network-get-interfaces"}"#;
    let answer = domain.qemu_agent_command(ask, AGENT_TIMEOUT, 0).unwrap_or_default();
    for ip in addresses::of_agent(&answer) {
        if !item.ips.contains(&ip) {
            item.ips.push(ip);
        }
    }
    complete(item);
}
