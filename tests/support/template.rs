//! Templates for the tests: those with Canonical's values, and changes to them.

#![allow(dead_code, reason = "every test file uses a part of it")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::PathBuf;

use crate::support::{Rig, repository};

/// The names of the templates with the values of Canonical's.
pub(crate) const CANONICAL: [&str; 3] = ["trust_domain", "trust_domain-sb", "regular_vm"];

/// The text of one of them.
pub(crate) fn canonical(name: &str) -> String {
    let path = format!("tests/fixtures/templates/{name}.xml.template");
    fs::read_to_string(repository().join(path)).unwrap()
}

/// The text without its element of this name, which begins a line.
pub(crate) fn without(text: &str, element: &str) -> String {
    let start = text.find(&format!("<{element}")).unwrap_or_else(|| panic!("no {element}"));
    let end = format!("</{element}>");
    let length = text[start..].find(&end).unwrap_or_else(|| panic!("no {end}")) + end.len();
    format!("{}{}", &text[..start], &text[start + length..])
}

/// A template that this machine can run: emulated, and without a vsock.
pub(crate) fn emulated() -> String {
    let text = without(&without(&canonical("regular_vm"), "vsock"), "allowReboot");
    text.replace("type=\"kvm\"", "type=\"qemu\"").replace("host-passthrough", "maximum")
}

impl Rig {
    /// Writes a template into the rig's scratch folder.
    pub(crate) fn template(&self, name: &str, text: &str) -> PathBuf {
        let path = self.scratch().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}
