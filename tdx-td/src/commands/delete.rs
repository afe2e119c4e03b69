//! `tdx-td delete`: deletes domains and the disks created for them, and nothing else.

use std::time::Duration;

use clap::Args;
use common::cli::{Change, Context, interrupt, seconds};
use common::document::output::Outcome;
use common::document::{Action, Document};
use common::libvirt::{Context as _, Libvirt, is_gone};
use common::{Result, parallel};
use virt::domain::Domain;
use virt::sys;

use crate::commands::args;
use crate::domain::definition::Definition;
use crate::domain::lookup::NamedDomain;
use crate::remove;
use crate::remove::{RemovalPlan, RemovedDomain};

const EXAMPLES: &str = "Examples:
  tdx-td delete web1 --dry-run
  tdx-td delete web1 --yes
  tdx-td delete --all --timeout 10
  tdx-td list --json | jq '.items[] | select(.state==\"shut off\")' | tdx-td delete - --yes";

/// Arguments of `delete`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DeleteArgs {
    /// Names of domains; - reads JSON output of tdx-td, such as that of tdx-td list, from standard input
    #[arg(value_name = "NAME", required_unless_present = "all")]
    names: Vec<String>,
    /// Delete all domains that these tools or the original tdvirsh created
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Also delete domains that other programs created: their definitions only, never their disks
    #[arg(long)]
    foreign: bool,
    /// Maximum time to wait for a guest to shut down, in seconds; then the guest is forced off
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = seconds())]
    timeout: u64,
    #[command(flatten)]
    change: Change,
}

/// Shuts each domain down, removes its definition, then deletes its own files. All domains are deleted in
/// parallel.
///
/// Errors: `conflict` (exit 5) for a domain that other programs created, without `--foreign`. The other
/// domains are deleted nevertheless.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    args: DeleteArgs,
) -> Result<Outcome> {
    let named = args::names::read(args.names)?;
    let libvirt = connect()?;
    interrupt::guard();
    let wanted = if args.all { managed(&libvirt)? } else { named };
    let (host, host_name) = (&context.host, context.host_name());
    let plan = |named: NamedDomain| {
        let domain = named.find(&libvirt, host_name.as_deref())?;
        RemovalPlan::new(host, &libvirt, named.name, domain, args.foreign)
    };
    let plans: Vec<Result<RemovalPlan>> = wanted.into_iter().map(plan).collect();
    let existing: Vec<&str> = plans.iter().flatten().filter_map(RemovalPlan::target).collect();
    if !existing.is_empty() {
        context.confirm(args.change, &format!("delete {}?", existing.join(", ")))?;
    }
    let dry_run = args.change.dry_run;
    let removals = if dry_run {
        remove::preview(&libvirt, plans)?
    } else {
        remove::delete(host, &libvirt, plans, Duration::from_secs(args.timeout))
    };
    let applied = |removal: &RemovedDomain| {
        let changed = removal.item.action != Action::None && !dry_run;
        changed.then(|| format!("deleted domain '{}'", removal.item.name))
    };
    let removals = parallel::settle(removals, applied)?;
    let warnings: Vec<String> =
        removals.iter().flat_map(|removal| removal.warnings.clone()).collect();
    let items = removals.into_iter().map(|removal| removal.item).collect();
    Ok(Document::new("tdx.td.delete", items).dry_run(dry_run).warnings(warnings).into())
}

/// Returns the names of all domains that these tools or the original script created.
fn managed(libvirt: &Libvirt) -> Result<Vec<NamedDomain>> {
    let domains = libvirt.connect().list_all_domains(0).context("list domains")?;
    let name = |domain: Domain| match domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE) {
        Err(error) if is_gone(&error) => Ok(None),
        text => {
            let name = domain.name().unwrap_or_default();
            let doing = format_args!("read the definition of domain '{name}'");
            let definition = Definition::parse(text.context(doing)?)?;
            Ok(definition.is_managed().then(|| definition.name()))
        }
    };
    let names: Result<Vec<_>> =
        parallel::map(domains, parallel::DOMAINS, name).into_iter().collect();
    Ok(names?.into_iter().flatten().map(NamedDomain::from).collect())
}
