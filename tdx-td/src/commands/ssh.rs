//! `tdx-td ssh`: a shell in the guest, or one command.

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
  ssh uses the port that the host forwards to the guest's SSH server, else an address of a network
  card in the domain's definition, else vsock. It connects to no other address that the guest agent
  reports, and to none of this host, unless --address names it. tdx-td show lists them all.

Examples:
  tdx-td ssh web1
  tdx-td ssh web1 --login root -- systemctl is-system-running
  tdx-td ssh web1 --address 10.8.0.2";

/// Arguments of `ssh`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SshArgs {
    /// The domain
    #[arg(value_name = "NAME")]
    name: String,
    /// Log in as this user [default: the one that new --user made, else ssh's own]
    #[arg(short, long)]
    login: Option<String>,
    /// The private key to log in with
    #[arg(short, long, value_name = "FILE")]
    identity: Option<OsString>,
    /// Connect to port 22 of this address or host name, whatever is known of the domain
    #[arg(short, long, value_parser = parse_address)]
    address: Option<String>,
    /// A command for the guest, after --
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Becomes ssh, connected by whichever way the domain has: a forwarded port, its address, or vsock.
/// Returns only when that fails.
///
/// Errors: `not_found`; `conflict` for a domain that does not run or has no address yet; `unsupported`
/// for one that can only be reached from its own host.
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
    // The guest's keys are known by its UUID: addresses and ports are used again by other guests.
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

/// The user that `new --user` made in the guest.
fn made_user(libvirt: &Libvirt, name: &str) -> Result<Option<String>> {
    let domain = lookup::get(libvirt, name)?;
    let text = domain.xml_desc(0).context(format_args!("read domain '{name}'"))?;
    let request = Definition::parse(text)?.metadata.map(|metadata| metadata.request);
    let user = request.into_iter().flatten().find(|(key, _)| key == "user");
    Ok(user.map(|(_, user)| user).filter(|user| !user.is_empty()))
}

/// Where to connect to: the address that the user names, else what is known of the domain.
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
