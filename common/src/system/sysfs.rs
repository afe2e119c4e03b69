//! Looking around in sysfs, below `--sysroot` or not.

use std::path::{Component, Path, PathBuf};

use crate::system::pci::Bdf;
use crate::system::sysroot::Host;

/// The names in a folder, sorted; none where there is no such folder.
pub fn names(host: &Host, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(host.path(folder)).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// An attribute's text; none when it cannot be read.
pub fn attribute(host: &Host, path: &str) -> Option<String> {
    Some(host.read(path).ok()??.trim_end().to_owned())
}

/// Where in sysfs a symbolic link of it leads, as an absolute path of the machine.
///
/// By the text of the link alone, which in sysfs is relative and leads to no other link.
pub fn target(host: &Host, link: &str) -> Option<PathBuf> {
    let text = std::fs::read_link(host.path(link)).ok()?;
    let mut path = Path::new(link).parent()?.to_owned();
    for component in text.components() {
        match component {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    Some(path)
}

/// The last part of a path in sysfs: the name of what is there.
pub fn last(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

/// The PCI devices that serve what is at this place in sysfs: the one nearest to it, and each that has
/// a domain of its own with that one in it (Intel VMD), which would take all of it along.
pub fn controllers(path: &Path) -> Vec<Bdf> {
    let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
    // The long form only: in `2:0:0:1`, of SCSI, there is none.
    let bdf = |part: &str| part.parse::<Bdf>().ok().filter(|_| part.len() >= 12);
    let nearest = parts.iter().rev().find_map(|part| bdf(part));
    let has_domain = |pair: &&[&str]| pair[1].starts_with("pci") && pair[1].contains(':');
    let domains = parts.windows(2).filter(has_domain).filter_map(|pair| bdf(pair[0]));
    domains.chain(nearest).collect()
}
