//! Finds the drivers that the system has for a device, by the modalias of the device.
//!
//! Source: modules.alias of depmod(8): lines `alias PATTERN MODULE`, patterns with `*`.

use common::system::pci::Bdf;
use common::system::sysroot::Host;

/// The text of modules.alias of the running kernel; empty when the file is absent.
pub fn read_aliases(host: &Host) -> String {
    let release = host.read("/proc/sys/kernel/osrelease").ok().flatten().unwrap_or_default();
    let path = format!("/lib/modules/{}/modules.alias", release.trim());
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The drivers that match the modalias of a device, according to `aliases`, the text of modules.alias. The driver of a
/// module that is not loaded has the name of the module.
pub fn matching_drivers(host: &Host, aliases: &str, bdf: Bdf) -> Vec<String> {
    let path = format!("/sys/bus/pci/devices/{bdf}/modalias");
    let alias = host.read(&path).ok().flatten().unwrap_or_default();
    let mut drivers = Vec::new();
    for module in matching_modules(aliases, alias.trim()) {
        let directory = host.path(format!("/sys/module/{}/drivers", module.replace('-', "_")));
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let before = drivers.len();
        drivers.extend(names.filter_map(|name| Some(name.strip_prefix("pci:")?.to_owned())));
        if drivers.len() == before {
            drivers.push(module.to_owned());
        }
    }
    drivers
}

fn matching_modules<'a>(aliases: &'a str, alias: &str) -> Vec<&'a str> {
    let found = aliases.lines().filter_map(|line| {
        let (pattern, module) = line.strip_prefix("alias ")?.split_once(' ')?;
        (pattern.starts_with("pci:") && glob_matches(pattern, alias)).then(|| module.trim())
    });
    found.collect()
}

/// Whether a text matches a pattern in which `*` matches any text.
pub fn glob_matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        match (parts.peek(), rest.find(part)) {
            (None, _) => return rest.ends_with(part),
            (_, Some(at)) => rest = &rest[at + part.len()..],
            (_, None) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glob_matches_treats_only_asterisks_as_wildcards() {
        for (pattern, text, yes) in [
            ("v000015B3d*", "v000015B3d0000101E", true),
            ("v*d*sv*sd*", "v1d2sv3sd4", true),
            ("v1d2", "v1d2", true),
            ("v1d2", "v1d23", false),
            ("v1*i00", "v1d2i01", false),
            ("*", "", true),
            ("v1*i0", "v1i0i0", true),
        ] {
            assert_eq!(glob_matches(pattern, text), yes, "{pattern} {text}");
        }
    }

    #[test]
    fn matching_drivers_finds_modules_by_their_patterns() {
        let list = "# Aliases\nalias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e\n\
            alias pci:v*d*sv*sd*bc0Csc03i30* xhci_pci\nalias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci\n";
        assert_eq!(
            matching_modules(list, "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00"),
            ["e1000e"]
        );
        assert_eq!(matching_modules(list, "pci:v00001B36d0000000Dsv0sd0bc0Csc03i30"), ["xhci_pci"]);
        assert_eq!(matching_modules(list, ""), Vec::<&str>::new());
    }
}
