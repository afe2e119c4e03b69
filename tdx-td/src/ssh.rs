//! `tdx-td ssh`: a shell in the guest, or one command.

use std::ffi::OsString;

use clap::Args;
use common::cli::Context;
use common::exec::Runner;
use common::libvirt::{Context as _, Libvirt, State};
use common::output::Outcome;
use common::{Error, Result};

use crate::definition::Definition;
use crate::domain::DomainItem;
use crate::{names, show};

const EXAMPLES: &str = "Examples:
  tdx-td ssh web1
  tdx-td ssh web1 --login root -- systemctl is-system-running";

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
    /// A command for the guest, after --
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Becomes ssh, connected by whichever way the domain has: a forwarded port, its address, or vsock.
/// Returns only when that fails.
///
/// Errors: `not_found`; `conflict` for a domain that does not run or has no address yet.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    args: SshArgs,
) -> Result<Outcome> {
    let libvirt = connect()?;
    let item = show::one(context, &libvirt, &args.name)?;
    let way = Way::of(&item)?;
    let user = args.login.or(made_user(&libvirt, &args.name)?).map(|user| format!("-l{user}"));
    let identity = args.identity.into_iter().flat_map(|file| [OsString::from("-i"), file]);
    // The guest's keys are known by its UUID: addresses and ports are used again by other guests.
    let options =
        [format!("-oHostKeyAlias={}", item.uuid), "-oStrictHostKeyChecking=accept-new".to_owned()];
    let error = Runner::new("ssh", "openssh-client")
        .args(options)
        .args(user)
        .args(identity)
        .args(way.arguments())
        .args(args.command)
        .exec();
    Err(error)
}

/// The user that `new --user` made in the guest.
fn made_user(libvirt: &Libvirt, name: &str) -> Result<Option<String>> {
    let domain = names::get(libvirt, name)?;
    let text = domain.xml_desc(0).context(format_args!("read domain '{name}'"))?;
    let request = Definition::parse(text)?.metadata.map(|metadata| metadata.request);
    let user = request.into_iter().flatten().find(|(key, _)| key == "user");
    Ok(user.map(|(_, user)| user).filter(|user| !user.is_empty()))
}

/// How to get to a guest's ssh.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    Tcp { host: String, port: u16 },
    Vsock { cid: u32 },
}

impl Way {
    fn of(item: &DomainItem) -> Result<Self> {
        let name = &item.name;
        match (&item.ssh, item.vsock_cid) {
            _ if item.state != State::Running => {
                Err(Error::conflict(format!("domain '{name}' is {}", item.state.as_str()))
                    .hint(format!("tdx-td start {name}")))
            }
            (Some(ssh), _) => Ok(Self::Tcp { host: ssh.host.clone(), port: ssh.port }),
            (None, Some(cid)) => Ok(Self::Vsock { cid }),
            (None, None) => Err(Error::conflict(format!("domain '{name}' has no address yet"))
                .hint("a guest that boots gets one; tdx-td console shows what it does")),
        }
    }

    fn arguments(&self) -> Vec<String> {
        match self {
            Self::Tcp { host, port } => vec!["-p".to_owned(), port.to_string(), host.clone()],
            // Source: socat(1), VSOCK-CONNECT. Guests with systemd 256 listen on vsock port 22.
            Self::Vsock { cid } => vec![
                format!("-oProxyCommand=socat - VSOCK-CONNECT:{cid}:22"),
                format!("vsock-{cid}"),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_is_told_where_to_go() {
        let tcp = Way::Tcp { host: "127.0.0.1".to_owned(), port: 2201 };
        assert_eq!(tcp.arguments(), ["-p", "2201", "127.0.0.1"]);
        let vsock = Way::Vsock { cid: 3 };
        assert_eq!(vsock.arguments(), ["-oProxyCommand=socat - VSOCK-CONNECT:3:22", "vsock-3"]);
    }
}
