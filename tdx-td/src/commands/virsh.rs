//! `tdx-td virsh`: everything libvirt can do that these tools do not wrap.

use std::ffi::OsString;

use clap::Args;
use common::Error;
use common::libvirt::Target;
use common::system::exec::Runner;

const EXAMPLES: &str = "Examples:
  tdx-td virsh dominfo web1";

/// Arguments of `virsh`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct VirshArgs {
    /// What virsh is to do
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// Becomes virsh, on the same connection. Returns only when that fails.
pub fn run(target: &Target, args: VirshArgs) -> Error {
    on(target).args(args.arguments).exec()
}

/// virsh on the same connection as the tools.
pub(crate) fn on(target: &Target) -> Runner {
    let uri = target.uri.iter();
    Runner::new("virsh", "libvirt-clients").args(uri.flat_map(|uri| ["--connect", uri]))
}
