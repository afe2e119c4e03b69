//! Lines on standard error for `-v`. Quiet otherwise: on success standard error is empty.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::text;

static LEVEL: AtomicU8 = AtomicU8::new(0);

/// Sets how much is said: 0 nothing, 1 what is done to the machine, 2 what is asked of it as well.
pub(crate) fn set_level(level: u8) {
    LEVEL.store(level, Ordering::Relaxed);
}

/// Says what is being changed (`-v`).
pub fn step(what: impl fmt::Display) {
    say(1, what);
}

/// Says what is being looked at (`-vv`).
pub fn detail(what: impl fmt::Display) {
    say(2, what);
}

fn say(level: u8, what: impl fmt::Display) {
    if LEVEL.load(Ordering::Relaxed) >= level {
        let what = what.to_string();
        crate::document::output::write_stderr(&format!("{}\n", text::lines(&what)));
    }
}
