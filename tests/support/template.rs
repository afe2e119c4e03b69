//! Templates for the tests: those with Canonical's values, and changed ones.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::PathBuf;

use super::rig::Rig;
use super::tools::repository;

/// The names of the templates with Canonical's values.
pub(crate) const CANONICAL: [&str; 3] = ["trust_domain", "trust_domain-sb", "regular_vm"];

/// The text of one of these templates.
pub(crate) fn canonical(name: &str) -> String {
    let path = format!("tests/fixtures/templates/{name}.xml.template");
    fs::read_to_string(repository().join(path)).unwrap()
}

/// The text without its element of this name.
pub(crate) fn without(text: &str, element: &str) -> String {
    let start = text.find(&format!("<{element}")).unwrap_or_else(|| panic!("no {element}"));
    let tag = start + text[start..].find('>').unwrap();
    let end = match text[..tag].ends_with('/') {
        true => tag + 1,
        false => {
            let end = format!("</{element}>");
            start + text[start..].find(&end).unwrap_or_else(|| panic!("no {end}")) + end.len()
        }
    };
    format!("{}{}", &text[..start], &text[end..])
}

/// One of Canonical's templates, emulated and without a vsock, so that this machine can run it; otherwise as
/// in the original.
pub(crate) fn emulated_original(name: &str) -> String {
    let text = without(&canonical(name), "vsock");
    text.replace(" type='kvm'", " type='qemu'").replace("host-passthrough", "maximum")
}

/// A template that this machine can run and that needs no `--fix-template`.
pub(crate) fn emulated() -> String {
    let text = without(&emulated_original("regular_vm"), "allowReboot");
    text.replace(" enable=", " enabled=").replace("tcp::0-", "tcp:127.0.0.1:0-")
}

impl Rig {
    /// Writes a template into the rig's scratch directory.
    pub(crate) fn template(&self, name: &str, text: &str) -> PathBuf {
        let path = self.scratch().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}
