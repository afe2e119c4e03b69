//! `tdx-td ssh`: opens a shell in the guest, or runs one command there.

use std::ffi::OsString;

use clap::Args;
use common::cli::Context;
use common::document::output::Outcome;
use common::libvirt::{Context as _, Libvirt, State};
use common::system::exec::Runner;
use common::{Error, Result};

use crate::domain::definition::Definition;
use crate::domain::item::DomainItem;
use crate::domain::lookup;
use crate::domain::observer::observe_by_name;
use crate::domain::ssh_target::{SshTarget, parse_address};

const EXAMPLES: &str = "Addresses:
  tdx-td ssh connects to the port that the host forwards to the guest's SSH server, otherwise to an
  address of a network card in the domain's definition, otherwise over vsock. To connect to any
  other address, or to an address of this host, pass the address with --address. tdx-td show lists
  all addresses.

Examples:
  tdx-td ssh web1
  tdx-td ssh web1 --login root -- systemctl is-system-running
  tdx-td ssh web1 --address 10.8.0.2";

/// Arguments of `ssh`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SshArgs {
    /// Name of the domain
    #[arg(value_name = "NAME")]
    name: String,
    /// User to log in as [default: the user that tdx-td new --user created, otherwise the default of ssh]
    #[arg(short, long)]
    login: Option<String>,
    /// Private key to log in with
    #[arg(short, long, value_name = "FILE")]
    identity: Option<OsString>,
    /// Connect to port 22 of this address or host name, whatever addresses the domain has
    #[arg(short, long, value_parser = parse_address)]
    address: Option<String>,
    /// Command to run in the guest, after --
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Replaces this process with ssh, connected to a forwarded port, to an address of the domain, or over vsock.
/// Returns only if that fails.
///
/// Errors: `not_found`; `conflict` for a domain that does not run or has no address yet; `unsupported`
/// for a domain that can be reached only from its own host.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    args: SshArgs,
) -> Result<Outcome> {
    let libvirt = connect()?;
    let made_user = made_user(&libvirt, &args.name)?;
    let item = observe_by_name(&context.host, &libvirt, &args.name)?;
    let target = target(context, &libvirt, &item, args.address)?;
    let user = args.login.or(made_user).map(|user| format!("-l{user}"));
    let identity = args.identity.into_iter().flat_map(|file| [OsString::from("-i"), file]);
    // ssh stores the guest's host key under the domain's UUID: other guests reuse addresses and ports.
    let options =
        [format!("-oHostKeyAlias={}", item.uuid), "-oStrictHostKeyChecking=accept-new".to_owned()];
    let error = Runner::new("ssh", "openssh-client")
        .args(options)
        .args(user)
        .args(identity)
        .args(target.arguments())
        .args(args.command)
        .exec();
    Err(error)
}

/// Returns the user that `new --user` created in the guest.
fn made_user(libvirt: &Libvirt, name: &str) -> Result<Option<String>> {
    let domain = lookup::get(libvirt, name)?;
    let text = domain.xml_desc(0).context(format_args!("read domain '{name}'"))?;
    let request = Definition::parse(text)?.metadata.map(|metadata| metadata.request);
    let user = request.into_iter().flatten().find(|(key, _)| key == "user");
    Ok(user.map(|(_, user)| user).filter(|user| !user.is_empty()))
}

/// Returns where to connect to: the address of `--address`, else the domain's.
fn target(
    context: &Context,
    libvirt: &Libvirt,
    item: &DomainItem,
    address: Option<String>,
) -> Result<SshTarget> {
    let name = &item.name;
    if item.state != State::Running {
        let error = Error::conflict(format!("domain '{name}' is {}", item.state.as_str()));
        return Err(error.hint(format!("tdx-td start {name}")));
    }
    if let Some(host) = address {
        return Ok(SshTarget::Tcp { host, port: 22 });
    }
    let target = SshTarget::for_domain(item)?;
    target.expect_in_reach(context, libvirt, name)?;
    Ok(target)
}
