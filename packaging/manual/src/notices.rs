//! The third-party notices: each crate that the tools are linked with, its licence, and the licence texts.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Returns the notices about every crate that the tools link, as Markdown.
///
/// Errors: what `cargo metadata` says, or a crate whose files cannot be read.
/// Source: <https://doc.rust-lang.org/cargo/commands/cargo-metadata.html>.
pub(crate) fn notices() -> Result<String, Box<dyn Error>> {
    let metadata = metadata()?;
    let linked = linked(&metadata);
    let mut list = String::new();
    let mut texts = BTreeMap::<String, Vec<String>>::new();
    for package in items(&metadata["packages"]) {
        if package["source"].is_null() || !linked.contains(text(&package["id"])) {
            continue;
        }
        let name = format!("{} {}", text(&package["name"]), text(&package["version"]));
        let (licence, from) = (text(&package["license"]), text(&package["repository"]));
        list += &format!("- {name}: {licence}, {from}\n");
        let manifest = Path::new(text(&package["manifest_path"]));
        for licence in licence_texts(manifest.parent().unwrap_or(manifest))? {
            texts.entry(licence).or_default().push(name.clone());
        }
    }
    let mut notices = format!(
        "# Third-party notices\n\nThe tools of tdx-tools are linked with these crates. virt and virt-sys are under the \
         LGPL-2.1: the source of\ntdx-tools is public, so that a tool can be built with another version of them.\n\n{list}"
    );
    for (licence, names) in texts {
        let licence = licence.trim_end();
        notices += &format!("\n## {}\n\n```text\n{licence}\n```\n", names.join(", "));
    }
    Ok(notices)
}

/// Cargo's metadata of the workspace and its dependencies on this platform.
fn metadata() -> Result<Value, Box<dyn Error>> {
    let version = output("rustc", &["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("no host")?;
    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
    let line = ["metadata", "--format-version=1", "--locked", "--manifest-path"];
    let line = [&line[..], &[workspace, "--filter-platform", host]].concat();
    Ok(serde_json::from_str(&output("cargo", &line)?)?)
}

#[expect(clippy::disallowed_methods, reason = "only the build runs this program")]
fn output(program: &str, line: &[&str]) -> Result<String, Box<dyn Error>> {
    let output = Command::new(program).args(line).output()?;
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout)?),
        false => Err(String::from_utf8_lossy(&output.stderr).into()),
    }
}

/// The ids of all packages that the tools are linked with; not what only builds or tests need.
fn linked(metadata: &Value) -> BTreeSet<&str> {
    let nodes = items(&metadata["resolve"]["nodes"]).map(|node| (text(&node["id"]), node));
    let nodes: BTreeMap<&str, &Value> = nodes.collect();
    let is_tool = |package: &&Value| {
        package["source"].is_null() && text(&package["name"]).starts_with("tdx-")
    };
    let tools = items(&metadata["packages"]).filter(is_tool);
    let mut left: Vec<&str> = tools.map(|package| text(&package["id"])).collect();
    let mut linked = BTreeSet::new();
    while let Some(id) = left.pop() {
        let Some(node) = nodes.get(id).filter(|_| linked.insert(id)) else { continue };
        let is_linked = |dependency: &&Value| {
            items(&dependency["dep_kinds"]).any(|kind| kind["kind"].is_null())
        };
        left.extend(
            items(&node["deps"]).filter(is_linked).map(|dependency| text(&dependency["pkg"])),
        );
    }
    linked
}

/// The texts of the licences in the directory of a crate.
fn licence_texts(crate_dir: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut files: Vec<_> = fs::read_dir(crate_dir)?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let is_licence = |file: &&std::path::PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        let starts = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"];
        starts.iter().any(|start| name.starts_with(start)) && file.is_file()
    };
    files.iter().filter(is_licence).map(|file| Ok(fs::read_to_string(file)?)).collect()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Licences under which a crate may be used here, as crates write them.
    const LICENCES: [&str; 20] = [
        "(Apache-2.0 OR MIT) AND BSD-3-Clause",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "Apache-2.0",
        "Apache-2.0 / MIT",
        "Apache-2.0 AND ISC",
        "Apache-2.0 OR ISC OR MIT",
        "Apache-2.0 OR MIT",
        "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
        "Apache-2.0/MIT",
        "BSD-2-Clause OR Apache-2.0 OR MIT",
        "BSD-2-Clause OR MIT",
        "BSD-3-Clause",
        "ISC",
        "MIT",
        "MIT OR Apache-2.0",
        "MIT-0",
        "MIT/Apache-2.0",
        "Unlicense OR MIT",
        "Unlicense/MIT",
        "Zlib",
    ];

    #[test]
    fn every_crate_has_an_allowed_licence_and_the_libvirt_binding_the_lgpl() {
        let metadata = metadata().unwrap();
        let others = items(&metadata["packages"]).filter(|package| !package["source"].is_null());
        for package in others {
            let (name, licence) = (text(&package["name"]), text(&package["license"]));
            match name {
                "virt" | "virt-sys" => assert_eq!(licence, "LGPL-2.1"),
                _ => assert!(LICENCES.contains(&licence), "{name}: {licence}"),
            }
        }
        let notices = notices().unwrap();
        for part in
            ["- virt 0.", "- serde 1.", "GNU LESSER GENERAL PUBLIC LICENSE", "Apache License"]
        {
            assert!(notices.contains(part), "{part}");
        }
        // Tests alone need it.
        assert!(!notices.contains("- proptest "));
    }
}
