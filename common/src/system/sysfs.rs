//! Reads names, attributes and links in sysfs, below `--sysroot` if it is given.

use std::path::{Component, Path, PathBuf};

use crate::system::pci::Bdf;
use crate::system::sysroot::Host;

/// The names in a directory, sorted. Empty when the directory is absent.
pub fn names(host: &Host, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(host.path(folder)).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// The text of an attribute; none when the attribute cannot be read.
pub fn attribute(host: &Host, path: &str) -> Option<String> {
    Some(host.read(path).ok()??.trim_end().to_owned())
}

/// The target of a symbolic link in sysfs, as an absolute path of the machine.
///
/// Computed from the text of the link alone: links in sysfs are relative and do not lead to other links.
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

/// The last component of a path in sysfs, which is the name of the object.
pub fn last(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

/// The PCI devices that control the object at a path in sysfs: the nearest one above it, and each Intel VMD controller
/// whose PCI domain contains that one, because giving the VMD controller away would give all its devices away.
pub fn controllers(path: &Path) -> Vec<Bdf> {
    let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
    // Only the long form is accepted, because a SCSI address such as `2:0:0:1` is no PCI address.
    let bdf = |part: &str| part.parse::<Bdf>().ok().filter(|_| part.len() >= 12);
    let nearest = parts.iter().rev().find_map(|part| bdf(part));
    let has_domain = |pair: &&[&str]| pair[1].starts_with("pci") && pair[1].contains(':');
    let domains = parts.windows(2).filter(has_domain).filter_map(|pair| bdf(pair[0]));
    domains.chain(nearest).collect()
}
