//! `tdx-td list` and `show` of every kind of domain; `virsh`; the output streams.

use serde_json::json;

use crate::support::rig::{Rig, guest_image};
use crate::support::td::{define, foreign, listed, new, rig_with_base, td};
use crate::support::tools::{self, Run, tool};

/// The XML that the original script creates from its `regular_vm` template: firmware as ROM, a console, an
/// agent, and a second network card on a user network with a forwarded port that QEMU chooses.
fn of_the_script(name: &str, overlay: &str) -> String {
    format!(
        "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <memory unit='MiB'>256</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><loader type='rom'>/usr/share/ovmf/OVMF.fd</loader><boot dev='hd'/></os>
  <features><acpi/><apic/><ioapic driver='qemu'/></features>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{overlay}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='network'><source network='default'/><model type='virtio'/></interface>
    <console type='pty'><target type='virtio' port='1'/></console>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-device'/>
    <qemu:arg value='virtio-net-pci,netdev=nic0_td,bus=pcie.0,addr=0x1e'/>
    <qemu:arg value='-netdev'/>
    <qemu:arg value='user,id=nic0_td,hostfwd=tcp::0-:22'/>
  </qemu:commandline>
</domain>"
    )
}

#[test]
#[ignore = "needs root"]
fn domains_of_the_original_script_count_as_managed() {
    let rig = Rig::start();
    let before = rig.state();
    let uuid = "8e2a6c1e-5e0c-4c60-8b37-1b4ff8b7a001";
    let name = format!("tdvirsh-trust_domain-{uuid}");
    // The original's directory name ends in a slash, which shows in the path.
    let work = rig.scratch().join("tdvirsh");
    std::fs::create_dir(&work).unwrap();
    let base = work.join("base.qcow2");
    std::fs::copy(guest_image(false), &base).unwrap();
    let overlay = format!("{}//overlay.abcDEF012345678.qcow2", work.display());
    rig.shell(&format!("qemu-img create -q -f qcow2 -b {} -F qcow2 {overlay}", base.display()))
        .text();
    define(&rig, &of_the_script(&name, &overlay));
    let other = format!("{}//overlay.abcDEF012345679.qcow2", work.display());
    define(&rig, &of_the_script("my-tdvirsh-lab", &other));

    let off = listed(&rig, &name);
    assert_eq!(
        (&off["managed"], &off["state"], &off["ssh"]),
        (&json!(true), &json!("shut off"), &json!(null))
    );
    td(&rig, &format!("start {name}")).item();
    let on = listed(&rig, &name);
    assert_eq!(on["overlay"], overlay.as_str());
    assert_eq!(on["base"], base.to_str().unwrap());
    assert_eq!(on["ssh"]["host"], "127.0.0.1");
    let port = on["ssh"]["port"].as_u64().unwrap();
    rig.shell(&format!("exec 3<>/dev/tcp/127.0.0.1/{port}")).text();
    assert_eq!(listed(&rig, "my-tdvirsh-lab")["managed"], false);

    // An internal snapshot is deleted with the overlay. A layer that libvirt made is kept, with the file that
    // backs it.
    let snapshot = |flags: &str| {
        rig.virsh(["snapshot-create-as", &name].into_iter().chain(flags.split(' ')));
    };
    snapshot("inside");
    snapshot("outside --disk-only");
    assert!(work.join("overlay.abcDEF012345678.outside").exists());
    let gone = td(&rig, "delete --all --yes --timeout 0").item();
    assert_eq!(gone["name"], name.as_str());
    assert_eq!(gone["kept"].as_array().unwrap().len(), 2, "{gone}");
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 3, "{gone}");
    assert_eq!(td(&rig, "list").item()["name"], "my-tdvirsh-lab");
    td(&rig, "delete my-tdvirsh-lab --foreign --yes").item();
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn list_and_show_describe_every_kind_of_domain() {
    let rig = rig_with_base();
    let disks = "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>\
        <disk type='volume' device='disk'><source pool='tdvirsh-pool' volume='v &amp; w'/>\
        <target dev='vda' bus='virtio'/></disk>\
        <disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/null'/>\
        <target dev='vdb' bus='virtio'/></disk>\
        <disk type='network' device='disk'><source protocol='nbd' name='export'>\
        <host name='h' port='1'/></source><target dev='vdc' bus='virtio'/></disk>";
    let hostdev = "<hostdev mode='subsystem' type='pci' managed='yes'><source>\
        <address domain='0x0010' bus='0x17' slot='0x1f' function='0x7'/></source></hostdev>\
        <hostdev mode='subsystem' type='usb'><source><vendor id='0x1'/><product id='0x2'/></source>\
        </hostdev><controller type='usb' model='qemu-xhci'/>";
    define(&rig, &foreign("disks", disks));
    define(&rig, &foreign("gpu", hostdev).replace("<controller type='usb' model='none'/>", ""));
    define(&rig, &foreign("auto", ""));
    rig.virsh(["autostart", "auto"]);
    let file = rig.scratch().join("t.xml");
    std::fs::write(&file, foreign("passing", "")).unwrap();
    rig.virsh(["create".as_ref(), file.as_os_str(), "--paused".as_ref()]);
    new(&rig, "--name ours").item();

    let item = |name| listed(&rig, name);
    let disks = item("disks")["disks"].clone();
    let sources: Vec<_> = disks.as_array().unwrap().iter().map(|disk| &disk["source"]).collect();
    assert_eq!(json!(sources), json!([null, "tdvirsh-pool/v & w", "/dev/null", "export"]));
    assert_eq!((&disks[0]["device"], &disks[0]["target"]), (&json!("cdrom"), &json!("sda")));
    assert_eq!(item("gpu")["hostdevs"], json!(["0010:17:1f.7"]));
    assert_eq!(
        (&item("auto")["autostart"], &item("gpu")["autostart"]),
        (&json!(true), &json!(false))
    );
    let passing = item("passing");
    assert_eq!((&passing["state"], &passing["managed"]), (&json!("paused"), &json!(false)));
    let ours = item("ours");
    assert_eq!((&ours["managed"], &ours["pool"]), (&json!(true), &json!("tdvirsh-pool")));
    assert_eq!((&ours["security"], &ours["vcpus"]), (&json!("none"), &json!(1)));
    assert_eq!((&ours["memory_bytes"], &ours["autostart"]), (&json!(256 << 20), &json!(false)));

    // show prints the same and does not wait for agents, of which none answers.
    let shown = rig.shell("timeout 120 tdx-td show ours passing disks --json").document();
    assert_eq!(shown["items"][1]["overlay"], ours["overlay"]);
    assert_eq!(shown["items"].as_array().unwrap().len(), 3);

    // A transient domain is gone after its shutdown; the ARP table may be missing.
    assert_eq!(td(&rig, "delete passing --foreign --yes --timeout 0").item()["action"], "delete");
    assert_eq!(td(&rig, "delete passing --foreign --yes").item()["action"], "none");
    td(&rig, "list --sysroot /nonexistent").document();

    // Ids in tables differ from run to run.
    let table = td(&rig, "list --format table");
    let id = ours["id"].to_string();
    let table = table.text().replace(&format!("\n{id:<2}"), "\n1 ");
    assert_eq!(
        table,
        "ID  NAME   STATE     SECURITY  IP  SSH  CID\n\
         -   auto   shut off  none      -   -    -\n\
         -   disks  shut off  none      -   -    -\n\
         -   gpu    shut off  none      -   -    -\n\
         1   ours   running   none      -   -    -\n"
    );
}

#[test]
#[ignore = "needs root"]
fn list_succeeds_while_domains_appear_and_disappear() {
    let rig = Rig::start();
    let script = rig.scratch().join("define.virsh");
    let mut lines = String::new();
    for n in 0..200 {
        let file = rig.scratch().join(format!("d{n}.xml"));
        std::fs::write(&file, foreign(&format!("d{n}"), "")).unwrap();
        lines += &format!("define {}\n", file.display());
    }
    std::fs::write(&script, lines).unwrap();
    rig.shell(&format!("virsh <{} >/dev/null", script.display())).text();
    assert_eq!(td(&rig, "list").document()["items"].as_array().unwrap().len(), 200);
    let undefine = "for n in {0..199}; do echo undefine d$n; done | virsh >/dev/null";
    std::thread::scope(|scope| {
        let going = scope.spawn(|| rig.shell(undefine));
        let mut seen = Vec::new();
        while !going.is_finished() {
            seen.push(td(&rig, "list").document()["items"].as_array().unwrap().len());
        }
        going.join().unwrap().text();
        assert!(seen.is_sorted_by(|a, b| a >= b), "{seen:?}");
    });
    assert_eq!(td(&rig, "list").document()["items"], json!([]));
    assert_eq!(td(&rig, "list --format table").text().lines().count(), 1);
    assert_eq!(td(&rig, "list --format name").text(), "");
}

#[test]
#[ignore = "needs root"]
fn output_streams_and_virsh_keep_the_contract() {
    let rig = Rig::start();
    define(&rig, &foreign("one", ""));
    // Output for programs does not depend on the language.
    let mut command = rig.command(tools::bin("tdx-td"));
    command.args(["show", "absent"]).env("LANG", "ja_JP.UTF-8").env("LC_ALL", "ja_JP.UTF-8");
    let error = Run::of(command, b"").error(4);
    assert_eq!(error["message"], "domain 'absent' not found");
    // A reader that ends early is no error.
    let closed = rig.shell(
        "for i in 1 2 3 4 5; do tdx-td list | true; test ${PIPESTATUS[0]} = 0 || exit; done",
    );
    assert_eq!((closed.text(), closed.stderr.as_str()), ("", ""));
    // A full disk is an error.
    let full = rig.shell("tdx-td list >/dev/full");
    assert_eq!(full.status, Some(1), "{full:#?}");
    assert!(full.stderr.contains("cannot write to standard output"), "{full:#?}");

    let virsh = td(&rig, "virsh list --all --name");
    assert_eq!(virsh.text().trim(), "one");
    assert_eq!(td(&rig, "virsh -q domstate one").text().trim(), "shut off");
    assert_eq!(td(&rig, "virsh dominfo absent").status, Some(1));
    let far = td(&rig, "-c test:///default virsh -- list --name");
    assert_eq!(far.text().trim(), "test");
    assert_eq!(td(&rig, "virsh -c test:///default list --name").text().trim(), "test");
    assert_eq!(td(&rig, "virsh uri").text().trim(), "qemu:///system");
}

/// libvirt's test driver offers the states that no real guest enters on request.
#[test]
fn list_start_and_stop_handle_every_state_of_a_domain() {
    let states = [("on", 1), ("paused", 3), ("off", 5), ("crashed", 6)];
    let domain = |(name, state): (&str, u32)| {
        format!(
            "<domain type='test'><name>{name}</name><memory>1024</memory><os><type>hvm</type></os>\
             <test:runstate>{state}</test:runstate></domain>"
        )
    };
    let node = format!(
        "<node xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>{}</node>",
        states.map(domain).concat()
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), node).unwrap();
    let uri = format!("test://{}", file.path().display());
    let td = |line: &str| tool("tdx-td", ["-c", &uri].into_iter().chain(line.split(' ')));

    let shown = td("list").document()["items"].clone();
    let state = |item: &serde_json::Value| (item["name"].clone(), item["state"].clone());
    assert_eq!(
        shown.as_array().unwrap().iter().map(state).collect::<Vec<_>>(),
        [("crashed", "crashed"), ("off", "shut off"), ("on", "running"), ("paused", "paused")]
            .map(|(name, state)| (json!(name), json!(state)))
    );
    assert_eq!(td("show paused").item()["state"], "paused");
    for (name, action) in [("on", "none"), ("paused", "resume"), ("off", "start")] {
        assert_eq!(td(&format!("start {name}")).item()["action"], action, "{name}");
    }
    assert_eq!(td("start crashed").error(5)["message"], "domain 'crashed' has crashed");
    let hint = td("stop crashed").error(5)["hint"].clone();
    assert!(hint.as_str().unwrap().contains("--force"), "{hint}");
    assert_eq!(td("stop crashed --force").item()["action"], "stop");
    assert_eq!(td("stop off").item()["action"], "none");
}
