//! `tdx-td new`, `render` and `overlay`: what they create, and what a dry run shows.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use serde_json::{Value, json};

use crate::support::rig::{Rig, guest_image};
use crate::support::td::{self, SMALL, listed, new, rig_with_base, td, volumes, words};
use crate::support::tools::{self, Run};
use crate::support::wait::wait_for;

/// The keys of an object, in order.
fn keys(item: &Value) -> Vec<&String> {
    item.as_object().unwrap().keys().collect()
}

#[test]
#[ignore = "needs root"]
fn dry_run_changes_nothing_and_shows_what_new_creates() {
    let rig = Rig::start();
    let before = rig.state();
    let image = guest_image(false);
    let flags = format!("{} -i {} --name web1", SMALL.join(" "), image.display());

    // Nothing exists yet, not even the pool.
    let planned = td(&rig, &format!("new --dry-run {flags}"));
    let document = planned.document();
    assert_eq!((&document["dry_run"], &document["changed"]), (&json!(true), &json!(true)));
    let imagined = planned.item();
    assert_eq!(imagined["base"], "/var/lib/libvirt/images/guest.qcow2");
    assert_eq!(imagined["memory_bytes"], 256 << 20);
    let rendered = td(&rig, &format!("render {flags}")).item();
    assert_eq!(rendered["name"], "web1");
    assert!(rendered["xml"].as_str().unwrap().starts_with("<domain type='qemu'>"));
    td(&rig, &format!("overlay -n -i {}", image.display())).document();
    assert_eq!(rig.state(), before);

    // The whole definition, on a host without vsock. Words replace values that differ from run
    // to run.
    let xml = td(&rig, &format!("render {flags} --xml --sysroot none"));
    let (mut stable, version) = (xml.text().to_owned(), env!("CARGO_PKG_VERSION"));
    for (start, end, word) in [
        ("<uuid>", "</uuid>", "UUID"),
        ("overlay.", ".qcow2", "RANDOM"),
        ("version='", "'", "VERSION"),
    ] {
        let value = stable.split_once(start).unwrap().1.split_once(end).unwrap().0;
        let value = value.to_owned();
        assert!(value.len() == 36 || value.len() == 15 || value == version, "{value}");
        stable = stable.replace(&value, word);
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| insta::assert_snapshot!("td_render", stable));

    // The plan has the keys of the item that new prints.
    let made = td(&rig, &format!("new {flags}")).item();
    assert_eq!(keys(&made), keys(&imagined));
    for key in ["name", "security", "managed", "vcpus", "memory_bytes", "base", "pool", "action"] {
        assert_eq!(made[key], imagined[key], "{key}");
    }
    assert_eq!(made["uuid"].as_str().unwrap().len(), 36);
    assert_eq!(made["overlay"].as_str().unwrap().rsplit('/').next().unwrap(), volumes(&rig)[1]);
    let again = td(&rig, &format!("new {flags}")).document();
    assert_eq!((&again["changed"], &again["items"][0]["action"]), (&json!(false), &json!("none")));
    let plan = td(&rig, &format!("new --dry-run {flags}")).document();
    assert_eq!(plan["changed"], false);
    td(&rig, "delete web1 --yes --timeout 0").item();
    assert_eq!(volumes(&rig), ["guest.qcow2"]);
}

/// The number of pcie-root-ports of a definition without a device.
fn free_ports(xml: &str) -> usize {
    let attribute = |line: &str, name: &str| {
        let start = line.find(&format!(" {name}='"))? + name.len() + 3;
        Some(line[start..].split('\'').next().unwrap().to_owned())
    };
    let ports = xml.lines().filter(|line| line.contains("model='pcie-root-port'"));
    let taken: Vec<u32> = xml
        .lines()
        .filter(|line| line.contains("<address type='pci'"))
        .filter_map(|line| attribute(line, "bus"))
        .map(|bus| u32::from_str_radix(bus.trim_start_matches("0x"), 16).unwrap())
        .collect();
    ports
        .filter(|line| !taken.contains(&attribute(line, "index").unwrap().parse().unwrap()))
        .count()
}

#[test]
#[ignore = "needs root"]
fn new_adds_free_hotplug_ports_that_take_a_disk() {
    let rig = rig_with_base();
    for ports in [0, 1, 8, 20, 64] {
        let line = format!("render -i guest.qcow2 {} --name p --xml", SMALL.join(" "));
        let xml = td(&rig, &format!("{line} --hotplug-ports {ports}"));
        td::define(&rig, xml.text());
        assert_eq!(free_ports(&rig.virsh(["dumpxml", "p"])), ports);
        rig.virsh(["undefine", "p", "--nvram"]);
    }
    new(&rig, "--name p --disk-size 1G").item();
    rig.shell("qemu-img create -q -f qcow2 /var/lib/libvirt/images/more.qcow2 8M").text();
    let attach = "attach-disk p /var/lib/libvirt/images/more.qcow2 vdb --subdriver qcow2 --live";
    rig.virsh(words(attach));
    rig.virsh(words(
        "attach-disk p /var/lib/libvirt/images/more.qcow2 sda --targetbus scsi --config",
    ));
    let item = listed(&rig, "p");
    let disks: Vec<_> = item["disks"].as_array().unwrap().iter().map(|d| &d["target"]).collect();
    assert_eq!(disks, ["vda", "vdb"]);
    // The overlay has the requested size, and the base image is unchanged.
    let size = |path: &str| {
        let info = rig.shell(&format!("qemu-img info -U --output json {path}"));
        let info: Value = serde_json::from_str(info.text()).unwrap();
        info["virtual-size"].as_u64().unwrap()
    };
    assert_eq!(size(item["overlay"].as_str().unwrap()), 1 << 30);
    assert!(size(item["base"].as_str().unwrap()) < 1 << 30);
    td(&rig, "delete p --yes --timeout 0").item();
    assert_eq!(volumes(&rig), ["guest.qcow2", "more.qcow2"], "another's disk stays");
}

#[test]
#[ignore = "needs root"]
fn new_of_an_existing_name_finds_the_domain_or_names_the_difference() {
    let rig = rig_with_base();
    rig.shell("cp /var/lib/libvirt/images/guest.qcow2 other.qcow2").text();
    new(&rig, "--name web1").item();
    for (more, says) in [
        ("--memory 512M", "memory is 256 MiB, but 512 MiB was requested"),
        ("--vcpus 2", "vcpus is 1, but 2 was requested"),
        ("--disk-size 2G", "disk_size_bytes is image, but 2147483648 was requested"),
        ("--hotplug-ports 9", "hotplug_ports is 8, but 9 was requested"),
        ("-i other.qcow2", "base is /var/lib/libvirt/images/guest.qcow2, but "),
    ] {
        let line = format!("new -i guest.qcow2 --security none --name web1 {more}");
        let line = match more.starts_with("-i") {
            true => line.replace("-i guest.qcow2 ", ""),
            false => line,
        };
        let line = match more {
            _ if more.contains("--memory") => format!("{line} --vcpus 1"),
            _ if more.contains("--vcpus") => format!("{line} --memory 256M"),
            _ => format!("{line} --memory 256M --vcpus 1"),
        };
        let error = td(&rig, &line).error(5);
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
    assert_eq!(volumes(&rig).len(), 2, "nothing was imported or made");

    // The domain is shut off, or paused: the same command runs it again.
    rig.virsh(["suspend", "web1"]);
    assert_eq!(new(&rig, "--name web1").item()["action"], "resume");
    rig.virsh(["destroy", "web1"]);
    assert_eq!(new(&rig, "--name web1 --dry-run").item()["action"], "start");
    assert_eq!(listed(&rig, "web1")["state"], "shut off");
    let started = new(&rig, "--name web1").item();
    assert_eq!((&started["action"], &started["state"]), (&json!("start"), &json!("running")));
    td(&rig, "delete web1 --yes --timeout 0").item();
}

/// Runs the same command several times at once.
fn at_once(rig: &Rig, times: usize, line: &str) -> Vec<Run> {
    std::thread::scope(|scope| {
        let run = || td(rig, line);
        let running: Vec<_> = (0..times).map(|_| scope.spawn(run)).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
#[ignore = "needs root"]
fn simultaneous_new_commands_succeed_and_create_each_name_once() {
    let rig = Rig::start();
    let image = guest_image(false);
    let small = format!("-i {} --security none --vcpus 1", image.display());
    // One of the commands creates the pool and imports the image.
    let mut names: Vec<String> = Vec::new();
    for made in at_once(&rig, 8, &format!("new {small} --memory 64M")) {
        names.push(made.item()["name"].as_str().unwrap().to_owned());
    }
    names.sort();
    names.dedup();
    assert_eq!((names.len(), volumes(&rig).len()), (8, 9));
    assert!(names.iter().all(|name| name.starts_with("tdvirsh-regular_vm-")), "{names:?}");
    let deleted = td(&rig, "delete --all --yes --timeout 0").document();
    assert_eq!(deleted["items"].as_array().unwrap().len(), 8);

    for round in 0..4 {
        let name = format!("one{round}");
        let runs = at_once(&rig, 3, &format!("new {small} --memory 64M --name {name}"));
        let created =
            runs.iter().filter(|run| run.status == Some(0) && run.item()["action"] == "create");
        assert_eq!(created.count(), 1, "{runs:#?}");
        for run in runs.iter().filter(|run| run.status != Some(0)) {
            run.error(5);
        }
        assert_eq!(listed(&rig, &name)["state"], "running");
        assert_eq!(volumes(&rig).len(), 2, "one overlay");
        td(&rig, &format!("delete {name} --yes --timeout 0")).item();
    }
    assert_eq!(volumes(&rig), ["guest.qcow2"]);
}

#[test]
#[ignore = "needs root"]
fn new_accepts_any_name_that_libvirt_accepts() {
    let rig = rig_with_base();
    let before = rig.state();
    let names =
        ["a b & 'c' \"d\" <e>", "ゲスト", "-dash", "...", "x;$(reboot)`id`", "tdvirsh-mine"];
    for name in names {
        let name_flag = format!("--name={name}");
        let flags = ["new", "-i", "guest.qcow2", &name_flag];
        let made = rig.tool("tdx-td", flags.iter().chain(&SMALL)).item();
        assert_eq!(made["name"], name);
    }
    let listed = td(&rig, "list --format name");
    let mut sorted = names;
    sorted.sort_unstable();
    assert_eq!(listed.text().lines().collect::<Vec<_>>(), sorted);
    let all = td(&rig, "list");
    assert_eq!(
        rig.pipe("tdx-td", ["show", "-"], &all.stdout).document()["items"][0]["state"],
        "running"
    );
    let gone = rig.pipe("tdx-td", words("delete - --yes --timeout 0"), &all.stdout).document();
    assert_eq!(gone["items"].as_array().unwrap().len(), names.len());
    assert_eq!(rig.state(), before);

    // Images have arbitrary names.
    let odd = "my image & 'base' \"x\" 日本.qcow2";
    std::fs::copy(guest_image(false), rig.scratch().join(odd)).unwrap();
    let made = rig.tool("tdx-td", ["new", "-i", odd, "--name", "odd"].iter().chain(&SMALL)).item();
    assert_eq!(made["base"], format!("/var/lib/libvirt/images/{odd}"));
    td(&rig, "delete odd --yes --timeout 0").item();
    assert_eq!(volumes(&rig), ["guest.qcow2", odd]);
}

#[test]
#[ignore = "needs root"]
fn new_finds_an_image_in_the_pool_in_a_file_or_by_default() {
    let rig = rig_with_base();
    let plan = |line: &str| td(&rig, &format!("new -n {} {line}", SMALL.join(" ")));
    let base = |run: Run| run.item()["base"].as_str().unwrap().to_owned();

    // A volume takes precedence over a file of the same name, with a warning.
    std::fs::copy(guest_image(false), rig.scratch().join("guest.qcow2")).unwrap();
    let both = plan("-i guest.qcow2").document();
    let warnings = both["warnings"].to_string();
    assert!(warnings.contains("write ./guest.qcow2 for the file"), "{warnings}");
    assert!(base(plan("-i ./guest.qcow2")).ends_with("/guest.qcow2"));

    // The file was copied into the directory without libvirt, and the pool is stopped.
    rig.shell("cp -p /var/lib/libvirt/images/guest.qcow2 /var/lib/libvirt/images/copied.qcow2")
        .text();
    assert_eq!(base(plan("-i copied.qcow2")), "/var/lib/libvirt/images/copied.qcow2");
    rig.virsh(["pool-destroy", "tdvirsh-pool"]);
    assert_eq!(base(plan("-i copied.qcow2")), "/var/lib/libvirt/images/copied.qcow2");
    assert_eq!(new(&rig, "-i copied.qcow2 --name late").item()["action"], "create");
    td(&rig, "delete late --yes --timeout 0").item();

    // Without --image: the image in the configuration, else the image of Canonical's instructions.
    std::fs::create_dir_all(rig.scratch().join("host/etc/tdx")).unwrap();
    let release = "NAME=\"Ubuntu\"\nVERSION_ID=\"24.04\"\n";
    std::fs::write(rig.scratch().join("host/etc/os-release"), release).unwrap();
    std::fs::create_dir(rig.scratch().join("image")).unwrap();
    let canonical = "tdx-guest-ubuntu-24.04-generic.qcow2";
    plan("--sysroot host").error(4);
    std::fs::copy(guest_image(false), rig.scratch().join("image").join(canonical)).unwrap();
    assert!(base(plan("--sysroot host")).ends_with(canonical));
    rig.shell(&format!("mv image/{canonical} /var/lib/libvirt/images/")).text();
    assert!(base(plan("--sysroot host")).ends_with(canonical));
    rig.virsh(["pool-refresh", "tdvirsh-pool"]);
    assert!(base(plan("--sysroot host")).ends_with(canonical));
    std::fs::write(rig.scratch().join("host/etc/tdx/tdx.yaml"), "image: guest.qcow2\n").unwrap();
    assert!(base(plan("--sysroot host")).ends_with("/guest.qcow2"));
}

#[test]
#[ignore = "needs root"]
fn flags_override_variables_and_variables_override_files() {
    let rig = rig_with_base();
    let host = rig.scratch().join("host");
    let user = rig.scratch().join("user/tdx");
    for folder in [host.join("etc/tdx"), user.clone()] {
        std::fs::create_dir_all(folder).unwrap();
    }
    let plan = |environment: &[(&str, &str)], more: &str| {
        let mut command = rig.command(tools::bin("tdx-td"));
        command.args(words("new -n --sysroot host")).args(more.split_whitespace());
        command.env("XDG_CONFIG_HOME", rig.scratch().join("user"));
        command.envs(environment.iter().copied());
        Run::of(command, b"")
    };
    let memory = |run: &Run| run.item()["memory_bytes"].as_u64().unwrap() >> 20;
    let etc = |text: &str| std::fs::write(host.join("etc/tdx/tdx.yaml"), text).unwrap();

    etc("security: none\nimage: guest.qcow2\nvcpus: 1\nmemory: 64M\n");
    assert_eq!(memory(&plan(&[], "")), 64);
    std::fs::write(user.join("tdx.yaml"), "memory: 128M\n").unwrap();
    assert_eq!(memory(&plan(&[], "")), 128);
    assert_eq!(memory(&plan(&[("TDX_MEMORY", "256M")], "")), 256);
    assert_eq!(memory(&plan(&[("TDX_MEMORY", "256M")], "--memory 512M")), 512);
    assert_eq!(plan(&[("TDX_VCPUS", "2")], "").item()["vcpus"], 2);

    for (text, status, says) in [
        ("memory: lots", 3, "lots"),
        ("memmory: 1G", 3, "memmory"),
        ("- memory", 3, "tdx.yaml"),
        ("security: none\nvcpus: 0", 3, "vcpus"),
        ("security: strong", 3, "strong"),
        ("security: none\nnetwork: absent\nimage: guest.qcow2", 4, "absent"),
    ] {
        etc(text);
        let error = plan(&[], "").error(status).to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
    etc("security: none\nimage: guest.qcow2");
    std::fs::write(user.join("tdx.yaml"), "memory: 0\n").unwrap();
    plan(&[], "").error(3);
    std::fs::remove_file(user.join("tdx.yaml")).unwrap();
    let warned = plan(&[], "").document()["warnings"].to_string();
    let small = rig.shell("nproc").text().trim().parse::<u32>().unwrap() < 4;
    assert_eq!(warned.contains("as many as the host has, instead of 4"), small, "{warned}");
    let more = plan(&[], "--vcpus 200").document()["warnings"].to_string();
    assert!(more.contains("200 vCPUs, more than the host's"), "{more}");
}

#[test]
#[ignore = "needs root"]
fn new_waits_while_its_base_is_deleted_and_leaves_nothing() {
    let rig = rig_with_base();
    let before = rig.shell("virsh list --all --name; ls /var/lib/libvirt/images").text().to_owned();
    // The lock that tdx-pool delete takes when a member of the group libvirt runs it.
    rig.shell(
        "mkdir -p -m 1777 /run/lock/tdx && cd /run/lock/tdx && touch guest.qcow2 && \
         chmod 640 guest.qcow2 && chown nobody:libvirt guest.qcow2",
    )
    .text();
    let mut deletion = rig.command("flock");
    deletion.args(["/run/lock/tdx/guest.qcow2", "sh", "-c", "echo; read line; rm \"$0\""]);
    deletion.arg("/var/lib/libvirt/images/guest.qcow2");
    deletion.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut deletion = deletion.spawn().unwrap();
    std::io::Read::read_exact(deletion.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let run = std::thread::scope(|scope| {
        let new = scope.spawn(|| new(&rig, "--base guest.qcow2 --name g"));
        wait_for("the wait", || {
            let held = rig.shell("test -e /run/tdx-pool/guest.qcow2").status;
            (held == Some(0)).then_some(())
        });
        drop(deletion.stdin.take());
        deletion.wait().unwrap();
        new.join().unwrap()
    });
    assert!(matches!(run.status, Some(1 | 4 | 5)), "{run:?}");
    assert!(run.stderr.contains("guest.qcow2"), "{run:?}");
    let after = rig.shell("virsh list --all --name; ls /var/lib/libvirt/images").text().to_owned();
    assert_eq!(after, before.replace("guest.qcow2\n", ""));
}

#[test]
#[ignore = "needs root"]
fn verbs_work_on_a_remote_libvirt_after_an_upload() {
    let rig = Rig::start();
    let before = rig.state();
    let remote = |line: &str| td(&rig, &format!("-c qemu+tcp://127.0.0.1/system {line}"));
    let image = guest_image(false);
    let made = remote(&format!("new -i {} {} --name far", image.display(), SMALL.join(" "))).item();
    assert_eq!((&made["action"], &made["state"]), (&json!("create"), &json!("running")));
    let there = std::fs::read(rig.path("/var/lib/libvirt/images/guest.qcow2")).unwrap();
    assert!(there == std::fs::read(&image).unwrap(), "uploaded as it is");
    let again = remote(&format!("new -i {} {} --name far", image.display(), SMALL.join(" ")));
    assert_eq!(again.document()["changed"], false);
    assert_eq!(remote("list").item()["name"], "far");
    assert_eq!(remote("show far").item()["base"], made["base"]);
    wait_for("the guest off", || {
        (remote("stop far --force").item()["action"] == "none").then_some(())
    });
    assert_eq!(remote("start far").item()["action"], "start");
    let gone = remote("delete far --yes --timeout 0").item();
    assert_eq!(gone["deleted"], json!([made["overlay"]]));
    assert_eq!(volumes(&rig), ["guest.qcow2"]);
    // An import completes an upload that was killed right before its last bytes.
    let volume = rig.path("/var/lib/libvirt/images/guest.qcow2");
    std::fs::write(&volume, [&[0; 4][..], &there[4..]].concat()).unwrap();
    let import = format!("-c qemu+tcp://127.0.0.1/system import {}", image.display());
    assert_eq!(rig.tool("tdx-pool", words(&import)).item()["action"], "import");
    assert!(there == std::fs::read(&volume).unwrap(), "completed");
    assert_eq!(rig.tool("tdx-pool", words(&import)).item()["action"], "none");
    rig.tool("tdx-pool", ["delete", "guest.qcow2", "--yes"]).document();
    rig.virsh(["pool-destroy", "tdvirsh-pool"]);
    rig.virsh(["pool-undefine", "tdvirsh-pool"]);
    assert_eq!(rig.state(), before);
    td(&rig, "-c qemu+tcp://127.0.0.1:1/system list").error(6);
}
