//! Signals that ask a mutating verb to stop. The verb checks for them between steps, so that it can undo first.
//!
//! A verb that changes something calls [`guard`] after it has connected to libvirt and before it changes
//! anything. SIGINT, SIGTERM and SIGHUP are then recorded, and [`check`] reports them. After the verb has undone
//! its steps, the process ends by the signal, as a shell expects. A second signal kills the process at once, for
//! users who do not want to wait for a call that never returns. Verbs that only read use no guard and die at once.

use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use crate::error::{Error, ErrorKind, Result};
use crate::system::syscalls;

/// Records SIGINT, SIGTERM and SIGHUP instead of dying of them; [`check`] reports them.
///
/// A signal that the caller had ignored, as nohup(1) does with SIGHUP and a shell's `&` with SIGINT,
/// stays ignored. A signal that the caller had blocked is unblocked.
///
/// If the kernel refuses to install the handlers, the signals still kill the process.
pub fn guard() {
    let ignored = ignored();
    let heard = |signal: &Signal| ignored & (1 << (*signal as u32 - 1)) == 0;
    let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    let signals: SigSet = signals.into_iter().filter(heard).collect();
    if syscalls::note_signals(&signals).is_ok() {
        let _ = signals.thread_unblock();
    }
}

/// The signals that this process ignores, as a bit mask. Signal 1 is the lowest bit.
///
/// Source: proc_pid_status(5), `SigIgn`.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Fails with `interrupted` if a signal has been received.
pub fn check() -> Result<()> {
    match syscalls::noted_signal() {
        None => Ok(()),
        Some(signal) => {
            Err(Error::new(ErrorKind::Interrupted, format!("interrupted by {}", signal.as_str())))
        }
    }
}

/// Sleeps for `pause`. A signal ends the sleep early with the error of [`check`].
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

/// Ends the process by the signal that was received, if one was received.
pub(crate) fn die_if_received() {
    if let Some(signal) = syscalls::noted_signal() {
        syscalls::die_of(signal);
    }
}
