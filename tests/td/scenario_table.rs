//! Every cell of the tables on virt-scenario's page, compared with the definitions of the tools.
//!
//! Source: <https://github.com/aginies/virt-scenario>, README, "Default Settings Comparison". Where a
//! trust domain differs, and why, is in docs/reference/scenarios.md.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use common::xml::{Document, Node};
use tdx_td::capability::{Security, VirtType};
use tdx_td::scenario::value::display_value;

use crate::support::plain_guest::{choice, xml};

const SCENARIOS: [&str; 3] = ["securevm", "computation", "desktop"];

/// A row of the guest table: its name, its cells, and the function that reads the value from a definition.
type Row = (&'static str, [&'static str; 3], fn(Node<'_>) -> String);

/// The guest table.
const GUEST: [Row; 17] = [
    ("CPU migratable", ["off", "off", "on"], |xml| attr(xml, "cpu", "migratable")),
    ("machine", ["pc-q35-6.2", "pc-q35-6.2", "pc-q35-6.2"], |xml| attr(xml, "os/type", "machine")),
    ("watchdog", ["none", "i6300esb poweroff", "none"], |xml| {
        pair(xml, "devices/watchdog", "model", "action")
    }),
    // auto: libvirt finds a build that fits the guest.
    ("boot UEFI", ["efi", "efi", "efi"], |xml| attr(xml, "os", "firmware")),
    ("vTPM", ["tpm-crb 2.0", "none", "none"], |xml| {
        let tpm = xml.find("devices/tpm");
        tpm.map_or("none".into(), |tpm| {
            format!("{} {}", tpm.attr("model").unwrap(), attr(tpm, "backend", "version"))
        })
    }),
    ("iothreads", ["disable", "4", "4"], |xml| {
        let threads = xml.text_at("iothreads");
        let served = attr(xml, "devices/disk/driver", "iothread") == "1";
        assert_eq!(threads.is_some(), served, "threads that serve no disk");
        threads.unwrap_or("disable".into())
    }),
    ("video", ["qxl", "qxl", "virtio"], |xml| attr(xml, "devices/video/model", "type")),
    ("network", ["e1000", "virtio", "e1000"], |xml| attr(xml, "devices/interface/model", "type")),
    ("keyboard", ["ps2", "virtio", "virtio"], |xml| input(xml, "keyboard")),
    ("mouse", ["disable", "virtio", "virtio"], |xml| input(xml, "mouse")),
    ("on_poweroff", ["destroy", "restart", "destroy"], |xml| xml.text_at("on_poweroff").unwrap()),
    ("on_reboot", ["destroy", "restart", "restart"], |xml| xml.text_at("on_reboot").unwrap()),
    ("on_crash", ["destroy", "restart", "destroy"], |xml| xml.text_at("on_crash").unwrap()),
    ("suspend_to_mem", ["off", "off", "on"], |xml| sleep(xml, "suspend-to-mem")),
    ("suspend_to_disk", ["off", "off", "on"], |xml| sleep(xml, "suspend-to-disk")),
    ("features", ["acpi apic pae", "acpi apic pae", "acpi apic pae"], |xml| {
        let features: Vec<_> = xml.child("features").unwrap().children().collect();
        let names: Vec<_> = features.iter().map(|feature| feature.name()).collect();
        names.join(" ")
    }),
    ("host fs", ["NA", "NA", "644 755 /tmp/ /tmp/host"], |xml| {
        let Some(folder) = xml.find("devices/filesystem") else { return "NA".into() };
        let modes = [folder.attr("fmode").unwrap(), folder.attr("dmode").unwrap()].join(" ");
        format!("{modes} {} {}", attr(folder, "source", "dir"), attr(folder, "target", "dir"))
    }),
];

/// The rows of the storage table that a definition contains.
const DISK: [Row; 2] = [
    ("disk_cache", ["writethrough", "unsafe", "none"], |xml| {
        attr(xml, "devices/disk/driver", "cache")
    }),
    ("disk bus", ["virtio", "virtio", "virtio"], |xml| attr(xml, "devices/disk/target", "bus")),
];

/// The other rows of the storage table and of the host table, by setting.
const SETTINGS: [(&str, [&str; 3]); 13] = [
    ("storage.preallocation", ["metadata", "off", "metadata"]),
    ("storage.encryption", ["on", "off", "off"]),
    ("storage.cache", ["writethrough", "unsafe", "none"]),
    ("storage.lazy_refcounts", ["on", "on", "off"]),
    ("storage.format", ["qcow2", "raw", "qcow2"]),
    ("storage.bus", ["virtio", "virtio", "virtio"]),
    ("storage.capacity", ["20GiB", "20GiB", "20GiB"]),
    ("storage.cluster_size", ["1MiB", "-", "1MiB"]),
    ("host.transparent_hugepages", ["always", "always", "always"]),
    ("host.ksm", ["off", "on", "on"]),
    ("host.ksm_merge_across_nodes", ["off", "on", "on"]),
    ("host.swappiness", ["0", "0", "35"]),
    ("host.io_scheduler", ["bfq", "mq-deadline", "mq-deadline"]),
];

/// The cells that have other values for a trust domain.
const TDX: [(&str, &str); 6] = [
    ("machine", "q35"),
    ("features", "acpi apic ioapic"),
    ("network", "virtio"),
    ("video", ""),
    ("keyboard", "disable"),
    ("vTPM", "none"),
];

fn attr(xml: Node<'_>, path: &str, name: &str) -> String {
    xml.attr_at(path, name).unwrap_or_default().into_owned()
}

fn pair(xml: Node<'_>, path: &str, first: &str, second: &str) -> String {
    match xml.find(path) {
        None => "none".to_owned(),
        Some(_) => format!("{} {}", attr(xml, path, first), attr(xml, path, second)),
    }
}

fn input(xml: Node<'_>, kind: &str) -> String {
    let mut inputs = xml.find_all("devices/input");
    let input = inputs.find(|input| input.attr("type").as_deref() == Some(kind));
    input.map_or("disable".to_owned(), |input| input.attr("bus").unwrap().into_owned())
}

fn sleep(xml: Node<'_>, state: &str) -> String {
    let on = attr(xml, &format!("pm/{state}"), "enabled");
    if on == "yes" { "on".to_owned() } else { "off".to_owned() }
}

fn definition(scenario: &str, security: Security) -> Document {
    let choice = choice(scenario, security);
    Document::parse(xml(choice, security, VirtType::Kvm, &[])).unwrap()
}

#[test]
fn a_definition_has_every_value_of_the_guest_and_storage_tables() {
    for security in [Security::None, Security::Sev, Security::SevEs] {
        for (column, scenario) in SCENARIOS.iter().enumerate() {
            let document = definition(scenario, security);
            for (row, cells, read) in GUEST.iter().chain(&DISK) {
                assert_eq!(read(document.root()), cells[column], "{scenario}, {security}: {row}");
            }
            // All memory of an SEV guest is pinned.
            let limit = document.root().text_at("memtune/hard_limit");
            let secure = *scenario == "securevm" && security != Security::None;
            assert_eq!(limit.as_deref(), secure.then_some("4456448"), "{scenario}, {security}");
        }
    }
}

#[test]
fn a_trust_domain_differs_from_the_tables_only_in_the_listed_cells() {
    let document = definition("securevm", Security::Tdx);
    for (row, cells, read) in GUEST.iter().chain(&DISK) {
        let other = TDX.iter().find(|(other, _)| other == row).map(|(_, cell)| *cell);
        assert_eq!(read(document.root()), other.unwrap_or(cells[0]), "{row}");
    }
    let settings = choice("securevm", Security::Tdx).settings;
    let value =
        |name: &str| display_value(&settings.iter().find(|s| s.setting == name).unwrap().value);
    assert_eq!(value("storage.encryption"), "off");
    assert_eq!(value("host.modules"), "kvm_intel=tdx=1");
}

#[test]
fn settings_have_every_value_of_the_storage_and_host_tables() {
    for security in [Security::None, Security::Sev] {
        for (column, scenario) in SCENARIOS.iter().enumerate() {
            let settings = choice(scenario, security).settings;
            for (name, cells) in SETTINGS {
                let setting = settings.iter().find(|setting| setting.setting == name).unwrap();
                assert_eq!(
                    display_value(&setting.value),
                    cells[column],
                    "{scenario}, {security}: {name}"
                );
                assert!(!setting.differs(), "{scenario}, {security}: {name}");
            }
            // The page's row "kvm SEV": a kernel argument and options of the module.
            let of = |name: &str| {
                display_value(&settings.iter().find(|s| s.setting == name).unwrap().value)
            };
            let secure = *scenario == "securevm" && security == Security::Sev;
            let (modules, arguments) = match secure {
                true => ("kvm_amd=sev=1,sev_es=1", "mem_encrypt=on"),
                false => ("", ""),
            };
            let found = (of("host.modules"), of("host.kernel_arguments"));
            assert_eq!(found, (modules.to_owned(), arguments.to_owned()), "{scenario}, {security}");
        }
    }
}
