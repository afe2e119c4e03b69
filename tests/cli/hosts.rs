//! Hosts by name: `hosts.yaml` and `--host`, with two different libvirtds.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::rig::{Rig, guest_image};
use crate::support::tools::{self, Run, bin};

/// Runs a tool as a user whose only list of hosts is `file`.
fn with(file: &Path, tool: &str, line: &str) -> Run {
    let mut command = tools::on_path(bin(tool));
    let words = line.split(' ').filter(|word| !word.is_empty());
    command.args(words).env_remove("LIBVIRT_DEFAULT_URI").env("TDX_HOSTS", file);
    Run::of(command, b"")
}

fn names(run: &Run) -> Vec<Value> {
    let document = run.document();
    document["items"].as_array().into_iter().flatten().map(|item| item["name"].clone()).collect()
}

#[track_caller]
fn refused(run: &Run, status: i32, says: &[&str]) {
    let error = run.error(status).to_string();
    for part in says {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
}

#[test]
fn host_flag_finds_a_known_host_and_refuses_others() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hosts.yaml");
    // libvirt's own test driver answers every user; nothing answers at the other addresses.
    let list = "sandbox: {uri: 'test:///default'}\n\
        epyc1: {url: 'qemu+unix:///system?socket=/none', sev-cert: /etc/tdx/epyc1.pdh}\n\
        far: {uri: 'qemu+ssh://nobody@192.0.2.1/system?command=/bin/false'}\n";
    fs::write(&file, list).unwrap();
    assert_eq!(names(&with(&file, "tdx-td", "--host sandbox list")), [json!("test")]);
    assert_eq!(names(&with(&file, "tdx-td", "list --host sandbox")), [json!("test")]);
    assert_eq!(names(&with(&file, "tdx-pool", "list --host sandbox")), [json!("default-pool")]);

    for tool in ["tdx-td", "tdx-pool", "tdx-disk"] {
        let verb = if tool == "tdx-disk" { "attached" } else { "list" };
        let run = |flags: &str| with(&file, tool, &format!("{verb} {flags}"));
        refused(&run("-c test:///default --host sandbox"), 2, &["--connect and --host"]);
        let missing = ["host 'sandbx' not found", "did you mean 'sandbox'?"];
        refused(&run("--host sandbx"), 4, &missing);
        let missing = ["host 'jupiter' not found", "known hosts: epyc1, far, sandbox"];
        refused(&run("--host jupiter"), 4, &missing);
        refused(&run("--host epyc1"), 6, &["host 'epyc1'", "qemu+unix:///system?socket=/none"]);
        refused(&run("--host far"), 6, &["host 'far'", "qemu+ssh://nobody@192.0.2.1"]);
    }

    fs::write(&file, "sandbox: {uri: x, sev-crt: y}").unwrap();
    let run = || with(&file, "tdx-td", "list --host sandbox");
    refused(&run(), 3, &[&file.display().to_string(), "sev-crt"]);
    fs::write(&file, "sandbox: [").unwrap();
    refused(&run(), 3, &[&file.display().to_string()]);
    fs::remove_file(&file).unwrap();
    refused(&run(), 4, &[&file.display().to_string()]);
}

/// The list of the machine, and a user's list that overrides it.
#[test]
fn a_users_list_of_hosts_overrides_the_list_of_the_machine() {
    let root = tempfile::tempdir().unwrap();
    let own = root.path().join("home/tdx");
    fs::create_dir_all(root.path().join("etc/tdx")).unwrap();
    fs::create_dir_all(&own).unwrap();
    let list = "a: {uri: 'test:///default'}\nb: {uri: 'qemu+unix:///system?socket=/none'}\n";
    fs::write(root.path().join("etc/tdx/hosts.yaml"), list).unwrap();
    let run = |host: &str| {
        let mut command = tools::on_path(bin("tdx-td"));
        command.args(["--sysroot".as_ref(), root.path().as_os_str()]);
        command.args(["list", "--host", host]).env_remove("TDX_HOSTS");
        command.env("XDG_CONFIG_HOME", root.path().join("home"));
        Run::of(command, b"")
    };
    assert_eq!(names(&run("a")), [json!("test")]);
    run("b").error(6);
    fs::write(own.join("hosts.yaml"), "b: {uri: 'test:///default'}\n").unwrap();
    assert_eq!(names(&run("a")), [json!("test")]);
    assert_eq!(names(&run("b")), [json!("test")]);
}

#[test]
#[ignore = "needs root"]
fn host_flag_selects_the_guests_and_verbs_that_must_be_local_refuse_it() {
    let (near, other) = (Rig::start(), Rig::start());
    let uri = |rig: &Rig| {
        let socket = rig.path("/run/libvirt/libvirt-sock");
        format!("qemu+unix:///system?socket={}", socket.display())
    };
    let file = near.scratch().join("hosts.yaml");
    let list = format!("near: {{uri: '{}'}}\nother: {{url: '{}'}}\n", uri(&near), uri(&other));
    fs::write(&file, list).unwrap();
    let xml = |name: &str| {
        format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory>\
             <os><type arch='x86_64'>hvm</type></os></domain>"
        )
    };
    for (rig, name) in [(&near, "here"), (&other, "there")] {
        let path = rig.scratch().join("domain.xml");
        fs::write(&path, xml(name)).unwrap();
        rig.virsh(["define".as_ref(), path.as_os_str()]);
    }
    for (host, name) in [("near", "here"), ("other", "there")] {
        assert_eq!(names(&with(&file, "tdx-td", &format!("list --host {host}"))), [json!(name)]);
    }
    assert_eq!(with(&file, "tdx-td", "start there --host other").item()["action"], "start");
    assert_eq!(other.virsh(["domstate", "there"]), "running");
    with(&file, "tdx-td", "start there --host near").error(4);
    let console = with(&file, "tdx-td", "virsh --host other -- list --name");
    assert_eq!(console.text().trim(), "there");
    other.virsh(["destroy", "there"]);
    with(&file, "tdx-disk", "attached there --host other").document();
    with(&file, "tdx-disk", "attached there --host near").error(4);
    with(&file, "tdx-pool", "list --host near").document();

    // The tools take this host for a remote one, because its URI names a TCP address.
    let remote = near.scratch().join("remote.yaml");
    fs::write(&remote, "far: {uri: 'qemu+tcp://127.0.0.1/system'}\n").unwrap();
    let far = |tool: &str, line: &str| {
        near.shell(&format!("TDX_HOSTS='{}' {tool} --host far {line}", remote.display()))
    };
    assert_eq!(names(&far("tdx-td", "list")), [json!("here")]);
    let cleanup = far("tdx-pool", "cleanup --yes");
    refused(&cleanup, 6, &["cannot read the processes and locks of a remote host"]);
    let image = guest_image(false);
    let device = format!("new -i {} --security none -g 00:01.0", image.display());
    refused(
        &far("tdx-td", &device),
        6,
        &["PCI devices of a remote host cannot be bound from here"],
    );
}
