//! `tdx-td delete`: domains are gone, with their own disks and nothing else.

use std::collections::HashSet;
use std::time::Duration;

use clap::Args;
use common::cli::{Change, Context, seconds};
use common::document::{Action, Document};
use common::host::Host;
use common::libvirt::{Context as _, Libvirt, is_gone};
use common::output::Outcome;
use common::{Result, interrupt, parallel};
use tdx_pool::usage::{Chains, Usage};

use crate::definition::Definition;
use crate::names;
use crate::removal::{Plan, Removal, delete_files};

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Domains by name, or - for items with a name on standard input
    #[arg(value_name = "NAME", required_unless_present = "all")]
    names: Vec<String>,
    /// Every domain made by these tools or the original tdvirsh
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Also domains made by others: their definition goes, their disks stay
    #[arg(long)]
    foreign: bool,
    /// How long to wait for a guest to shut itself down before it is ended
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = seconds())]
    timeout: u64,
    #[command(flatten)]
    change: Change,
}

/// Shuts each domain down, removes its definition, then its own files; all at once.
///
/// Errors: `conflict` (exit 5) for a domain of others without `--foreign`. One refusal does not keep
/// the others.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    args: DeleteArgs,
) -> Result<Outcome> {
    let named = names::read(args.names)?;
    let libvirt = connect()?;
    interrupt::guard();
    let wanted = if args.all { managed(&libvirt)? } else { named };
    let plans = plan(&context.host, &libvirt, wanted, args.foreign)?;
    let there: Vec<&str> = plans.iter().flatten().filter_map(Plan::target).collect();
    if !there.is_empty() {
        context.confirm(args.change, &format!("delete {}?", there.join(", ")))?;
    }
    let dry_run = args.change.dry_run;
    let timeout = Duration::from_secs(args.timeout);
    let apply = |plan: Result<Plan>| match plan? {
        plan if dry_run => Ok(plan.imagined()),
        plan => interrupt::check().and_then(|()| plan.apply(&context.host, &libvirt, timeout)),
    };
    let mut removals = parallel::map(plans, parallel::GUESTS, apply);
    let warnings = settle_shared(&libvirt, &mut removals, dry_run);
    let applied = |removal: &Removal| {
        let changed = removal.item.action != Action::NONE && !dry_run;
        changed.then(|| format!("deleted domain '{}'", removal.item.name))
    };
    let removals = parallel::settle(removals, applied)?;
    let items = removals.into_iter().map(|removal| removal.item).collect();
    Ok(Document::new("tdx.td.delete", items).dry_run(dry_run).warnings(warnings).into())
}

/// The names of all domains that these tools or the original script made.
fn managed(libvirt: &Libvirt) -> Result<Vec<String>> {
    let domains = libvirt.connect().list_all_domains(0).context("list domains")?;
    let name = |domain: virt::domain::Domain| match domain.xml_desc(0) {
        Err(error) if is_gone(&error) => Ok(None),
        text => {
            let definition = Definition::parse(text.context("read a domain")?)?;
            Ok(definition.is_managed().then(|| definition.name()))
        }
    };
    let names: Result<Vec<_>> =
        parallel::map(domains, parallel::DOMAINS, name).into_iter().collect();
    Ok(names?.into_iter().flatten().collect())
}

/// What is to be done for each name, or why it cannot be.
fn plan(
    host: &Host,
    libvirt: &Libvirt,
    wanted: Vec<String>,
    foreign: bool,
) -> Result<Vec<Result<Plan>>> {
    let mut found = Vec::with_capacity(wanted.len());
    for name in wanted {
        let domain = names::find(libvirt, &name)?;
        found.push((name, domain));
    }
    let mut chains = Chains::visible(libvirt);
    let usage = match found.iter().any(|(_, domain)| domain.is_some()) {
        true => Usage::collect(libvirt, &mut chains)?,
        false => Usage::default(),
    };
    let plan = |(name, domain)| match domain {
        None => Plan::absent(host, libvirt, name),
        Some(domain) => Plan::new(host, libvirt, name, domain, foreign, &mut chains, &usage),
    };
    Ok(found.into_iter().map(plan).collect())
}

/// Deletes what only domains that are now gone had in common; returns a warning for what others need.
fn settle_shared(
    libvirt: &Libvirt,
    removals: &mut [Result<Removal>],
    dry_run: bool,
) -> Vec<String> {
    let gone: HashSet<String> = removals.iter().flatten().map(|r| r.item.name.clone()).collect();
    let mut warnings = Vec::new();
    let mut seen = HashSet::new();
    for slot in removals {
        let Ok(removal) = slot else { continue };
        let mut delete = Vec::new();
        for (file, users) in std::mem::take(&mut removal.shared) {
            if users.iter().all(|user| gone.contains(user)) {
                delete.extend(seen.insert(file.clone()).then_some(file));
            } else {
                let (file, users) = (file.display(), users.join(", "));
                warnings.push(format!("{file} is kept: {users} needs it too"));
            }
        }
        let deleted = match dry_run {
            true => Ok(delete.iter().map(|file| file.display().to_string()).collect()),
            false => delete_files(libvirt, &removal.item.name, delete),
        };
        match deleted {
            Ok(deleted) => removal.item.deleted.extend::<Vec<String>>(deleted),
            Err(error) => *slot = Err(error),
        }
    }
    warnings
}
