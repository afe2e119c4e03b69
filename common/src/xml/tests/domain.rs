//! Typical reads and edits of the tools, on a long domain definition.

use super::{DOMAIN, Document, Element, pretty, unified_diff};

fn domain() -> Document {
    Document::parse(DOMAIN).unwrap()
}

/// Returns the lines that differ, without the context.
fn changed_lines(new: &str) -> Vec<String> {
    unified_diff(DOMAIN, new, "old", "new")
        .lines()
        .skip(2)
        .filter(|line| line.starts_with(['+', '-']))
        .map(str::to_owned)
        .collect()
}

#[test]
fn find_returns_what_the_tools_read_from_a_long_domain() {
    let domain = domain();
    let root = domain.root();
    assert_eq!(root.text_at("title").as_deref(), Some("TDX guest <1>"));
    assert_eq!(
        root.text_at("description").as_deref(),
        Some("two <b>GPUs</b> & a\n    second line")
    );
    assert_eq!(root.attr_at("launchSecurity", "type").as_deref(), Some("tdx"));
    let files: Vec<_> = root
        .find_all("devices/disk/source")
        .chain(root.find_all("devices/disk/backingStore/source"))
        .filter_map(|source| source.attr("file"))
        .collect();
    assert_eq!(
        files,
        [
            "/var/lib/libvirt/images/td-01 & co.qcow2",
            "/var/lib/libvirt/images/seed.iso",
            "/var/lib/libvirt/images/base.qcow2"
        ]
    );
    let base = root.child("metadata").unwrap().children().last().unwrap();
    assert_eq!((base.namespace(), base.local_name()), (Some("urn:example:tdx"), "base"));
    let arg = root.find("qemu:commandline/qemu:arg").unwrap();
    assert_eq!(arg.namespace(), Some("http://libvirt.org/schemas/domain/qemu/1.0"));
    assert_eq!(root.find("qemu:commandline/qemu:env").unwrap().attr("value").unwrap(), "it's");
}

#[test]
fn removing_a_hostdev_removes_only_its_lines() {
    let domain = domain();
    let hostdevs: Vec<_> = domain.root().find_all("devices/hostdev").collect();
    assert_eq!(hostdevs.len(), 3);
    for hostdev in hostdevs {
        let mut edit = domain.edit();
        edit.remove(hostdev);
        let removed = format!("    {}\n", hostdev.source());
        assert_eq!(edit.finish().unwrap(), DOMAIN.replacen(&removed, "", 1));
    }
}

#[test]
fn one_edit_changes_many_parts_of_a_domain_and_keeps_other_lines() {
    let domain = domain();
    let root = domain.root();
    let devices = root.child("devices").unwrap();
    let hostdev = Element::new("hostdev")
        .attr("mode", "subsystem")
        .attr("type", "pci")
        .child(Element::new("driver").attr("name", "vfio"));
    let mut edit = domain.edit();
    edit.set_text(root.child("name").unwrap(), "td-02")
        .remove(root.child("uuid").unwrap())
        .set_text(root.child("memory").unwrap(), "1024")
        .set_attr(root.find("devices/disk/source").unwrap(), "file", "/new")
        .set_attr(root.find("os").unwrap(), "x", "<\"'>");
    for hostdev in root.find_all("devices/hostdev") {
        edit.remove(hostdev);
    }
    edit.insert_into(devices, &hostdev.to_xml().unwrap());
    edit.remove(devices.child("vsock").unwrap());
    let new = edit.finish().unwrap();
    let lines = changed_lines(&new);
    let added: Vec<_> = lines.iter().filter(|line| line.starts_with('+')).collect();
    assert_eq!(
        added,
        [
            "+  <name>td-02</name>",
            "+  <memory unit='KiB'>1024</memory> <!-- 64 GiB -->",
            "+  <os firmware='efi' x='&lt;&quot;&apos;&gt;'>",
            "+      <source file='/new' index='1'/>",
            "+    <hostdev mode='subsystem' type='pci'>",
            "+      <driver name='vfio'/>",
            "+    </hostdev>",
        ]
    );
    let removed: usize = ["uuid", "devices/hostdev", "devices/vsock"]
        .iter()
        .flat_map(|path| root.find_all(path))
        .map(|node| node.source().lines().count())
        .sum();
    assert_eq!(lines.len() - added.len(), removed + 4);
}

#[test]
fn pretty_changes_only_lines_that_are_not_laid_out() {
    let pretty = pretty(DOMAIN).unwrap();
    let joined = "<hostdev mode='subsystem' type='pci' managed='no'><driver name='vfio'/><source>";
    let changed = changed_lines(&pretty);
    assert_eq!(changed.len(), 9, "{changed:#?}");
    assert_eq!(changed[1], format!("-    {joined}"));
    assert_eq!(super::pretty(&pretty).unwrap(), pretty);
}
