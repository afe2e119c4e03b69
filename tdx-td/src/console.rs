//! `tdx-td console`: the guest's serial console.

use clap::Args;
use common::Error;
use common::config::Config;
use common::exec::Runner;
use common::libvirt::ConnectArgs;

/// Arguments of `console`.
#[derive(Debug, Args)]
pub struct ConsoleArgs {
    /// The domain
    #[arg(value_name = "NAME")]
    name: String,
    /// Take the console over from whoever has it
    #[arg(long)]
    force: bool,
}

/// Becomes `virsh console`, which is left with Ctrl-]. Returns only when that fails.
pub fn run(connect: &ConnectArgs, config: &Config, args: ConsoleArgs) -> Error {
    let uri = connect.connect.as_ref().or(config.connect.as_ref());
    Runner::new("virsh", "libvirt-clients")
        .args(uri.into_iter().flat_map(|uri| ["--connect", uri]))
        .args(["console"])
        .args(args.force.then_some("--force"))
        .args(["--domain", &args.name])
        .exec()
}
