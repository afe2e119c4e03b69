//! Signals that ask a mutating verb to stop: noticed between steps, so that it can undo first.
//!
//! A verb that changes something calls [`guard`] once it is connected to libvirt and before it changes
//! anything. SIGINT, SIGTERM and SIGHUP are then noted and looked for with [`check`]; once the undoing is
//! done the frame dies of the signal, as a shell expects. A second signal kills at once, for somebody who
//! does not want to wait for a call that never returns. Verbs that only read take no guard and die at once.

use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use crate::error::{Error, ErrorKind, Result};
use crate::system::syscalls;

/// Keeps the signals that end a program from ending this one; [`check`] notices them instead.
///
/// A signal that the caller had ignored, as nohup(1) does with SIGHUP and a shell's `&` with SIGINT,
/// stays ignored. One that the caller had blocked is heard.
///
/// Where the kernel refuses, the signals keep killing, as they would without a guard.
pub fn guard() {
    let ignored = ignored();
    let heard = |signal: &Signal| ignored & (1 << (*signal as u32 - 1)) == 0;
    let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    let signals: SigSet = signals.into_iter().filter(heard).collect();
    if syscalls::note_signals(&signals).is_ok() {
        let _ = signals.thread_unblock();
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
    match syscalls::noted_signal() {
        None => Ok(()),
        Some(signal) => {
            Err(Error::new(ErrorKind::Interrupted, format!("stopped by {}", signal.as_str())))
        }
    }
}

/// Sleeps for `pause`, or less when a signal comes in, which is then the error.
pub fn sleep(pause: Duration) -> Result<()> {
    let began = Instant::now();
    loop {
        check()?;
        let left = pause.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(20)));
    }
}

/// Dies of the signal that was received, if one was.
pub(crate) fn die_if_received() {
    if let Some(signal) = syscalls::noted_signal() {
        syscalls::die_of(signal);
    }
}
