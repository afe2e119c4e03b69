//! Changing the host devices in a definition. Pure.

use std::collections::BTreeSet;

use common::Result;
use common::system::pci::Bdf;
use common::xml::{Document, Node, unified_diff};
use tdx_gpu::vfio::hostdev;
use tdx_gpu::vfio::hostdev::HostdevOptions;

use crate::domain::definition;

/// A definition with its host devices changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostdevsChange {
    /// The changed definition.
    pub xml: String,
    /// Devices that were added.
    pub added: BTreeSet<Bdf>,
    /// Devices that were removed.
    pub removed: BTreeSet<Bdf>,
    /// Devices that stay. Their elements, with their addresses in the guest, are not changed.
    pub kept: BTreeSet<Bdf>,
    /// The options of added devices. Protected guests get them without option ROMs.
    pub way: HostdevOptions,
}

impl HostdevsChange {
    /// Changes a definition so that it has exactly the `wanted` devices.
    ///
    /// PCI devices in `foreign` are neither added nor removed. Devices of other kinds, and all other parts of the
    /// text, are not changed.
    ///
    /// Errors: those of [`pci_hostdevs`] and [`Edit::finish`](common::xml::Edit::finish).
    pub fn new(
        before: &Document,
        wanted: &BTreeSet<Bdf>,
        foreign: &BTreeSet<Bdf>,
        way: HostdevOptions,
    ) -> Result<Self> {
        let root = before.root();
        let mut edit = before.edit();
        let (mut kept, mut removed) = (BTreeSet::new(), BTreeSet::new());
        let protected = definition::security(root) != "none";
        let way = HostdevOptions { no_rom: way.no_rom || protected, ..way };
        let mut last = None;
        for (bdf, node) in pci_hostdevs(root)? {
            if foreign.contains(&bdf) || (wanted.contains(&bdf) && kept.insert(bdf)) {
                last = Some(node);
            } else {
                edit.remove(node);
                removed.insert(bdf);
            }
        }
        // A wanted device may be present already as a network card or a disk.
        kept.extend(devices_behind(root)?.intersection(wanted));
        let new = wanted.iter().filter(|bdf| !kept.contains(bdf) && !foreign.contains(bdf));
        let added: BTreeSet<Bdf> = new.copied().collect();
        for bdf in &added {
            let element = hostdev::element(*bdf, way).to_xml()?;
            match (last, root.child("devices")) {
                (Some(node), _) => drop(edit.insert_after(node, &element)),
                (None, Some(devices)) => drop(edit.insert_into(devices, &element)),
                (None, None) => {
                    edit.insert_into(root, &format!("<devices>{element}</devices>"));
                }
            }
        }
        // Of a device with two elements, one was removed and one kept.
        removed.retain(|bdf| !kept.contains(bdf));
        Ok(Self { xml: edit.finish()?, added, removed, kept, way })
    }

    /// Returns the change as a unified diff, without passwords.
    pub fn diff(&self, before: &str, name: &str) -> String {
        let (old, new) = (format!("{name} (current)"), format!("{name} (new)"));
        unified_diff(&without_passwords(before), &without_passwords(&self.xml), &old, &new)
    }
}

/// Returns the host PCI devices in a definition, with their elements.
///
/// Errors: `invalid_input` for a device whose address cannot be parsed.
pub fn pci_hostdevs(domain: Node<'_>) -> Result<Vec<(Bdf, Node<'_>)>> {
    let nodes = domain.find_all("devices/hostdev");
    let found = nodes.map(|node| Ok(definition::hostdev_address(node)?.map(|bdf| (bdf, node))));
    found.filter_map(Result::transpose).collect()
}

/// Returns the addresses of the host PCI devices in a definition.
///
/// Errors: those of [`pci_hostdevs`].
pub fn hostdev_addresses(domain: Node<'_>) -> Result<BTreeSet<Bdf>> {
    Ok(pci_hostdevs(domain)?.into_iter().map(|(bdf, _)| bdf).collect())
}

/// Returns the host PCI devices that are a domain's network cards and disks.
///
/// Errors: those of [`pci_hostdevs`].
pub fn devices_behind(domain: Node<'_>) -> Result<BTreeSet<Bdf>> {
    let nodes = domain.find_all("devices/interface").chain(domain.find_all("devices/disk"));
    nodes.map(definition::device_behind).filter_map(Result::transpose).collect()
}

/// Returns a definition without its passwords. Definitions are read with their secrets, so that these are not
/// lost, but secrets must not be printed.
///
/// Source: <https://libvirt.org/formatdomain.html#graphical-framebuffers>: `passwd` is the only secret.
fn without_passwords(xml: &str) -> String {
    let mut shown = String::with_capacity(xml.len());
    let mut rest = xml;
    while let Some(at) = rest.find(" passwd=") {
        let (before, after) = rest.split_at(at + " passwd=".len());
        shown.push_str(before);
        rest = after;
        // Outside of a tag there is no quote after it.
        if let Some(quote) = after.chars().next().filter(|c| matches!(c, '\'' | '"')) {
            shown.push_str("'…'");
            rest = after[1..].split_once(quote).map_or("", |(_, rest)| rest);
        }
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DOMAIN: &str =
        "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>win10</name>
  <!-- mine -->
  <metadata><x:y xmlns:x=\"urn:x\"/></metadata>
  <devices>
    <disk type='file'/>
    <hostdev mode='subsystem' type='usb'><source><vendor id='0x1'/></source></hostdev>
    <graphics type='vnc' passwd='secret'/>
  </devices>
  <qemu:commandline><qemu:arg value='-s'/></qemu:commandline>
</domain>
";

    fn bdfs(numbers: &BTreeSet<u8>) -> BTreeSet<Bdf> {
        numbers.iter().map(|n| Bdf { domain: 0, bus: *n, device: 0, function: 0 }).collect()
    }

    fn change(before: &str, wanted: &BTreeSet<u8>, foreign: &BTreeSet<u8>) -> HostdevsChange {
        let document = Document::parse(before).unwrap();
        let way = HostdevOptions { iommufd: false, managed: true, no_rom: false };
        HostdevsChange::new(&document, &bdfs(wanted), &bdfs(foreign), way).unwrap()
    }

    fn devices(xml: &str) -> BTreeSet<Bdf> {
        hostdev_addresses(Document::parse(xml).unwrap().root()).unwrap()
    }

    #[test]
    fn kept_device_keeps_its_address_in_the_guest() {
        let with_two = change(DOMAIN, &[1, 2].into(), &[].into()).xml;
        let addressed = with_two.replacen(
            "</source>\n    </hostdev>",
            "</source><address type='pci' bus='0x07'/>\n    </hostdev>",
            1,
        );
        let then = change(&addressed, &[1, 3].into(), &[].into());
        assert!(then.xml.contains("<address type='pci' bus='0x07'/>"), "{}", then.xml);
        assert_eq!((then.added, then.removed), (bdfs(&[3].into()), bdfs(&[2].into())));
        assert_eq!(then.kept, bdfs(&[1].into()));
        let none = change(&addressed, &[].into(), &[1].into());
        assert_eq!(devices(&none.xml), bdfs(&[1].into()));
        assert_eq!(change(&none.xml, &[1].into(), &[1].into()).xml, none.xml);
    }

    #[test]
    fn device_of_a_network_card_is_not_added_again() {
        let card = "<interface type='hostdev'><source><address type='pci' domain='0x0000' \
            bus='0x01' slot='0x00' function='0x0'/></source></interface>";
        let domain = DOMAIN.replace("<disk type='file'/>", card);
        let same = change(&domain, &[1].into(), &[].into());
        assert_eq!((same.xml, same.kept), (domain.clone(), bdfs(&[1].into())));
        assert_eq!(change(&domain, &[].into(), &[].into()).xml, domain);
    }

    #[test]
    fn protected_guest_gets_devices_without_option_roms() {
        let xml = |domain: &str| change(domain, &[1].into(), &[].into()).xml;
        assert!(!xml(DOMAIN).contains("<rom"), "{}", xml(DOMAIN));
        let security = "<launchSecurity type='tdx'/>\n  <devices>";
        let protected = xml(&DOMAIN.replacen("<devices>", security, 1));
        assert!(protected.contains("<rom bar='off'/>"), "{protected}");
    }

    /// What a device is cannot be told from such an address: it can be the one that is to be given away.
    #[test]
    fn malformed_address_is_an_error() {
        let parsed = |device: &str| {
            let xml = format!("<domain><devices>{device}</devices></domain>");
            let document = Document::parse(xml.as_str()).unwrap();
            (hostdev_addresses(document.root()).is_ok(), devices_behind(document.root()).is_ok())
        };
        for address in [
            "",
            "<address/>",
            "<address domain='0x0' bus='0x1' slot='0x0'/>",
            "<address domain='zz' bus='0x1' slot='0x0' function='0x0'/>",
            "<address domain='0x0' bus='0x100' slot='0x0' function='0x0'/>",
            "<address domain='0x0' bus='0x1' slot='0x20' function='0x0'/>",
            "<address domain='0x0' bus='0x1' slot='0x0' function='0x8'/>",
            "<address domain='0x0' bus='+1' slot='0x0' function='0x0'/>",
            "<address domain='0x0' bus='09' slot='0x0' function='0x0'/>",
            "<address domain='0x100000000' bus='0x1' slot='0x0' function='0x0'/>",
        ] {
            let of = |element: &str, kind: &str| {
                parsed(&format!("<{element} type='{kind}'><source>{address}</source></{element}>"))
            };
            assert_eq!(of("hostdev", "pci"), (false, true), "{address}");
            assert_eq!(of("interface", "hostdev"), (true, false), "{address}");
            assert_eq!(of("disk", "nvme"), (true, false), "{address}");
            assert_eq!(of("hostdev", "usb"), (true, true), "{address}");
        }
    }

    #[test]
    fn diff_hides_passwords_that_the_xml_keeps() {
        let change = change(DOMAIN, &[1].into(), &[].into());
        assert!(change.xml.contains("passwd='secret'"));
        let diff = change.diff(DOMAIN, "win10");
        assert!(diff.contains("passwd='…'") && !diff.contains("secret"), "{diff}");
        assert_eq!(without_passwords("<a passwd='b"), "<a passwd='…'");
        let text = "<description>a passwd=is\nhere</description> <b passwd=\"it's\"/>";
        assert_eq!(without_passwords(text), text.replace("\"it's\"", "'…'"));
    }

    proptest! {
        #[test]
        fn change_and_its_inverse_restore_the_devices(
            a in prop::collection::btree_set(any::<u8>(), 0..6),
            b in prop::collection::btree_set(any::<u8>(), 0..6),
        ) {
            let at_a = change(DOMAIN, &a, &[].into()).xml;
            let at_b = change(&at_a, &b, &[].into());
            prop_assert_eq!(devices(&at_b.xml), bdfs(&b));
            let back = change(&at_b.xml, &a, &[].into()).xml;
            prop_assert_eq!(devices(&back), bdfs(&a));
            prop_assert_eq!(&change(&back, &a, &[].into()).xml, &back);
            // Nothing but devices was touched, and the order of those alone may differ.
            prop_assert_eq!(change(&back, &[].into(), &[].into()).xml, DOMAIN);
            let lines = |xml: &str| {
                let mut lines: Vec<String> = xml.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            prop_assert_eq!(lines(&back), lines(&at_a));
        }
    }
}
