//! `tdx-td hostdevs` on a real libvirtd (rig 1), with the devices of a machine made of files.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::{Value, json};

use crate::support::rig::Rig;
use crate::support::td::{define, foreign};
use crate::support::terminal::Terminal;
use crate::support::tools::{self, Run};
use crate::support::tree::{Spec, Tree};

/// A machine with the devices of the original's example, and twenty network cards.
fn machine(rig: &Rig) -> Tree {
    let mut host = Tree::below(rig.scratch());
    let more = &[("reset_method", "flr bus"), ("modalias", "pci:x")][..];
    let spec = |ids, class, driver, group| Spec { ids, class, driver, group: Some(group), more };
    host.device("0000:00", "0000:00:01.0", spec("8086:1901", "060400", "pcieport", 1));
    host.device("0000:00:01.0", "0000:01:00.0", spec("10de:1b81", "030000", "nouveau", 1));
    host.device("0000:00:01.0", "0000:01:00.1", spec("10de:10f0", "040300", "snd_hda_intel", 1));
    host.device("0000:00", "0000:00:14.0", spec("8086:a12f", "0c0330", "xhci_hcd", 2));
    host.device("0000:00", "0000:00:15.0", spec("8086:a130", "0c0330", "xhci_hcd", 3));
    host.device("0000:00", "0000:00:19.0", spec("8086:153a", "020000", "e1000e", 4));
    for n in 0..20 {
        let bdf = format!("0000:40:{n:02x}.0");
        host.device("0000:40", &bdf, spec("8086:1533", "020000", "igb", 10 + n));
    }
    host
}

/// Runs a shell line in which `@td` and `@iommu` are the tools on that machine.
fn td(rig: &Rig, host: &Tree, line: &str) -> Run {
    let root = host.path("");
    let tool = |name: &str| format!("tdx-{name} --sysroot {}", root.display());
    rig.shell(&line.replace("@td", &tool("td")).replace("@iommu", &tool("iommu")))
}

/// The lines that a diff adds or removes.
fn changed(diff: &str) -> Vec<&str> {
    let header = |line: &&str| line.starts_with("+++") || line.starts_with("---");
    diff.lines().filter(|line| line.starts_with(['+', '-']) && !header(line)).collect()
}

/// The example of the original device manager's documentation.
const CONFIG: &str = r#"
vms:
  win10:
    passthrough_devices:
      - match:
          vendor_id: "10de"
          device_id: "1b81"
      - match:
          vendor_id: "10de"
          device_id: "10f0"
      - match:
          driver: "xhci_hcd"
          select_index: 1
  linux:
    passthrough_devices:
      - match:
          vendor_id: "8086"
          device_id: "153a"
"#;

fn xml(rig: &Rig, name: &str) -> String {
    rig.virsh(["dumpxml", "--inactive", "--security-info", name])
}

#[test]
#[ignore = "needs root"]
fn hostdevs_gives_domains_the_devices_that_the_file_lists() {
    let rig = Rig::start();
    let host = machine(&rig);
    let path = |name: &str| rig.scratch().join(name);
    fs::write(path("passthrough_config.yaml"), CONFIG).unwrap();
    let usb = "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1'/>\
        <product id='0x2'/></source></hostdev>";
    let no_usb = "<controller type='usb' model='none'/>";
    define(&rig, &foreign("win10", usb).replace(no_usb, ""));
    define(&rig, &foreign("linux", ""));
    let before = (xml(&rig, "win10"), xml(&rig, "linux"));

    // A dry run shows the changes. The file is found under its default name.
    let plan = td(&rig, &host, "@td hostdevs --dry-run").document();
    assert_eq!((&plan["changed"], &plan["dry_run"]), (&json!(true), &json!(true)));
    let names: Vec<&Value> = plan["items"].as_array().unwrap().iter().map(|i| &i["name"]).collect();
    assert_eq!(names, ["linux", "win10"]);
    let win10 = &plan["items"][1];
    let devices = json!(["0000:00:15.0", "0000:01:00.0", "0000:01:00.1"]);
    assert_eq!((&win10["added"], &win10["removed"]), (&devices, &json!([])));
    let diff = win10["diff"].as_str().unwrap();
    let lines = changed(diff);
    assert!(lines.iter().all(|line| line.starts_with('+')), "{diff}");
    assert_eq!(lines.iter().filter(|line| line.contains("<hostdev ")).count(), 3, "{diff}");
    // Without a terminal and without --yes nothing is changed.
    td(&rig, &host, "@td hostdevs").error(5);
    assert_eq!((xml(&rig, "win10"), xml(&rig, "linux")), before);

    // The command changes one domain, then all; then nothing remains to be done.
    fs::write(path("anybody"), "anybody's").unwrap();
    symlink("anybody", path("debug_linux.xml")).unwrap();
    let plan = td(&rig, &host, "@td hostdevs --vm linux -n --debug-xml debug.xml").document();
    assert!(plan["warnings"].to_string().contains("--debug-xml is ignored"), "{plan:#}");
    assert!(path("debug_linux.xml").symlink_metadata().unwrap().is_symlink(), "a dry run wrote");
    let one = td(&rig, &host, "@td hostdevs --vm linux -y --debug-xml debug.xml").document();
    assert_eq!(one["items"][0]["action"], "update", "{one:#}");
    assert!(xml(&rig, "linux").contains("slot='0x19'") && xml(&rig, "win10") == before.0);
    let proposal = fs::read_to_string(path("debug_linux.xml")).unwrap();
    assert!(proposal.contains("<name>linux</name>") && proposal.contains("slot='0x19'"));
    let metadata = fs::symlink_metadata(path("debug_linux.xml")).unwrap();
    assert!(metadata.is_file() && metadata.permissions().mode() & 0o777 == 0o600);
    assert_eq!(fs::read_to_string(path("anybody")).unwrap(), "anybody's", "a link was followed");
    let all = td(&rig, &host, "@iommu resolve | @td hostdevs - -y").document();
    let actions: Vec<&Value> =
        all["items"].as_array().unwrap().iter().map(|i| &i["action"]).collect();
    assert_eq!(actions, ["none", "update"]);
    let now = xml(&rig, "win10");
    assert!(now.contains("type='usb'") && now.matches("managed='yes'").count() == 3, "{now}");
    for line in ["@td hostdevs -y", "@td hostdevs", "@iommu resolve | @td hostdevs -"] {
        let again = td(&rig, &host, line).document();
        assert_eq!(again["changed"], false, "{line}: {again:#}");
    }
    assert_eq!(xml(&rig, "win10"), now);

    // The file has one device less. --keep keeps the device of a domain, whatever the file says.
    let fewer = CONFIG
        .replace("      - match:\n          driver: \"xhci_hcd\"\n          select_index: 1\n", "");
    fs::write(path("fewer.yaml"), fewer).unwrap();
    let keep = td(&rig, &host, "@td hostdevs --config fewer.yaml --keep 00:15.0 -y").document();
    assert_eq!(keep["changed"], false, "{keep:#}");
    let less = td(&rig, &host, "@td hostdevs --config fewer.yaml --vm win10 -y").item();
    assert_eq!(
        (&less["removed"], &less["kept"]),
        (&json!(["0000:00:15.0"]), &json!(["0000:01:00.0", "0000:01:00.1"]))
    );
    // The devices that stay keep their addresses in the guest.
    let then = xml(&rig, "win10");
    let kept =
        now.split("</hostdev>").find(|part| part.contains("function='0x1'/>\n      </source>"));
    assert!(then.contains(kept.unwrap().trim_start()), "{now}\n{then}");
}

#[test]
#[ignore = "needs root"]
fn an_impossible_request_changes_no_domain() {
    let rig = Rig::start();
    let host = machine(&rig);
    define(&rig, &foreign("a", ""));
    define(&rig, &foreign("b", ""));
    let before = (xml(&rig, "a"), xml(&rig, "b"));
    let file = |name: &str, text: &str| fs::write(rig.scratch().join(name), text).unwrap();
    let guest = |name: &str, inside: &str| {
        format!("  {name}:\n    passthrough_devices:\n      - match: {{{inside}}}\n")
    };
    file(
        "gone.yaml",
        &format!("vms:\n{}{}", guest("a", "bdf: 40:01.0"), guest("gone", "bdf: 40:02.0")),
    );
    file(
        "none.yaml",
        &format!("vms:\n{}{}", guest("a", "bdf: 40:01.0"), guest("b", "driver: nothing")),
    );
    file("empty.yaml", "vms:\n  a:\n    passthrough_devices:\n");
    file(
        "two.yaml",
        &format!("vms:\n{}{}", guest("a", "bdf: 40:01.0"), guest("b", "bdf: 40:02.0")),
    );
    for (line, status) in [
        ("@td hostdevs -y", 4),
        ("@td hostdevs --config gone.yaml -y", 4),
        ("@td hostdevs --config none.yaml -y", 4),
        ("@td hostdevs --config empty.yaml -y", 3),
        ("@td hostdevs --config two.yaml --vm c -y", 4),
        ("@td hostdevs - --config two.yaml", 2),
        ("@td hostdevs - </dev/null", 3),
        ("@iommu scan | @td hostdevs - -y", 3),
        ("@iommu resolve --config gone.yaml | @td hostdevs - -y", 4),
        ("@iommu resolve --config two.yaml | @td hostdevs - --vm c -y", 4),
        (
            "echo '[{\"vm\":\"a\",\"devices\":[]},{\"vm\":\"a\",\"devices\":[]}]' | @td hostdevs - -y",
            5,
        ),
        ("@td -c qemu+tcp://127.0.0.1/system hostdevs --config two.yaml -y", 6),
    ] {
        td(&rig, &host, line).error(status);
        assert_eq!((xml(&rig, "a"), xml(&rig, "b")), before, "{line}");
    }
    // The blockers of a device in a piped document are reported.
    let lost = "echo '[{\"vm\":\"a\",\"devices\":[{\"bdf\":\"40:01.0\",\"blockers\":\
        [\"HOST_NET_DEFAULT_ROUTE\"]}]}]' | @td hostdevs - -n";
    let lost = td(&rig, &host, lost).document();
    assert_eq!(lost["warnings"], json!(["a: 0000:40:01.0: HOST_NET_DEFAULT_ROUTE"]));
    // The definition of the second domain cannot be written: the first one is restored.
    let config = "/etc/libvirt/qemu/b.xml";
    rig.shell(&format!("mount --bind {config} {config}")).text();
    let error = td(&rig, &host, "@td hostdevs --config two.yaml -y").error(1);
    assert_eq!(error["left_behind"], json!([]), "{error}");
    rig.shell(&format!("umount {config}")).text();
    assert_eq!((xml(&rig, "a"), xml(&rig, "b")), before);

    // Another program changes the domain while the prompt waits.
    let mut command = rig.command(tools::bin("tdx-td"));
    command.args(["hostdevs", "--config", "two.yaml", "--vm", "a", "--debug-xml", "debug.xml"]);
    command.arg("--sysroot").arg(host.path(""));
    let mut terminal = Terminal::start(command, "tdx-td");
    terminal.wait_for("change the devices of a? [y/N] ");
    rig.shell("virsh setvcpus a 1 --config --maximum && virsh desc a --config --new-desc other")
        .text();
    terminal.press("y\n");
    let (run, _) = terminal.end();
    assert_eq!(run.status, Some(5), "{run:#?}");
    assert!(run.stderr.contains("another program changed domain"), "{run:#?}");
    assert!(!xml(&rig, "a").contains("<hostdev"), "{}", xml(&rig, "a"));

    // A running guest gets the device at its next start, and a warning says so.
    rig.virsh(["start", "b"]);
    let later = td(&rig, &host, "@td hostdevs --config two.yaml --vm b -y").document();
    assert_eq!(later["items"][0]["running"], true);
    assert!(later["warnings"][0].as_str().unwrap().contains("at its next start"), "{later:#}");
    assert!(
        xml(&rig, "b").contains("<hostdev") && !rig.virsh(["dumpxml", "b"]).contains("<hostdev")
    );
    rig.virsh(["destroy", "b"]);
}

/// A configuration that the original tool accepts: both domains have the device, and one of them can run.
#[test]
#[ignore = "needs root"]
fn a_device_that_two_domains_share_is_a_warning() {
    let rig = Rig::start();
    let host = machine(&rig);
    for name in ["a", "b", "c"] {
        define(&rig, &foreign(name, ""));
    }
    let shared = "      - match: {bdf: 40:01.0}\n      - match: {vendor_id: 8086, bdf: 40:01.0}\n";
    let guest = |name: &str| format!("  {name}:\n    passthrough_devices:\n{shared}");
    let text = format!("vms:\n{}{}", guest("a"), guest("b"));
    fs::write(rig.scratch().join("shared.yaml"), text).unwrap();
    let both = "domains 'a' and 'b' both get 0000:40:01.0: only one of them can run";
    let one = |name: &str| {
        format!(
            "requests 1 and 2 of guest {name} both select 0000:40:01.0; the guest gets the device once"
        )
    };
    let set = td(&rig, &host, "@td hostdevs --config shared.yaml -y").document();
    assert_eq!(set["warnings"], json!([one("a"), one("b"), both]), "{set:#}");
    for name in ["a", "b"] {
        let xml = xml(&rig, name);
        assert_eq!(xml.matches("<hostdev").count(), 1, "{xml}");
        // An ordinary guest sees the option ROM.
        assert!(!xml.contains("<rom"), "{xml}");
    }
    // The pipe lacks the warnings of resolve: hostdevs finds the shared device itself.
    rig.virsh(["start", "c"]);
    let line =
        "echo '[{\"vm\":\"c\",\"devices\":[{\"bdf\":\"40:01.0\"}]}]' | @td hostdevs - -y --no-rom";
    let set = td(&rig, &host, line).document();
    let warnings = set["warnings"].to_string();
    for name in ["a", "b"] {
        let said = format!(
            "domain '{name}' has a definition with 0000:40:01.0: only one of '{name}' and "
        );
        assert!(warnings.contains(&said), "{warnings}");
    }
    assert!(xml(&rig, "c").contains("<rom bar='off'/>"), "{}", xml(&rig, "c"));
    rig.virsh(["destroy", "c"]);
}

/// The resolution of one domain with one device, as an item.
fn resolved(vm: &str, device: Value) -> Value {
    json!({ "vm": vm, "devices": [device] })
}

#[test]
#[ignore = "needs root"]
fn a_piped_device_that_is_absent_changed_or_needed_changes_no_domain() {
    let rig = Rig::start();
    let mut host = machine(&rig);
    let more = &[("reset_method", "flr bus"), ("modalias", "pci:x")][..];
    let nic = Spec { ids: "8086:1521", class: "020000", driver: "igb", group: Some(90), more };
    host.device("0000:60", "0000:60:00.0", nic);
    let bridge = Spec { ids: "8086:1901", class: "060400", group: Some(91), ..nic };
    host.device("0000:60", "0000:60:1c.0", Spec { driver: "pcieport", ..bridge });
    host.interface("0000:60:00.0", "eth0");
    let route = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
         eth0\t00000000\t0102000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
    host.file("proc/net/route", route);
    define(&rig, &foreign("a", ""));
    define(&rig, &foreign("b", ""));
    let before = (xml(&rig, "a"), xml(&rig, "b"));
    let run = |items: &Value, more: &str| {
        fs::write(rig.scratch().join("items.json"), items.to_string()).unwrap();
        td(&rig, &host, &format!("@td hostdevs - {more} <items.json"))
    };
    for (device, status, code) in [
        (json!({"bdf": "0000:50:00.0"}), 4, None),
        (json!({"bdf": "0000:40:02.0", "vendor_id": "10de"}), 5, Some("IDENTITY_CHANGED")),
        (json!({"bdf": "0000:40:02.0", "host": "node2"}), 5, Some("IDENTITY_CHANGED")),
        (json!({"bdf": "0000:60:1c.0"}), 5, Some("NONENDPOINT")),
        (json!({"bdf": "0000:01:00.0"}), 5, Some("HOST_DRIVER")),
        (json!({"bdf": "0000:60:00.0"}), 5, Some("HOST_NET_DEFAULT_ROUTE")),
    ] {
        host.file("etc/hostname", "node1\n");
        // The first domain's device is acceptable.
        let first = resolved("a", json!({"bdf": "0000:40:01.0", "vendor_id": "8086"}));
        let items = json!([first, resolved("b", device.clone())]);
        for more in ["-y", "-n"] {
            let error = run(&items, more).error(status);
            assert_eq!(error["code"], json!(code), "{error}");
            let bdf = device["bdf"].as_str().unwrap();
            assert!(error["message"].as_str().unwrap().contains(bdf), "{error}");
        }
        assert_eq!((xml(&rig, "a"), xml(&rig, "b")), before, "{device}");
    }
    let other = json!([{"vm": "a", "host": "node2", "devices": [{"bdf": "0000:40:01.0"}]}]);
    assert_eq!(run(&other, "-y").error(5)["code"], "IDENTITY_CHANGED");
    // A code that was forced for one device in resolve is not forced for another device.
    let codes = json!(["HOST_NET_DEFAULT_ROUTE", "SENSITIVE_CLASS"]);
    let route = json!({"bdf": "0000:60:00.0", "blockers": codes});
    let refused = run(&json!([resolved("a", json!({"bdf": "0000:60:00.0"}))]), "-y").error(5);
    assert!(refused["hint"].as_str().unwrap().contains("tdx-iommu resolve --force"), "{refused}");
    let forced = run(&json!([resolved("a", route)]), "-n").document();
    let told = "a: 0000:60:00.0: HOST_NET_DEFAULT_ROUTE, SENSITIVE_CLASS";
    assert_eq!(forced["warnings"], json!([told]));
    let elsewhere = json!({"vm": "a", "devices": [
        {"bdf": "0000:60:00.0"}, {"bdf": "0000:40:01.0", "blockers": codes}]});
    assert_eq!(run(&json!([elsewhere]), "-n").error(5)["code"], "HOST_NET_DEFAULT_ROUTE");
    // A device that is kept may be absent from the host.
    let absent = json!([resolved("a", json!({"bdf": "0000:50:00.0"}))]);
    assert_eq!(run(&absent, "--keep 50:00.0 -y").document()["changed"], false);
    assert_eq!((xml(&rig, "a"), xml(&rig, "b")), before);
}

#[test]
#[ignore = "needs root"]
fn a_piped_device_of_a_remote_host_is_looked_up_by_libvirt() {
    let rig = Rig::start();
    let host = machine(&rig);
    define(&rig, &foreign("a", ""));
    let before = xml(&rig, "a");
    let run = |device: Value, more: &str| {
        let items = json!([resolved("a", device)]);
        fs::write(rig.scratch().join("items.json"), items.to_string()).unwrap();
        let line = "@td -c qemu+tcp://127.0.0.1/system hostdevs -";
        td(&rig, &host, &format!("{line} {more} <items.json"))
    };
    // The machine made of files has the device; the machine of libvirt lacks it.
    let error = run(json!({"bdf": "0000:40:01.0"}), "-y").error(4);
    assert_eq!(error["message"], "PCI device 0000:40:01.0 not found on rig", "{error}");
    let error = run(json!({"bdf": "0000:40:01.0", "host": "node2"}), "-y").error(5);
    assert_eq!(error["code"], "IDENTITY_CHANGED");
    assert_eq!(xml(&rig, "a"), before);
    let scan = rig.shell("tdx-iommu scan | jq -c '[.items[] | select(.is_bridge | not)] | last'");
    let Ok(device @ Value::Object(_)) = serde_json::from_str(scan.text()) else {
        return; // no PCI device here
    };
    let plan = run(device.clone(), "-n").document();
    assert_eq!(plan["items"][0]["added"], json!([device["bdf"]]));
    let warnings = plan["warnings"].to_string();
    assert!(warnings.contains("uses these devices: run tdx-iommu check on that host"), "{plan:#}");
    let mut other = device;
    other["vendor_id"] = json!("10de");
    assert_eq!(run(other, "-y").error(5)["code"], "IDENTITY_CHANGED");
    assert_eq!(xml(&rig, "a"), before);
}

/// Typical definitions: each is the content of `<domain>`, with its attributes.
fn shapes() -> Vec<String> {
    // libvirt adds ports for devices and keeps them, so each definition has enough ports from the start.
    let ports = "<controller type='pci' model='pcie-root-port'/>".repeat(24);
    let ports = format!("<controller type='pci' index='0' model='pcie-root'/>{ports}");
    let domain = |attributes: &str, machine: &str, more: &str, devices: &str| {
        format!(
            "<domain type='qemu' {attributes}><name>shape</name><memory unit='MiB'>64</memory>\
             <vcpu>2</vcpu><os><type arch='x86_64' machine='{machine}'>hvm</type></os>{more}\
             <devices>{}{devices}</devices></domain>",
            if machine == "q35" { ports.as_str() } else { "" },
        )
    };
    let qemu = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'";
    let usb = "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1'/><product id='0x2'/>\
        </source></hostdev>";
    let pci = |n: u32, more: &str| {
        format!(
            "<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0x0000' \
             bus='0x41' slot='{n:#04x}' function='0x0'/></source>{more}</hostdev>"
        )
    };
    let sixteen: String = (0..16).map(|n| pci(n, "")).collect();
    vec![
        domain("", "pc", "", ""),
        domain("", "q35", "", ""),
        domain("", "q35", "", "<graphics type='vnc' port='-1' passwd='s&amp;cret'/><video><model type='vga'/></video>"),
        domain("", "pc", "<metadata><x:a xmlns:x='urn:x'><!-- kept --><x:b>1 &lt; 2</x:b></x:a></metadata>", ""),
        domain(qemu, "q35", "", "").replace("</domain>", "<qemu:commandline><qemu:arg value='-msg'/><qemu:arg value='timestamp=on'/></qemu:commandline></domain>"),
        domain("", "q35", "<cpu><numa><cell id='0' cpus='0-1' memory='65536' unit='KiB'/></numa></cpu>", ""),
        domain("", "q35", "", &sixteen),
        domain("", "q35", "", &format!("{usb}{}", pci(1, "<rom bar='off'/><alias name='ua-mine'/>"))),
        domain("", "pc", "<title>a &amp; b</title><description>ünïcode\nlines</description>", usb),
        domain("", "q35", "", "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/tmp/x.img'/><target dev='vda' bus='virtio'/><serial>a b</serial></disk>"),
        domain("", "q35", "<cputune><vcpupin vcpu='0' cpuset='0'/></cputune><on_crash>preserve</on_crash>", "<interface type='user'><model type='virtio'/></interface>"),
        domain("", "q35", "<features><acpi/><apic/></features><clock offset='localtime'/>", "<serial type='pty'/><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"),
        domain("", "pc", "<sysinfo type='smbios'><system><entry name='serial'>1</entry></system></sysinfo>", "<watchdog model='i6300esb' action='reset'/>"),
    ]
}

#[test]
#[ignore = "needs root"]
fn adding_and_removing_devices_restores_definitions_of_every_shape() {
    let rig = Rig::start();
    let host = machine(&rig);
    let set = |bdfs: &[String]| {
        let devices: Vec<Value> = bdfs.iter().map(|bdf| json!({ "bdf": bdf })).collect();
        let text = json!([{ "vm": "shape", "devices": devices }]).to_string();
        fs::write(rig.scratch().join("set.json"), text).unwrap();
        // The devices that the definition had before are kept.
        let keep: String = (0..16).map(|n| format!(" --keep 41:{n:02x}.0")).collect();
        td(&rig, &host, &format!("@td hostdevs - -y{keep} <set.json")).item()
    };
    let bdfs = |range: std::ops::Range<u32>| -> Vec<String> {
        range.map(|n| format!("0000:40:{n:02x}.0")).collect()
    };
    for shape in shapes() {
        define(&rig, &shape);
        let before = xml(&rig, "shape");
        assert_eq!(set(&[])["action"], "none", "{shape}");
        let at_a = set(&bdfs(0..4));
        // The diff contains only devices.
        let diff = at_a["diff"].as_str().unwrap();
        let inside = changed(diff);
        assert!(inside.iter().all(|line| line.starts_with('+')), "{diff}");
        assert_eq!(inside.len(), 4 * 5, "{diff}");
        let with_a = xml(&rig, "shape");
        assert_eq!(set(&bdfs(0..4))["action"], "none", "{shape}");
        let at_b = set(&bdfs(2..8));
        assert_eq!((&at_b["kept"], &at_b["removed"]), (&json!(bdfs(2..4)), &json!(bdfs(0..2))));
        set(&bdfs(0..4));
        let hostdevs = |xml: &str| xml.matches("bus='0x40'").count();
        assert_eq!(hostdevs(&xml(&rig, "shape")), hostdevs(&with_a));
        set(&[]);
        assert_eq!(xml(&rig, "shape"), before, "{shape}");
        rig.virsh(["undefine", "shape"]);
    }
}
