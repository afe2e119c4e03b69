//! The refusals of `tdx-td`: the exit status, a message with the cause, and no change.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::support::rig::{Rig, guest_image};
use crate::support::td::{self, IMAGES, SMALL, new, rig_with_base, td};
use crate::support::tools::{Run, tool, tool_with_input};

/// Expects this status, `says` in the message or the causes, and `hints` in the hint.
#[track_caller]
fn refused(run: &Run, status: i32, says: &str, hints: &str) {
    let error = run.error(status);
    let text = format!("{} {}", error["message"], error["causes"]);
    assert!(text.contains(says), "{says:?} is not in {text}");
    let hint = error["hint"].as_str().unwrap_or_default();
    assert!(hint.contains(hints), "{hints:?} is not in {hint:?}");
}

#[test]
fn usage_errors_are_json_and_exit_2() {
    for (line, says) in [
        ("", "no command given"),
        ("destroy", "destroy"),
        ("list --colour", "--colour"),
        ("new -i", "a value is required for '--td-image"),
        ("new --name a/b", "slash"),
        ("new --name a\nb", "control character"),
        ("new --name -", "standard input"),
        ("new --name ..", "cannot create a directory"),
        ("new --memory 0", "too little"),
        ("new --memory lots", "not a size"),
        ("new --memory 99999999P", "does not fit in 64 bits"),
        ("new --vcpus 0", "0 is not in 1..=4096"),
        ("new --vcpus 4097", "4097 is not in 1..=4096"),
        ("new --vcpus many", "many"),
        ("new --hotplug-ports 65", "65 is not in"),
        ("new --security strong", "strong"),
        ("new --virt-type xen", "xen"),
        ("new -i a --base b", "cannot be used with"),
        ("delete", "<NAME>"),
        ("delete --all web1", "cannot be used with"),
        ("stop", "<NAME>"),
        ("start a -", "cannot be combined"),
        ("stop --timeout -1 a", "'-1'"),
    ] {
        let words = line.split(' ').filter(|word| !word.is_empty());
        refused(&tool("tdx-td", words), 2, says, "");
    }
    let long = "x".repeat(201);
    refused(&tool("tdx-td", ["new", "--name", &long]), 2, "longer than 200 bytes", "--help");
}

#[test]
fn documents_of_the_wrong_kind_exit_3_before_the_connection() {
    // No libvirtd runs here: only a document that is refused before the connection gives these errors.
    let unreachable = |verb: &str, input: &str| {
        let connect = ["-c", "qemu+unix:///system?socket=/none"];
        tool_with_input("tdx-td", connect.into_iter().chain(verb.split(' ')), input)
    };
    let volumes = r#"{"schema_version":"1.0","kind":"tdx.pool.volumes","items":[]}"#;
    let two = r#"{"name":"a","pool":"p"} {"name":"b","pool":"p"}"#;
    for (verb, input, says) in [
        ("new --base -", "", "standard input is empty"),
        ("new --base -", "qcow2", "not JSON"),
        (
            "new --base -",
            r#"{"schema_version":"1.0","kind":"tdx.td.domains","items":[]}"#,
            "tdx.td.domains",
        ),
        ("new --base -", r#"{"schema_version":"2.0","kind":"tdx.pool.import","items":[]}"#, "2.0"),
        ("new --base -", volumes, "expected one base image on standard input, got 0"),
        ("new --base -", two, "expected one base image on standard input, got 2"),
        ("new --base -", r#"[{"name":"a"}]"#, "item 1"),
        ("render --base -", "", "standard input is empty"),
        ("overlay --base -", "", "standard input is empty"),
        ("stop -", "", "standard input is empty"),
        ("stop -", volumes, "tdx.pool.volumes"),
        ("start -", r#"["web1"]"#, "item 1"),
        ("show -", "web1", "not JSON"),
        ("delete - --yes", r#"{"nam":"web1"}"#, "missing field"),
    ] {
        let error = unreachable(verb, input).error(3);
        let text = error.to_string();
        assert!(text.contains(says), "{verb}: {says:?} is not in {text}");
    }
    // With a valid document, or without one, the connection fails.
    unreachable("stop -", r#"[{"name":"a"}]"#).error(6);
    unreachable("list", "").error(6);
    unreachable("show a", "").error(6);
    unreachable("delete a --yes", "").error(6);
}

#[test]
#[ignore = "needs root"]
fn new_refuses_bad_input_before_it_changes_anything() {
    let rig = Rig::start();
    let before = rig.state();
    let scratch = |name: &str| rig.scratch().join(name);
    let image = guest_image(false);
    let bytes = std::fs::read(&image).unwrap();
    std::fs::write(scratch("text.qcow2"), "not a disk image").unwrap();
    std::fs::write(scratch("cut.qcow2"), &bytes[..70_000]).unwrap();
    std::fs::create_dir(scratch("folder")).unwrap();
    let line = format!("qemu-img create -q -f qcow2 -b {} -F qcow2 over.qcow2", image.display());
    rig.shell(&line).text();

    let file = image.display();
    let net = "<network><name>idle</name><bridge name='idle0'/></network>";
    std::fs::write(scratch("idle.xml"), net).unwrap();
    rig.virsh(["net-define".as_ref(), scratch("idle.xml").as_os_str()]);
    for (more, status, says, hints) in [
        ("-i absent.qcow2", 4, "absent.qcow2", ""),
        ("-i /no/such/folder/a.qcow2", 4, "/no/such/folder/a.qcow2", ""),
        ("-i folder", 3, "folder", ""),
        ("-i cut.qcow2", 3, "cut.qcow2", ""),
        ("-i over.qcow2", 3, "is an overlay of", ""),
        ("-i FILE --disk-size 1M", 5, "is smaller than image", ""),
        ("-i FILE --network absent", 4, "network 'absent' not found", "net-list"),
        ("-i FILE --network idle", 5, "network 'idle' is not active", "net-start idle"),
        ("-i FILE --virt-type kvm", 6, "does not support KVM", "--virt-type qemu"),
        ("--base guest.qcow2", 4, "pool 'tdvirsh-pool' does not exist", ""),
    ] {
        let more = more.replace("FILE", &file.to_string());
        refused(&td(&rig, &format!("new {} {more}", SMALL[..2].join(" "))), status, says, hints);
    }
    // QEMU 10 accepts as many processors as can be requested.
    let capabilities =
        "virsh domcapabilities --virttype qemu --machine q35 | grep -o \"vcpu max='[0-9]*\"";
    let most: u32 =
        rig.shell(capabilities).text().trim().split('\'').nth(1).unwrap().parse().unwrap();
    assert!(most >= 288, "{most}");
    if most < 4096 {
        let line = format!("new --security none -i {file} --vcpus {}", most + 1);
        refused(&td(&rig, &line), 6, &format!("{} vCPUs are too many", most + 1), "");
    }
    let tdx = td(&rig, &format!("new -i {file}"));
    refused(&tdx, 6, "does not support TDX trust domains", "--security none");
    refused(&tdx, 6, "does not support TDX (11.6.0 and newer versions do)", "");
    refused(&td(&rig, "new --security none"), 4, "no image was given", "--td-image");
    refused(
        &td(&rig, &format!("new -i {file} --security tdx --virt-type qemu")),
        2,
        "cannot run a guest with --security tdx",
        "none",
    );
    rig.virsh(["net-undefine", "idle"]);
    assert_eq!(rig.state(), before);

    // The pool has an image.
    rig.tool("tdx-pool", ["import".as_ref(), image.as_os_str()]).document();
    td(&rig, "overlay -i guest.qcow2").document();
    let overlay = td::volumes(&rig).into_iter().find(|name| name.starts_with("overlay")).unwrap();
    td::define(&rig, &td::foreign("theirs", ""));
    let before = rig.state();
    refused(&new(&rig, "--name theirs"), 5, "was not created by these tools", "--name");
    refused(&new(&rig, &format!("-i {overlay}")), 3, "is an overlay of", "qemu-img convert");
    refused(&new(&rig, "--base absent.qcow2"), 4, "volume 'absent.qcow2' not found", "");
    let base = rig.path("/var/lib/libvirt/images/guest.qcow2");
    std::fs::set_permissions(&base, std::fs::Permissions::from_mode(0o600)).unwrap();
    refused(&new(&rig, ""), 5, "cannot read", "chgrp");
    std::fs::set_permissions(&base, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(rig.state(), before);

    refused(&td(&rig, "delete theirs --yes"), 5, "was not created by these tools", "--foreign");
    refused(&td(&rig, "delete theirs --foreign"), 5, "not confirmed", "--yes");
    refused(&td(&rig, "show absent theirs"), 4, "domain 'absent' not found", "tdx-td list");
    refused(&td(&rig, "start absent"), 4, "domain 'absent' not found", "tdx-td list");
    refused(&td(&rig, "stop absent"), 4, "domain 'absent' not found", "tdx-td list");
    assert_eq!(rig.state(), before);

    rig.libvirtd("stop");
    for line in ["list", "show a", "delete a --yes", "new -i guest.qcow2", "start a", "stop a"] {
        refused(&td(&rig, line), 6, "cannot connect to libvirt", "libvirt-daemon-system");
    }
}

/// A host whose memory was extended later: its NUMA node reports less memory than the machine has.
#[test]
#[ignore = "needs root"]
fn memory_is_compared_with_the_larger_of_the_hosts_figures() {
    let rig = rig_with_base();
    let host = |node: u64, machine: u64| {
        let files = [("/sys/devices/system/node/node0/meminfo", node), ("/proc/meminfo", machine)];
        for (file, gib) in files {
            let kib = gib << 20;
            let figure = format!("figure.{machine}.{gib}");
            rig.shell(&format!(
                "sed -E 's/(MemTotal: +)[0-9]+/\\1{kib}/' {file} >{figure} && \
                 mount --bind {figure} {file}"
            ))
            .text();
        }
    };
    let memory = |line: &str| {
        let run = td(&rig, &format!("render -i guest.qcow2 --security none {line}")).document();
        let xml = run["items"][0]["xml"].as_str().unwrap();
        let memory = xml.split("<memory unit='KiB'>").nth(1).unwrap().split('<').next().unwrap();
        let warnings = run["warnings"].as_array().unwrap().iter();
        let about = warnings.filter(|warning| warning.as_str().unwrap().contains("memory"));
        (memory.parse::<u64>().unwrap() >> 10, about.cloned().collect::<Vec<_>>())
    };
    host(7, 24);
    assert_eq!(memory("--scenario computation"), (8192, vec![]));
    assert_eq!(memory("--memory 16G"), (16384, vec![]));
    let much = json!("the guest's memory is 30 GiB, but the host has only 24 GiB");
    assert_eq!(memory("--memory 30G"), (30720, vec![much.clone()]));
    let new = td(&rig, "new -i guest.qcow2 --security none --memory 30G -n").document();
    assert!(new["warnings"].as_array().unwrap().contains(&much), "{new}");
    rig.shell("umount /proc/meminfo /sys/devices/system/node/node0/meminfo").text();

    host(7, 7);
    let (got, warnings) = memory("--scenario computation");
    assert_eq!(got, 3584);
    assert!(warnings[0].as_str().unwrap().contains("because the host has 7 GiB"), "{warnings:?}");
    assert_eq!(memory("--scenario computation --memory 8G").0, 8192);
}

#[test]
#[ignore = "needs root"]
fn new_refuses_a_pool_below_a_closed_directory_before_it_copies() {
    let rig = Rig::start();
    rig.shell("mkdir -p closed/vms && chmod 0700 closed").text();
    let closed = rig.scratch().join("closed").display().to_string();
    let ensure = format!("tdx-pool ensure --pool vms --path {closed}/vms");
    let warnings = || rig.shell(&ensure).document()["warnings"].clone();
    let expected = format!("cannot enter {closed}:");
    assert!(warnings()[0].as_str().unwrap().contains(&expected), "{}", warnings());
    let image = guest_image(false);
    let image = image.display();
    let run = new(&rig, &format!("-i {image} --pool vms"));
    refused(&run, 5, &expected, &format!("chmod o+x {closed}"));
    assert_eq!(rig.shell("ls closed/vms").text(), "");
    let imported = rig.shell(&format!("tdx-pool import {image} --pool vms")).document();
    assert!(imported["warnings"][0].as_str().unwrap().contains(&expected), "{imported}");
    // An access control list opens the directory as well as its mode does.
    rig.shell("chmod o+x closed").text();
    assert_eq!(warnings(), json!([]));
    new(&rig, "-i guest.qcow2 --pool vms --name open").item();
}

/// libvirt cannot read a pool with such a file, and reports an unknown cause.
#[test]
#[ignore = "needs root"]
fn a_truncated_download_in_the_pool_is_named_with_its_remedy() {
    let rig = rig_with_base();
    let cut = format!("{IMAGES}/cut.qcow2");
    rig.shell(&format!("head -c 60 {IMAGES}/guest.qcow2 >{cut}")).text();
    let hint = format!("delete {cut}");
    refused(&rig.tool("tdx-pool", ["volumes"]), 3, &cut, &hint);
    // libvirt has stopped the pool because of the file.
    refused(&rig.tool("tdx-pool", ["ensure"]), 3, &cut, &hint);
    let image = guest_image(true);
    refused(&new(&rig, &format!("-i {}", image.display())), 3, &cut, &hint);
    refused(&new(&rig, "-i cut.qcow2"), 3, &cut, "download the image again");
    rig.shell(&format!("rm {cut}")).text();
    new(&rig, "-i guest.qcow2 --name whole").item();
}
