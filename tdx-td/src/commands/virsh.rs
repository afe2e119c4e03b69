//! `tdx-td virsh`: runs virsh on the same connection.

use std::ffi::OsString;

use clap::Args;
use common::Error;
use common::libvirt::Target;
use common::system::exec::Runner;

const EXAMPLES: &str = "Examples:
  tdx-td virsh dominfo web1
  tdx-td --host epyc1 virsh net-list --all";

/// Arguments of `virsh`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct VirshArgs {
    /// Arguments for virsh
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// Replaces this process with virsh on the same connection. Returns only if that fails.
pub fn run(target: &Target, args: VirshArgs) -> Error {
    on(target).args(args.arguments).exec()
}

/// Returns a runner of virsh on the connection of the tools.
pub(crate) fn on(target: &Target) -> Runner {
    let uri = target.uri.iter();
    Runner::new("virsh", "libvirt-clients").args(uri.flat_map(|uri| ["--connect", uri]))
}
