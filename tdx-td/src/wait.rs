//! Waiting until a new guest can be used.

use std::io::Read;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use common::cli::{Context, seconds};
use common::libvirt::{Libvirt, State};
use common::{Error, Result, interrupt};
use virt::domain::Domain;

use crate::domain::{DomainItem, Ssh};
use crate::list::Observer;
use crate::{names, power};

/// What to wait for, and how long.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Waiting")]
pub struct WaitArgs {
    /// Wait until the guest has an address, its ssh answers, or its agent does
    #[arg(long, value_enum, value_name = "ip|ssh|agent")]
    pub wait: Option<Sign>,
    /// How long to wait
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = seconds())]
    #[arg(requires = "wait")]
    pub timeout: u64,
    /// What becomes of a guest that does not come up in time
    #[arg(long, value_enum, value_name = "keep|delete", default_value = "keep", requires = "wait")]
    pub on_timeout: OnTimeout,
}

/// A sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sign {
    /// An address is known
    Ip,
    /// A server greets at the address, or forwarded port, that ssh would use
    Ssh,
    /// The guest agent answers
    Agent,
}

/// What becomes of a guest that does not come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnTimeout {
    /// It stays
    Keep,
    /// It goes, with its disks
    Delete,
}

/// How often to look.
const POLL: Duration = Duration::from_millis(250);

/// Waits for the sign and returns the domain as it then is.
///
/// Errors: `failed` when the time is up or the guest goes off; `interrupted`.
pub fn until(
    context: &Context,
    libvirt: &Libvirt,
    name: &str,
    sign: Sign,
    timeout: Duration,
) -> Result<DomainItem> {
    let end = Instant::now() + timeout;
    let domain = names::get(libvirt, name)?;
    loop {
        let state = power::state(&domain, name)?;
        if state != State::Running {
            return Err(Error::failed(format!(
                "domain '{name}' is {} while it was waited for",
                state.as_str()
            )));
        }
        let observer = Observer::new(&context.host, libvirt)?;
        let item = observer.item(&domain, state)?.ok_or_else(|| names::absent(name))?;
        if is_seen(&domain, &item, sign) {
            return Ok(item);
        }
        if Instant::now() >= end {
            let sign = match sign {
                Sign::Ip => "had no address",
                Sign::Ssh => "did not answer to ssh",
                Sign::Agent => "had no agent that answers",
            };
            return Err(Error::failed(format!(
                "domain '{name}' {sign} within {} s",
                timeout.as_secs()
            ))
            .hint(format!("tdx-td console {name} shows what it does")));
        }
        interrupt::sleep(POLL)?;
    }
}

fn is_seen(domain: &Domain, item: &DomainItem, sign: Sign) -> bool {
    match sign {
        Sign::Ip => item.ip.is_some(),
        Sign::Ssh => item.ssh.as_ref().is_some_and(greets),
        Sign::Agent => domain.qemu_agent_command(r#"{"execute":"guest-ping"}"#, 1, 0).is_ok(),
    }
}

/// Whether an ssh server says hello. A forwarded port alone connects before the guest is up.
///
/// Source: RFC 4253, section 4.2: the server's first line starts with `SSH-`.
fn greets(ssh: &Ssh) -> bool {
    let limit = Duration::from_secs(2);
    let mut addresses = (ssh.host.as_str(), ssh.port).to_socket_addrs().into_iter().flatten();
    addresses.any(|address| {
        let Ok(mut stream) = TcpStream::connect_timeout(&address, limit) else { return false };
        let mut greeting = [0; 4];
        stream.set_read_timeout(Some(limit)).is_ok()
            && stream.read_exact(&mut greeting).is_ok()
            && greeting == *b"SSH-"
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_an_ssh_server_greets() {
        for (greeting, greets_back) in
            [("SSH-2.0-x\r\n", true), ("220 smtp\r\n", false), ("", false)]
        {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = std::thread::spawn(move || {
                listener.accept().unwrap().0.write_all(greeting.as_bytes()).unwrap();
            });
            let ssh = Ssh { host: "127.0.0.1".to_owned(), port };
            assert_eq!(greets(&ssh), greets_back, "{greeting:?}");
            server.join().unwrap();
        }
    }
}
