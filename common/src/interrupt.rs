//! Signals that ask a mutating verb to stop: noticed between steps, so that it can undo first.
//!
//! A verb that changes something calls [`guard`]. SIGINT, SIGTERM and SIGHUP are then blocked and
//! looked for with [`check`]; once the undoing is done the frame dies of the signal, as a shell
//! expects. Verbs that only read take no guard and die at once.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use crate::error::{Error, ErrorKind, Result};

static SIGNALS: OnceLock<SignalFd> = OnceLock::new();
static RECEIVED: AtomicI32 = AtomicI32::new(0);

fn asking_to_stop() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}

/// Keeps the signals that end a program from ending this one; [`check`] notices them instead.
///
/// A signal that the caller had ignored, as nohup(1) does with SIGHUP and a shell's `&` with SIGINT,
/// stays ignored.
///
/// Call it before any thread is started: threads inherit the mask. Where the kernel refuses, the
/// signals keep killing, as they would without a guard.
pub fn guard() {
    let ignored = ignored();
    let heard = |signal: &Signal| ignored & (1 << (*signal as u32 - 1)) == 0;
    let mask: SigSet = asking_to_stop().iter().filter(heard).collect();
    if let Ok(signals) = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        && SIGNALS.set(signals).is_ok()
    {
        let _ = mask.thread_block();
    }
}

/// The signals this process ignores, a bit for each, that of signal 1 being the lowest.
///
/// Source: proc_pid_status(5), `SigIgn`.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Fails with `interrupted` once a signal has come in.
pub fn check() -> Result<()> {
    match received() {
        None => Ok(()),
        Some(signal) => {
            Err(Error::new(ErrorKind::Interrupted, format!("stopped by {}", signal.as_str())))
        }
    }
}

/// Sleeps for `pause`, or less when a signal comes in, which is then the error.
pub fn sleep(pause: Duration) -> Result<()> {
    let end = Instant::now() + pause;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(20)));
    }
}

/// The first signal that came in since [`guard`].
fn received() -> Option<Signal> {
    if RECEIVED.load(Ordering::Relaxed) == 0 {
        let info = SIGNALS.get()?.read_signal().ok()??;
        RECEIVED.store(info.ssi_signo as i32, Ordering::Relaxed);
    }
    Signal::try_from(RECEIVED.load(Ordering::Relaxed)).ok()
}

/// Dies of the signal that was received, if one was.
pub(crate) fn die_if_received() {
    if let Some(signal) = received() {
        let _ = asking_to_stop().thread_unblock();
        let _ = kill(Pid::this(), signal);
    }
}
