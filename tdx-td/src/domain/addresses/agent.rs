//! Asking guest agents. Every answer is a guest's word, and none may come at all.

use std::net::IpAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use virt::domain::Domain;

use crate::domain::addresses::mac::canonical_mac;

/// How long one agent is waited for before the next one's answer.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// How long all agents together are waited for.
const LIMIT: Duration = Duration::from_secs(5);

/// How many agents are asked at once.
const AT_ONCE: usize = 16;

/// Seconds that libvirt waits for an agent's answer once the agent has synchronised, for which
/// libvirt waits five seconds more. The call that libvirt has for addresses waits without end.
const ANSWER_TIMEOUT: i32 = 1;

/// What is asked of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Which interfaces the guest has.
    Interfaces,
    /// Whether the agent is there.
    Ping,
}

impl Question {
    /// Source: QEMU guest agent protocol reference.
    fn command(self) -> &'static str {
        match self {
            Self::Interfaces => r#"{"execute":"guest-network-get-interfaces"}"#,
            Self::Ping => r#"{"execute":"guest-ping"}"#,
        }
    }
}

/// One question to the agents of some domains.
///
/// libvirt may wait for a guest agent much longer than a caller wants to. So threads ask that nobody
/// waits for: they end with their call, or with the process.
#[derive(Debug)]
pub struct Inquiry {
    answers: Receiver<(usize, Option<String>)>,
    open: usize,
}

impl Inquiry {
    /// Starts to ask. Nobody's agent should be asked again before the inquiry is over: libvirtd
    /// serves only a few calls of one client at a time.
    pub fn start(domains: Vec<Domain>, question: Question) -> Self {
        let (sender, answers) = channel();
        let open = domains.len();
        let queue = Arc::new(Mutex::new(domains.into_iter().enumerate()));
        for _ in 0..open.min(AT_ONCE) {
            let (queue, sender) = (Arc::clone(&queue), sender.clone());
            let next = move || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            // Without a thread there is no answer.
            let _ = thread::Builder::new().spawn(move || ask_all(next, question, &sender));
        }
        Self { answers, open }
    }

    /// Gives `take` the answers as they come, by the domains' places in the list, until all are there
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

    /// What the next agent said, if it has: `Some(None)` when it could not be asked. Waits for nothing.
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
            return; // nobody waits any more
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "return")]
    interfaces: Vec<Interface>,
}

/// A network interface of a guest, as the guest tells.
#[derive(Debug, Clone, Deserialize)]
pub struct Interface {
    /// Its name in the guest.
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
    /// Its hardware address, as libvirt writes them.
    pub fn mac(&self) -> Option<String> {
        self.mac.as_deref().and_then(canonical_mac)
    }

    /// Its addresses. One with a zone (`fe80::1%eth0`) means nothing outside of the guest.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().flatten().filter_map(|address| address.ip.parse().ok())
    }
}

/// The interfaces in an agent's answer; none when it is not of the agent's protocol.
///
/// Source: QEMU guest agent protocol reference, `guest-network-get-interfaces`.
pub fn interfaces(answer: &str) -> Vec<Interface> {
    serde_json::from_str::<Answer>(answer).map(|answer| answer.interfaces).unwrap_or_default()
}
