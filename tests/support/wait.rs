//! Waiting for a condition.

use std::time::{Duration, Instant};

/// Whether a process waits for a lock, or before its next look: it is in fcntl(2), flock(2), nanosleep(2) or
/// clock_nanosleep(2), as amd64 numbers them.
pub(crate) fn is_waiting(process: u32) -> bool {
    let call = std::fs::read_to_string(format!("/proc/{process}/syscall")).unwrap_or_default();
    ["72 ", "73 ", "35 ", "230 "].iter().any(|number| call.starts_with(number))
}

/// The longest time for a condition, on a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(300);

/// Waits until `ready` returns something. Fails after five minutes, which is too long even for a slow
/// machine.
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
