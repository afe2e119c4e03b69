//! `tdx-td virsh`: everything libvirt can do that these tools do not wrap.

use std::ffi::OsString;

use clap::Args;
use common::Error;
use common::config::Config;
use common::exec::Runner;
use common::libvirt::ConnectArgs;

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
pub fn run(connect: &ConnectArgs, config: &Config, args: VirshArgs) -> Error {
    on(connect, config).args(args.arguments).exec()
}

/// virsh on the same connection as the tools.
pub(crate) fn on(connect: &ConnectArgs, config: &Config) -> Runner {
    let uri = connect.connect.as_ref().or(config.connect.as_ref());
    Runner::new("virsh", "libvirt-clients").args(uri.into_iter().flat_map(|uri| ["--connect", uri]))
}
