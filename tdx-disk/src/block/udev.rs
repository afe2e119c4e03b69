//! Reads udev's database about a device, from its files.

use std::collections::BTreeMap;

use common::system::sysroot::Host;

use common::system::devt::DevT;

/// udev's record of one device.
#[derive(Debug, Default)]
pub struct UdevRecord {
    /// The links to the device node, below `/dev`.
    pub links: Vec<String>,
    properties: BTreeMap<String, String>,
}

impl UdevRecord {
    /// Reads the record of a block device; an empty record if udev has none or is not installed.
    ///
    /// Source: systemd `src/libsystemd/sd-device/sd-device.c`: `S:` a link, `E:` a property.
    pub fn read(host: &Host, number: DevT) -> Self {
        let text = host.read(&format!("/run/udev/data/b{number}")).ok().flatten();
        Self::parse(&text.unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut record = Self::default();
        for line in text.lines() {
            match line.split_once(':') {
                Some(("S", link)) => record.links.push(link.to_owned()),
                Some(("E", property)) => {
                    let pair = property.split_once('=');
                    record.properties.extend(pair.map(|(k, v)| (k.to_owned(), v.to_owned())));
                }
                _ => {}
            }
        }
        record.links.sort_unstable();
        record
    }

    /// The value of a property; none for an empty value.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_reads_links_and_properties_of_a_udev_record() {
        let record = UdevRecord::parse(
            "S:disk/by-path/pci-0000:00:1f.2-ata-1\nS:disk/by-id/ata-X_1\nI:1234\n\
             E:ID_SERIAL_SHORT=1\nE:ID_MODEL=a=b\nE:EMPTY=\nG:systemd\n",
        );
        assert_eq!(record.links, ["disk/by-id/ata-X_1", "disk/by-path/pci-0000:00:1f.2-ata-1"]);
        assert_eq!(record.property("ID_MODEL"), Some("a=b"));
        assert_eq!(record.property("EMPTY"), None);
    }
}
