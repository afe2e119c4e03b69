//! `tdx-td delete`: which files are deleted with a domain and which are kept, as decided at the time of the
//! deletion.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::pool::{Begun, signal};
use crate::support::rig::Rig;
use crate::support::td::{IMAGES, define, foreign, listed, new, rig_with_base, td, volumes};
use crate::support::terminal::Terminal;
use crate::support::tools::{Run, bin};
use crate::support::wait;

mod meanwhile;
mod owned;

/// A path in the pool.
fn image(name: &str) -> String {
    format!("{IMAGES}/{name}")
}

/// The file of a domain's own disk.
fn overlay(rig: &Rig, name: &str) -> String {
    listed(rig, name)["overlay"].as_str().unwrap().to_owned()
}

/// The reason why a file was kept; none if the item does not list the file.
fn reason<'a>(item: &'a Value, path: &str) -> Option<&'a str> {
    let kept = item["kept"].as_array().unwrap();
    kept.iter().find(|file| file["path"] == path)?["reason"].as_str()
}

/// A disk element over a file.
fn disk(file: &str, target: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{file}'/>\
         <target dev='{target}' bus='virtio'/></disk>"
    )
}

fn exists(rig: &Rig, path: &str) -> bool {
    rig.path(path).symlink_metadata().is_ok()
}
