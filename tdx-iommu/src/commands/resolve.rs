//! `tdx-iommu resolve`: finds the devices that a passthrough configuration assigns to guests.

use std::path::PathBuf;

use clap::Args;
use common::document::Document;
use common::document::output::Outcome;
use common::system::sysroot::Host;
use common::{Code, Result};

use crate::resolve::passthrough_config;
use crate::resolve::resolution::Resolution;

const EXAMPLES: &str = "Examples:
  tdx-iommu resolve --config passthrough.yaml
  tdx-iommu resolve --config passthrough.yaml | tdx-td hostdevs - --dry-run";

/// Arguments of `resolve`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ResolveArgs {
    /// Path of the passthrough configuration
    #[arg(long, value_name = "FILE", default_value = passthrough_config::DEFAULT_FILE)]
    config: PathBuf,
    /// Only this guest (repeatable)
    #[arg(long, value_name = "NAME")]
    vm: Vec<String>,
    /// Accept devices despite the blocker with this code, as tdx-iommu check prints it (repeatable)
    #[arg(long, value_name = "CODE", value_parser = Code::to_force)]
    force: Vec<Code>,
}

/// Finds the devices and checks whether they can be given to the guests.
pub fn run(host: &Host, args: ResolveArgs) -> Result<Outcome> {
    let Resolution { items, warnings } =
        Resolution::new(host, &args.config, &args.vm, &args.force)?;
    Ok(Document::new("tdx.iommu.resolution", items).warnings(warnings).into())
}
