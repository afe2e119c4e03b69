//! `tdx-iommu resolve`: the devices that a file says guests are to have.

use std::path::PathBuf;

use clap::Args;
use common::document::Document;
use common::document::output::Outcome;
use common::system::sysroot::Host;
use common::{Code, Result};

use crate::resolve::passthrough_config;
use crate::resolve::resolution::Resolution;

/// Arguments of `resolve`.
#[derive(Debug, Args)]
pub struct ResolveArgs {
    /// What guests are to have
    #[arg(long, value_name = "FILE", default_value = passthrough_config::DEFAULT_FILE)]
    config: PathBuf,
    /// Only this guest (repeatable)
    #[arg(long, value_name = "NAME")]
    vm: Vec<String>,
    /// Take a device in spite of this code (repeatable)
    #[arg(long, value_name = "CODE", value_parser = Code::to_force)]
    force: Vec<Code>,
}

/// Finds the devices and judges whether guests can have them.
pub fn run(host: &Host, args: ResolveArgs) -> Result<Outcome> {
    let Resolution { items, warnings } =
        Resolution::new(host, &args.config, &args.vm, &args.force)?;
    Ok(Document::new("tdx.iommu.resolution", items).warnings(warnings).into())
}
