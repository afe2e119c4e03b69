//! Waiting for a condition.

use std::time::{Duration, Instant};

/// Whether a process waits for a lock, or before it looks again: it is in fcntl(2), flock(2), nanosleep(2) or
/// clock_nanosleep(2), as amd64 numbers them.
pub(crate) fn is_waiting(process: u32) -> bool {
    let call = std::fs::read_to_string(format!("/proc/{process}/syscall")).unwrap_or_default();
    ["72 ", "73 ", "35 ", "230 "].iter().any(|number| call.starts_with(number))
}

/// How long a condition may take on a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(300);

/// Waits until `ready` gives something, or fails after five minutes: a failure is a fault, not a slow machine.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < end, "{what} did not happen within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
