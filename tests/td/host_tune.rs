//! `tdx-td host tune` and `host restore` on hosts made of files.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal::{SIGKILL, SIGTERM};
use serde_json::{Value, json};

use crate::support::rig::Rig;
use crate::support::steps::{Fate, moments, walk_here};
use crate::support::table::{self, Row};
use crate::support::terminal::Process;
use crate::support::tools::{self, Run};
use crate::support::tree::Tree;
use crate::support::tuned::{
    BOOT_ID, KSM, LASTING, MERGE, PAGES, RECORD, SCHEDULER, SHARED, SWAPPINESS, THP, disk, files,
    filled, item, plain, says,
};

mod boot;
mod conflicts;
mod settings;
mod undo;

fn tune(tree: &Tree, line: &str) -> Run {
    tree.run("tdx-td", &format!("host tune {line} --yes"))
}

fn restore(tree: &Tree) -> Run {
    tree.run("tdx-td", "host restore --yes")
}

fn root(tree: &Tree) -> std::path::PathBuf {
    tree.path("")
}
