//! Asking guest agents. A guest controls its answer, and may not answer at all.

use std::net::IpAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use virt::domain::Domain;

use crate::domain::addresses::mac::canonical_mac;

/// The longest wait for the next answer.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// The longest wait for all agents together.
const LIMIT: Duration = Duration::from_secs(5);

/// The number of agents that are asked in parallel.
const AT_ONCE: usize = 16;

/// Seconds that libvirt waits for an agent's answer after the agent has synchronised, for which
/// libvirt waits five more seconds. libvirt's own call for addresses has no time limit.
const ANSWER_TIMEOUT: i32 = 1;

/// A question to a guest agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Which network interfaces the guest has.
    Interfaces,
    /// Whether the agent answers.
    Ping,
}

impl Question {
    /// Returns the command of the protocol. Source: QEMU guest agent protocol reference.
    fn command(self) -> &'static str {
        match self {
            Self::Interfaces => r#"{"execute":"guest-network-get-interfaces"}"#,
            Self::Ping => r#"{"execute":"guest-ping"}"#,
        }
    }
}

/// One question to the agents of some domains.
///
/// libvirt may wait for a guest agent much longer than a caller wants to. So the questions are asked in detached
/// threads, which end with their call or with the process.
#[derive(Debug)]
pub struct Inquiry {
    answers: Receiver<(usize, Option<String>)>,
    open: usize,
}

impl Inquiry {
    /// Starts the inquiry. An agent should not be asked again before the inquiry is over: libvirtd
    /// serves only a few calls of one client at a time.
    pub fn start(domains: Vec<Domain>, question: Question) -> Self {
        let (sender, answers) = channel();
        let open = domains.len();
        let queue = Arc::new(Mutex::new(domains.into_iter().enumerate()));
        for _ in 0..open.min(AT_ONCE) {
            let (queue, sender) = (Arc::clone(&queue), sender.clone());
            let next = move || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            // If the thread cannot be started, the agent counts as one that does not answer.
            let _ = thread::Builder::new().spawn(move || ask_all(next, question, &sender));
        }
        Self { answers, open }
    }

    /// Passes the answers to `take` as they come, with the index of the domain, until all have come
    /// or none has come for [`PATIENCE`].
    pub fn collect(mut self, mut take: impl FnMut(usize, &str)) {
        let end = Instant::now() + LIMIT;
        while self.open > 0 {
            let left = end.saturating_duration_since(Instant::now()).min(PATIENCE);
            let Ok((index, answer)) = self.answers.recv_timeout(left) else { return };
            self.open -= 1;
            if let Some(answer) = answer {
                take(index, &answer);
            }
        }
    }

    /// Returns the next answer, if one has come, without waiting; `Some(None)` if an agent could not be asked.
    pub fn poll(&mut self) -> Option<Option<String>> {
        match self.answers.try_recv() {
            Ok((_, answer)) => Some(answer),
            Err(std::sync::mpsc::TryRecvError::Empty) => None,
            Err(std::sync::mpsc::TryRecvError::Disconnected) => Some(None),
        }
    }
}

fn ask_all(
    next: impl Fn() -> Option<(usize, Domain)>,
    question: Question,
    answers: &Sender<(usize, Option<String>)>,
) {
    while let Some((index, domain)) = next() {
        let answer = domain.qemu_agent_command(question.command(), ANSWER_TIMEOUT, 0).ok();
        if answers.send((index, answer)).is_err() {
            return; // the receiver is gone
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "return")]
    interfaces: Vec<Interface>,
}

/// A network interface of a guest, as the guest reports it.
#[derive(Debug, Clone, Deserialize)]
pub struct Interface {
    /// Name of the interface in the guest.
    pub name: String,
    #[serde(rename = "hardware-address")]
    mac: Option<String>,
    #[serde(rename = "ip-addresses")]
    addresses: Option<Vec<Address>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Address {
    #[serde(rename = "ip-address")]
    ip: String,
}

impl Interface {
    /// Hardware address of the interface, in libvirt's notation.
    pub fn mac(&self) -> Option<String> {
        self.mac.as_deref().and_then(canonical_mac)
    }

    /// Addresses of the interface. One with a zone (`fe80::1%eth0`) is not valid outside of the guest.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().flatten().filter_map(|address| address.ip.parse().ok())
    }
}

/// Returns the interfaces in an agent's answer; none if the answer violates the protocol.
///
/// Source: QEMU guest agent protocol reference, `guest-network-get-interfaces`.
pub fn interfaces(answer: &str) -> Vec<Interface> {
    serde_json::from_str::<Answer>(answer).map(|answer| answer.interfaces).unwrap_or_default()
}
