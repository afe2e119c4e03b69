//! Waiting until a guest can be reached.

use std::io::Read;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use common::cli::{Context, interrupt};
use common::libvirt::{Libvirt, State};
use common::{Error, Result};

use crate::domain::addresses::agent::{Inquiry, Question};
use crate::domain::item::{DomainItem, Ssh};
use crate::domain::observer::{ObservedDomain, Observer};
use crate::domain::ssh_target::SshTarget;
use crate::domain::{lookup, power};

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sign {
    /// An address of one of the guest's network cards is known; tdx-td show lists it
    Ip,
    /// An SSH server answers at the address, or forwarded port, that tdx-td ssh would use
    Ssh,
    /// The guest agent answers
    Agent,
}

/// Interval between two checks.
const POLL: Duration = Duration::from_millis(250);

/// Waits for `sign` and returns the domain.
///
/// Addresses come from the same sources as in `list`, including the guest agent.
///
/// Errors: `failed` if the time is up or the guest stops running; `unsupported` for an SSH server that can be
/// reached only from the domain's own host; `interrupted`.
pub fn until(
    context: &Context,
    libvirt: &Libvirt,
    name: &str,
    sign: Sign,
    timeout: Duration,
) -> Result<DomainItem> {
    let end = Instant::now() + timeout;
    let domain = lookup::get(libvirt, name)?;
    let mut agent = AgentPoll::default();
    loop {
        let state = power::state(&domain, name)?;
        if state != State::Running {
            return Err(Error::failed(format!(
                "domain '{name}' became {} during --wait",
                state.as_str()
            )));
        }
        let observer = Observer::new(&context.host, libvirt)?;
        let observed = observer.observe(&domain, state)?.ok_or_else(|| lookup::not_found(name))?;
        let (item, agent_answers) = agent.look(observed, sign);
        let is_seen = match sign {
            Sign::Ip => item.ip.is_some(),
            Sign::Agent => agent_answers,
            Sign::Ssh => match &item.ssh {
                None => false,
                Some(ssh) => {
                    SshTarget::for_domain(&item)?.expect_in_reach(context, libvirt, name)?;
                    greets(ssh)
                }
            },
        };
        if is_seen {
            return Ok(item);
        }
        if Instant::now() >= end {
            return Err(timed_out(name, sign, timeout));
        }
        interrupt::sleep(POLL)?;
    }
}

fn timed_out(name: &str, sign: Sign, timeout: Duration) -> Error {
    let (lacking, needs) = match sign {
        Sign::Ip => ("the guest has no address", "ask for an address by DHCP"),
        Sign::Ssh => ("the guest's SSH server does not answer", "start an SSH server"),
        Sign::Agent => ("the guest agent does not answer", "start qemu-guest-agent"),
    };
    Error::failed(format!("domain '{name}': {lacking} after {} s", timeout.as_secs())).hint(
        format!("to see the boot messages, run tdx-td console {name}; the guest must {needs}"),
    )
}

/// Asks a guest agent repeatedly, one question at a time, without waiting for the answer: an agent that hangs
/// must not exceed the time limit.
#[derive(Debug, Default)]
struct AgentPoll {
    inquiry: Option<Inquiry>,
}

impl AgentPoll {
    /// Returns the domain with the agent's answer since the last call, and whether the agent answered.
    fn look(&mut self, mut observed: ObservedDomain<'_>, sign: Sign) -> (DomainItem, bool) {
        let answer = self.inquiry.as_mut().and_then(Inquiry::poll);
        if answer.is_some() {
            self.inquiry = None;
        }
        let answer = answer.flatten();
        let (question, is_wanted) = match sign {
            Sign::Agent => (Question::Ping, observed.has_agent()),
            Sign::Ip | Sign::Ssh => (Question::Interfaces, observed.needs_agent()),
        };
        let answers = answer.is_some();
        if let Some(answer) = answer.filter(|_| question == Question::Interfaces) {
            observed.add_report(&answer);
        } else if is_wanted && self.inquiry.is_none() {
            self.inquiry = Some(observed.ask_agent(question));
        }
        (observed.into_item(), answers)
    }
}

/// Whether an SSH server sends its greeting. A forwarded port alone accepts connections before the guest has
/// booted.
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
    fn greets_is_true_only_for_an_ssh_server() {
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
