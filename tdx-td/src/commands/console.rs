//! `tdx-td console`: opens the guest's serial console.

use clap::Args;
use common::Error;
use common::libvirt::Target;

use crate::commands::virsh;

const EXAMPLES: &str = "Examples:
  tdx-td console web1";

/// Arguments of `console`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ConsoleArgs {
    /// Name of the domain
    #[arg(value_name = "NAME")]
    name: String,
    /// Disconnect other sessions from the console first
    #[arg(long)]
    force: bool,
}

/// Replaces this process with `virsh console`, which Ctrl-] leaves. Returns only if that fails.
pub fn run(target: &Target, args: ConsoleArgs) -> Error {
    virsh::on(target)
        .args(["console"])
        .args(args.force.then_some("--force"))
        .args(["--domain", &args.name])
        .exec()
}
