//! The lines that `-v` and `-vv` print on standard error. Without `-v`, this module prints nothing.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::text;

static LEVEL: AtomicU8 = AtomicU8::new(0);

/// Sets the log level: 0 prints nothing, 1 prints each change, 2 also prints connections and programs run.
pub(crate) fn set_level(level: u8) {
    LEVEL.store(level, Ordering::Relaxed);
}

/// Logs a change at level 1 (`-v`).
pub fn step(what: impl fmt::Display) {
    say(1, what);
}

/// Logs a read, such as a connection or a program run, at level 2 (`-vv`).
pub fn detail(what: impl fmt::Display) {
    say(2, what);
}

fn say(level: u8, what: impl fmt::Display) {
    if LEVEL.load(Ordering::Relaxed) >= level {
        let what = what.to_string();
        crate::document::output::write_stderr(&format!("{}\n", text::lines(&what)));
    }
}
