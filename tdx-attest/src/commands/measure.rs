//! `tdx-attest measure`: predicts the registers of a trust domain before it starts.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::PossibleValuesParser;
use common::cli::Context;
use common::document::Document;
use common::document::input::STDIN;
use common::document::output::Outcome;
use common::{Error, ErrorKind, Result};

use crate::domain::{Definition, Source, TrustDomain};
use crate::measurement::predict;
use crate::tdvf::{PageOrder, Tdvf};

const EXAMPLES: &str = "Examples:
  tdx-td render -i guest.qcow2 | tdx-attest measure - >expected.json
  tdx-td show td1 | tdx-attest measure - --events
  virsh dumpxml td1 | tdx-attest measure - --format table
  tdx-attest measure --xml td1.xml --firmware OVMF.inteltdx.ms.fd --page-order section";

/// Arguments of `measure`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct MeasureArgs {
    /// Read the JSON output of tdx-td render or show, or a libvirt domain XML, from standard input
    #[arg(value_name = "-", value_parser = PossibleValuesParser::new([STDIN]), hide_possible_values = true)]
    #[arg(required_unless_present = "xml")]
    input: Option<String>,
    /// Read the libvirt domain XML in FILE
    #[arg(long, value_name = "FILE", conflicts_with = "input")]
    xml: Option<PathBuf>,
    /// Firmware of the trust domain, instead of the file that the definition names
    #[arg(long, value_name = "FILE")]
    firmware: Option<PathBuf>,
    /// Order in which the host adds and measures the pages of the firmware. MRTD depends on it
    #[arg(long, value_enum, value_name = "page|section", default_value = "page")]
    page_order: PageOrder,
    /// Include the events that are measured into each register, as far as they are predicted
    #[arg(long)]
    events: bool,
}

/// Predicts the registers.
///
/// Errors: those of [`Definition::read`], [`TrustDomain::parse`] and [`Tdvf::read`]; `invalid_input` for a definition
/// that names no firmware.
pub fn run(_: &Context, args: MeasureArgs) -> Result<Outcome> {
    let source = match args.xml {
        Some(path) if path != Path::new(STDIN) => Source::File(path),
        _ => Source::Stdin,
    };
    if args.firmware.as_deref() == Some(Path::new(STDIN)) {
        return Err(Error::usage("--firmware cannot be read from standard input"));
    }
    let definition = Definition::read(&source)?;
    let domain = TrustDomain::parse(&definition.xml)?;
    let (path, firmware) = match args.firmware {
        Some(path) => (path.clone(), Tdvf::read(&path)?),
        None => named_firmware(&domain, definition.firmware)?,
    };
    let mut items = predict(&domain, &firmware, &path, args.page_order);
    if !args.events {
        items.iter_mut().for_each(|item| item.events.clear());
    }
    let debug =
        "the attribute DEBUG allows the host to read the memory of the trust domain".to_owned();
    let warnings = domain.attributes.has_debug().then_some(debug);
    Ok(Document::new("tdx.attest.measurements", items).warnings(warnings).into())
}

/// Reads the firmware that the document resolved, or that the definition names.
fn named_firmware(domain: &TrustDomain, resolved: Option<PathBuf>) -> Result<(PathBuf, Tdvf)> {
    let hint = "add --firmware FILE with a copy of the file that the host loads";
    let path = resolved.or_else(|| domain.firmware.clone()).ok_or_else(|| {
        Error::invalid_input(format!(
            "the definition of domain '{}' names no firmware",
            domain.name
        ))
        .hint(hint)
    })?;
    let firmware = Tdvf::read(&path).map_err(|error| match error.kind() {
        // The path is one of the host that runs the domain.
        ErrorKind::NotFound => error.hint(hint),
        _ => error,
    })?;
    Ok((path, firmware))
}
