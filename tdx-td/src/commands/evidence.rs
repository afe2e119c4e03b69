//! `tdx-td evidence`: gets the quote and the event log of a running trust domain.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use common::cli::{Change, Context, interrupt, seconds};
use common::document::output::Outcome;
use common::document::{Action, Document};
use common::libvirt::{Context as _, Libvirt, State};
use common::td_quote::ReportData;
use common::{Error, Result, shell};
use virt::domain::Domain;

use crate::commands::args::names;
use crate::domain::definition::Definition;
use crate::domain::guest_exec::GuestAgent;
use crate::domain::lookup::{self, NamedDomain};
use crate::domain::power;
use crate::evidence::directory::EvidenceDirectory;
use crate::evidence::item::EvidenceItem;
use crate::evidence::report_request::PROVIDER;
use crate::evidence::{event_log, report_request};

/// Arguments of `evidence`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct EvidenceArgs {
    /// Name of the domain; - reads JSON output of tdx-td with one domain from standard input
    #[arg(value_name = "NAME")]
    name: String,
    /// Nonce of the relying party: 1 to 64 bytes in hexadecimal digits, padded with zero bytes at the end to
    /// the 64 bytes of report data
    #[arg(long, value_name = "HEX")]
    nonce: ReportData,
    /// Directory for quote.bin and ccel.bin; created if absent
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Maximum time for the guest agent, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = seconds())]
    timeout: u64,
    #[command(flatten)]
    change: Change,
}

const HELP: &str = "Files:
  quote.bin  the quote, whose report data is the nonce. Its signature is not verified.
  ccel.bin   the event log of the guest's firmware (ACPI table CCEL); only if the guest has it

  Existing files are never replaced. A quote with the same report is kept. If a file has other
  content, the command exits 5: choose another directory.

Guest:
  The guest needs Linux 6.7 or newer with the module tdx_guest, and qemu-guest-agent. The agent
  must allow guest-exec and guest-exec-status, which Fedora and RHEL block in
  /etc/sysconfig/qemu-ga. The domain needs a quote generation service (tdx-td new --qgs).
  The tests of this command ran in a guest that emulates the kernel's interface. No test has
  used TDX hardware.

Examples:
  tdx-td evidence vault --nonce $NONCE --out evidence   # NONCE comes from the verifier
  tdx-td evidence vault --nonce 00ff --out evidence --timeout 120";

/// Gets the evidence of a domain and writes it into a directory.
///
/// Errors: `not_found`; `conflict` for a domain that does not run or whose agent is not connected, and for existing
/// files with other content; `unsupported` for a guest that lacks a requirement; `failed`; `interrupted`.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    args: EvidenceArgs,
) -> Result<Outcome> {
    let named = only(names::read(vec![args.name])?)?;
    let directory = EvidenceDirectory::new(&args.out)?;
    let libvirt = connect()?;
    interrupt::guard();
    let domain = named.get(&libvirt, context.host_name().as_deref())?;
    let name = named.name.as_str();
    expect_agent(&domain, name)?;
    let agent = GuestAgent::new(&domain, name, Duration::from_secs(args.timeout));
    agent.check()?;
    let has_quote = directory.has_quote_for(&args.nonce)?;
    let mut item = EvidenceItem {
        name: name.to_owned(),
        uuid: lookup::uuid(&domain)?,
        quote_path: directory.quote_path().display().to_string(),
        quote_size_bytes: None,
        ccel_path: None,
        ccel_size_bytes: None,
        report_data: common::text::hex(args.nonce.0),
        provider: None,
        action: if has_quote { Action::None } else { Action::Create },
    };
    let mut warnings = Vec::new();
    if !args.change.dry_run {
        let quote = report_request::quote(&agent, name, &args.nonce)?;
        let log = event_log::read(&agent, name)?;
        interrupt::check()?;
        let is_written = directory.write(&quote, log.as_deref())?;
        item.action = if is_written { Action::Create } else { Action::None };
        item.provider = Some(PROVIDER.to_owned());
        item.quote_size_bytes = Some(directory.quote_size()?);
        item.ccel_size_bytes = log.as_ref().map(|log| log.len() as u64);
        item.ccel_path = log.as_ref().map(|_| directory.log_path().display().to_string());
        if log.is_none() {
            warnings
                .push(format!("the guest of domain '{name}' has no event log (ACPI table CCEL)"));
        }
    }
    Ok(Document::new("tdx.td.evidence", vec![item])
        .dry_run(args.change.dry_run)
        .warnings(warnings)
        .into())
}

/// Returns the only domain.
///
/// Errors: `invalid_input` for several items on standard input.
fn only(named: Vec<NamedDomain>) -> Result<NamedDomain> {
    let count = named.len();
    let mut named = named.into_iter();
    match (named.next(), count) {
        (Some(one), 1) => Ok(one),
        _ => Err(Error::invalid_input(format!("expected one domain, found {count}"))
            .hint("a nonce is for one quote: run the command once for each domain")),
    }
}

/// Fails unless a domain runs and its guest agent is connected.
///
/// Errors: `conflict`.
fn expect_agent(domain: &Domain, name: &str) -> Result<()> {
    let state = power::state(domain, name)?;
    if state != State::Running {
        let message = format!("domain '{name}' is {}, expected running", state.as_str());
        return Err(
            Error::conflict(message).hint(format!("run tdx-td start {}", shell::quote(name)))
        );
    }
    let xml = domain.xml_desc(0).context(format_args!("read domain '{name}'"))?;
    if Definition::parse(xml)?.has_agent() {
        return Ok(());
    }
    Err(Error::conflict(format!("the guest agent of domain '{name}' is not connected")).hint(
        "install and start qemu-guest-agent in the guest; the domain needs a channel \
         org.qemu.guest_agent.0, which tdx-td new adds",
    ))
}
