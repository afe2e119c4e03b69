//! `tdx-td console`: the guest's serial console.

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
    /// The domain
    #[arg(value_name = "NAME")]
    name: String,
    /// Take the console over from whoever has it
    #[arg(long)]
    force: bool,
}

/// Becomes `virsh console`, which is left with Ctrl-]. Returns only when that fails.
pub fn run(target: &Target, args: ConsoleArgs) -> Error {
    virsh::on(target)
        .args(["console"])
        .args(args.force.then_some("--force"))
        .args(["--domain", &args.name])
        .exec()
}
