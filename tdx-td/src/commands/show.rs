//! `tdx-td show`: shows all details of domains.

use std::collections::HashMap;

use clap::Args;
use common::cli::Context;
use common::document::Document;
use common::document::output::Outcome;
use common::libvirt::{Libvirt, State};
use common::{Result, parallel};
use virt::domain::Domain;

use crate::commands::args::names::NameArgs;
use crate::domain::item::DomainItem;
use crate::domain::lookup::NamedDomain;
use crate::domain::observer::{ObservedDomain, Observer, ask_agents};
use crate::domain::{definition, lookup};
use crate::security::attestation::Attestation;

/// Arguments of `show`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ShowArgs {
    #[command(flatten)]
    names: NameArgs,
    /// Verify the launch measurement of AMD SEV and SEV-ES guests; the result is in the key "attested"
    /// of the JSON output
    #[arg(long)]
    attest: bool,
}

const EXAMPLES: &str = "Examples:
  tdx-td show web1
  tdx-td show --attest vault1 | jq '.items[].attested'
  tdx-td show td1 | tdx-attest measure -";

/// Shows the named domains, with the addresses that their guest agents report.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    args: ShowArgs,
) -> Result<Outcome> {
    let wanted = args.names.read()?;
    let libvirt = connect()?;
    let named = |(domain, state): (Domain, State)| Some((domain.name().ok()?, (domain, state)));
    let domains: HashMap<_, _> = libvirt.domains()?.into_iter().filter_map(named).collect();
    let observer = Observer::new(&context.host, &libvirt)?.keep_xml();
    let host_name = context.host_name();
    let show = |named: NamedDomain| {
        let found = domains.get(&named.name);
        named.compare(found.map(|(domain, _)| domain), host_name.as_deref())?;
        let name = named.name;
        let (domain, state) = found.ok_or_else(|| lookup::not_found(&name))?;
        let observed = observer.observe(domain, *state)?.ok_or_else(|| lookup::not_found(&name))?;
        let attested = if args.attest { attest(context, &libvirt, domain, &name)? } else { None };
        Ok((observed, attested))
    };
    let shown = parallel::settle(parallel::map(wanted, parallel::GUESTS, show), |_| None)?;
    let (mut observed, attested): (Vec<_>, Vec<_>) = shown.into_iter().unzip();
    ask_agents(&mut observed, ObservedDomain::has_agent);
    let items = observed.into_iter().zip(attested);
    let items = items.map(|(one, attested)| DomainItem { attested, ..one.into_item() });
    Ok(Document::new("tdx.td.domains", items.collect()).into())
}

/// Returns whether a running guest's launch measurement is the expected one; `None` if the guest is shut off.
fn attest(
    context: &Context,
    libvirt: &Libvirt,
    domain: &Domain,
    name: &str,
) -> Result<Option<bool>> {
    let definition = definition::inactive(domain, name)?;
    let attestation = Attestation::require(&context.host, libvirt, &definition)?;
    if domain.id().is_none() {
        return Ok(None);
    }
    attestation.check(&definition)?;
    attestation.is_launch_verified(domain).map(Some)
}
