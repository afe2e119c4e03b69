//! `tdx-td host check`: checks whether guests of a kind can run on this host, and says how to fix what fails.

use std::path::PathBuf;

use clap::Args;
use common::Result;
use common::cli::Context;
use common::document::Document;
use common::document::output::Outcome;
use common::libvirt::Libvirt;

use crate::host::check::facts::Facts;
use crate::host::check::facts::libvirt::LibvirtFacts;
use crate::host::check::guest_kind::GuestKind;
use crate::host::check::item::{CheckItem, Status};
use crate::host::check::judge::{best_kind, judge};

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// Kind of guest to check for (repeatable) [default: the best protection that processors of this
    /// vendor have]
    #[arg(long = "for", value_enum, value_name = "KIND")]
    kinds: Vec<GuestKind>,
    /// Read the domain capabilities from this file, the output of virsh domcapabilities, instead of
    /// from libvirt
    #[arg(long, value_name = "FILE")]
    capabilities: Option<PathBuf>,
    /// In a table, also show the checks that passed or do not apply
    #[arg(long)]
    all: bool,
}

const EXAMPLES: &str = "Examples:
  tdx-td host check
  tdx-td host check --for tdx --for vfio && make guests
  tdx-td host check --json | jq -r '.items[] | select(.status==\"fail\") | .fix'
  tdx-td host check --sysroot captured --capabilities domcapabilities.xml";

/// Returns the last line of a table that does not show `count` checks.
fn closing(count: usize) -> Option<String> {
    match count {
        0 => None,
        1 => Some("1 more check passed or does not apply (--all shows it)".to_owned()),
        _ => Some(format!("{count} more checks passed or do not apply (--all shows them)")),
    }
}

/// Checks the host. The answer is yes if no check failed.
///
/// Errors: `not_found` if the file of `--capabilities` does not exist.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    may_ask: bool,
    args: &CheckArgs,
) -> Result<Outcome> {
    context.host.expect_machine()?;
    let asked = LibvirtFacts::read(connect, may_ask, args.capabilities.as_deref())?;
    let facts = Facts::read(&context.host, asked);
    let mut warnings = Vec::new();
    let mut kinds = args.kinds.clone();
    if kinds.is_empty() {
        let best = best_kind(&facts);
        warnings.push(format!(
            "--for was not given: this host was checked for guests of kind {}",
            best.name()
        ));
        kinds.push(best);
    }
    let items = judge(&facts, &kinds);
    let yes = !items.iter().any(CheckItem::is_failure);
    let mut document = Document::new("tdx.td.host_check", items).warnings(warnings);
    if !args.all {
        let passed = |item: &CheckItem| matches!(item.status, Status::Ok | Status::NotApplicable);
        document = document.fold(passed, closing);
    }
    Ok(Outcome::answer(document, yes))
}
