//! `tdx-td new --scenario`, `--blank`, `--cdrom`, `--vmimage` on a real libvirt.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use serde_json::Value;

use crate::support::rig::{Rig, guest_image};
use crate::support::td::{self, IMAGES, listed, rig_with_base, td, volumes};
use crate::support::tools::tool;

/// The properties of an image according to qemu-img, even if a QEMU has the image open.
fn info(rig: &Rig, path: &str) -> Value {
    let info = rig.shell(&format!("qemu-img info -U --output json '{path}'"));
    serde_json::from_str(info.text()).unwrap()
}

fn setting<'a>(document: &'a Value, name: &str) -> &'a Value {
    let items = document["items"].as_array().unwrap();
    items.iter().find(|item| item["setting"] == name).unwrap()
}

/// The volumes that are not the base image.
fn own(rig: &Rig) -> Vec<String> {
    volumes(rig).into_iter().filter(|name| name != "guest.qcow2").collect()
}

#[test]
fn scenarios_are_listed_and_shown_without_libvirt() {
    let list = tool("tdx-td", ["scenario", "list"]).document();
    let names: Vec<_> = list["items"].as_array().unwrap().iter().map(|i| &i["name"]).collect();
    assert_eq!(names, ["computation", "desktop", "securevm", "td"]);
    let show = "scenario show securevm --security none --set guest.video=none";
    let show = tool("tdx-td", show.split(' ')).document();
    let video = setting(&show, "guest.video");
    assert_eq!((&video["recommended"], &video["value"]), (&"qxl".into(), &"none".into()));
    assert_eq!(video["origin"], "--set guest.video=none");
    assert_eq!(setting(&show, "storage.encryption")["origin"], "scenario securevm");

    for (line, status, says) in [
        ("scenario show securvm", 4, "securvm"),
        ("scenario show desktop --set guest.vidio=none", 2, "guest.vidio"),
        ("scenario show desktop --set guest.video=4k", 2, "guest.video"),
        ("scenario show desktop --set host.swappiness=201", 2, "host.swappiness"),
        ("scenario show desktop --set storage.encryption=on --set storage.format=raw", 2, "qcow2"),
        ("scenario show desktop --security tdx", 2, "directory of the host"),
        (
            "scenario show securevm --set guest.secure_boot=on --set guest.smm=off",
            2,
            "guest.secure_boot",
        ),
        ("scenario show securevm --set storage.target=sda", 2, "storage.target"),
        ("scenario show securevm --user-settings /no/such", 4, "/no/such"),
    ] {
        let error = tool("tdx-td", line.split(' ')).error(status);
        assert!(error["message"].as_str().unwrap().contains(says), "{line}: {error}");
    }
    let nearest = tool("tdx-td", ["scenario", "show", "securvm"]).error(4);
    assert_eq!(nearest["hint"], "did you mean securevm?");
}

/// An example of virt-scenario's own file, from its page.
const USER_SETTINGS: &str = "\
# WARNING: INCORRET PARAMATERS WILL LEAD TO BAD VM CONFIGURATION
config:
  - path: /etc/virt-scenario
  - vm-config-store: /etc/virts-scenario/vmconfig
emulator:
  - emulator: /usr/bin/qemu-system-x86_64
input:
  - keyboard: virtio
  - mouse: virtio
architecture:
  - arch: x86_64
STORAGE_DATA:
  - disk_type: file
#  - disk_cache: none
  - disk_target: vda
  - disk_bus: virtio
  - path: /var/livirt/images
  - format: qcow2
  - unit: G
  - capacity: 20
  - cluster_size: 1024k
  - lazy_refcounts: on
  - preallocation: off
  - compression_type: zlib
  - encryption: off
host_filesystem:
  - fmode: 644
  - dmode: 755
  - source_dir: /tmp
  - target_dir: /tmp/host
";

#[test]
fn user_settings_of_virt_scenario_are_read_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("virtscenario.yaml");
    let path = file.to_str().unwrap();
    let show = |scenario: &str| {
        tool(
            "tdx-td",
            ["scenario", "show", scenario, "--security", "none", "--user-settings", path],
        )
    };
    std::fs::write(&file, USER_SETTINGS).unwrap();
    let securevm = show("securevm").document();
    for (name, recommended, value) in [
        ("guest.keyboard", "ps2", "virtio"),
        ("guest.mouse", "none", "virtio"),
        ("storage.encryption", "on", "off"),
        ("storage.preallocation", "metadata", "off"),
        ("storage.capacity", "20GiB", "20GiB"),
        ("guest.host_filesystem", "none", "none"),
    ] {
        let setting = setting(&securevm, name);
        assert_eq!(
            (&setting["recommended"], &setting["value"]),
            (&recommended.into(), &value.into())
        );
        let by_file = setting["origin"] == path;
        assert_eq!(by_file, name != "guest.host_filesystem", "{setting}");
    }
    let desktop = show("desktop").document();
    assert_eq!(setting(&desktop, "guest.host_filesystem")["value"]["source_dir"], "/tmp");

    let sizes = "STORAGE_DATA:\n  - capacity: \"30\"\n  - disk_cluster_size: 64\n  - cache:\n";
    std::fs::write(&file, sizes).unwrap();
    let sizes = show("desktop").document();
    let value = |name: &str| setting(&sizes, name)["value"].clone();
    assert_eq!(
        (value("storage.capacity"), value("storage.cluster_size")),
        ("30GiB".into(), "64KiB".into())
    );
    assert_eq!(value("storage.cache"), "none", "as recommended");

    std::fs::write(&file, "# nothing\n\n").unwrap();
    show("desktop").document();
    for (text, says) in [
        ("STORAGE_DATA:\n  - formt: raw\n", "format"),
        ("hypervisors:\n  - hvcnf: x\n", "hvconf"),
        ("STORAGE:\n  - format: raw\n", "STORAGE"),
        ("architecture:\n  - arch: s390x\n", "s390x"),
        ("STORAGE_DATA:\n  - disk_type: block\n", "block"),
        ("input: virtio\n", ""),
        ("- a\n", ""),
        ("input:\n  - keyboard: [\n", ""),
    ] {
        std::fs::write(&file, text).unwrap();
        let error = show("desktop").error(3);
        assert!(error["message"].as_str().unwrap().contains("virtscenario.yaml"), "{error}");
        assert!(error["causes"].to_string().contains(says), "{text}: {error}");
    }
    // An error about an invalid value names the setting and the file.
    std::fs::write(&file, "input:\n  - keyboard: morse\n").unwrap();
    let error = show("desktop").error(3);
    assert!(error["message"].as_str().unwrap().contains("guest.keyboard"), "{error}");
}

#[test]
#[ignore = "needs root"]
fn new_starts_a_guest_of_every_scenario() {
    let rig = rig_with_base();
    let before = rig.state();
    let small = "--security none --memory 256M --vcpus 1";
    for (scenario, expected) in
        [("computation", "<iothreads>4<"), ("desktop", "<filesystem"), ("securevm", "<tpm ")]
    {
        let new = format!("new -i guest.qcow2 --scenario {scenario} --name web1 {small}");
        let made = td(&rig, &new).document();
        let warnings = made["warnings"].to_string();
        assert!(warnings.contains("guest.memory is 256MiB (--memory)"), "{warnings}");
        let open = warnings.contains("the guest is not protected");
        assert_eq!(open, scenario == "securevm", "{warnings}");
        let xml = rig.virsh(["dumpxml", "web1"]);
        assert!(xml.contains(expected), "{xml}");
        assert_eq!(rig.virsh(["domstate", "web1"]), "running");
        assert_eq!(td(&rig, &new).document()["changed"], false);
        let other = td(&rig, &format!("{new} --set guest.video=vga")).error(5);
        assert!(other["message"].as_str().unwrap().contains("guest.video is"), "{other}");
        let without = td(&rig, &format!("new -i guest.qcow2 --name web1 {small}")).error(5);
        assert!(without["message"].as_str().unwrap().contains("guest."), "{without}");
        td(&rig, "delete web1 --yes --timeout 0").item();
        assert_eq!(rig.state(), before);
    }
}

#[test]
#[ignore = "needs root"]
fn new_warns_of_host_settings_and_changes_them_only_with_tune_host() {
    let rig = rig_with_base();
    rig.shell(
        "mkdir -p host/proc/sys/vm host/proc/self host/sys/kernel/mm/transparent_hugepage && \
        echo 60 >host/proc/sys/vm/swappiness && \
        echo 'always [madvise] never' >host/sys/kernel/mm/transparent_hugepage/enabled",
    )
    .text();
    let new = "new -i guest.qcow2 --scenario desktop --security none --memory 256M --vcpus 1 \
               --virt-type qemu --name web1 --sysroot host";
    let swappiness = || rig.shell("cat host/proc/sys/vm/swappiness").text().trim().to_owned();
    let words = new.split_whitespace().collect::<Vec<_>>().join(" ");
    let warnings = || td(&rig, &format!("{words} --dry-run")).document()["warnings"].to_string();
    let told = warnings();
    assert!(told.contains("were not compared with those of scenario desktop: "), "{told}");
    let table = "22 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw";
    rig.shell(&format!("echo '{table}' >host/proc/self/mountinfo")).text();
    let told = warnings();
    assert!(told.contains("host.swappiness is 60, but 35 is recommended"), "{told}");
    assert!(told.contains("tdx-td host tune --scenario desktop"), "{told}");
    let error = td(&rig, &format!("{words} --tune-host")).error(5);
    assert!(error["message"].as_str().unwrap().contains("settings of this host"), "{error}");
    assert_eq!((swappiness(), own(&rig)), ("60".to_owned(), Vec::new()));
    td(&rig, &format!("{words} --tune-host --yes")).document();
    assert_eq!(swappiness(), "35");
    td(&rig, "host restore --yes --sysroot host").document();
    assert_eq!(swappiness(), "60");
    td(&rig, "delete web1 --yes --timeout 0").item();
}

#[test]
#[ignore = "needs root"]
fn new_refuses_or_replaces_settings_that_the_host_cannot_provide() {
    let rig = rig_with_base();
    let before = rig.state();
    let refused = |line: &str, status: i32, says: &str| {
        let error = td(&rig, line).error(status);
        let told = format!("{} {} {}", error["message"], error["causes"], error["hint"]);
        assert!(told.contains(says), "{line}: {error}");
    };
    refused("new -i guest.qcow2 --scenario securevm", 6, "does not support TDX trust domains");
    refused("new -i guest.qcow2 --scenario securevm", 6, "--security none");
    refused("new -i guest.qcow2 --scenario td", 6, "TDX");
    refused("new -i guest.qcow2 --scenario securvm", 4, "securevm");
    let open = "--security none --name x";
    refused(&format!("new -i guest.qcow2 {open} --machine pc-q35-99.0"), 6, "pc-q35-99.0");
    refused(&format!("new -i guest.qcow2 {open} --boot tape"), 2, "guest.boot");
    let encrypted = "--set storage.encryption=on";
    refused(&format!("new -i guest.qcow2 {open} {encrypted}"), 5, "overlay");
    refused(&format!("new --vmimage {IMAGES}/guest.qcow2 {open} {encrypted}"), 5, "existing image");
    refused(&format!("new --blank 1G {open} {encrypted}"), 2, "--passphrase-file");
    refused(&format!("new --blank 1G {open} --passphrase-file /etc/hostname"), 2, "encryption=on");
    refused(&format!("new --blank 1G {open} --set storage.preallocation=full"), 6, "falloc");
    refused(&format!("new --blank 1G -i guest.qcow2 {open}"), 2, "--blank");
    refused(&format!("new --vmimage /no/such {open}"), 4, "/no/such");
    refused(&format!("new --vmimage {IMAGES} {open}"), 3, IMAGES);
    refused(&format!("new --cdrom /no/such.iso {open}"), 4, "/no/such.iso");
    assert_eq!(rig.state(), before);
    // A setting that a scenario only recommends is replaced by one that the host supports.
    rig.shell(
        "mkdir -p conf/tdx/scenarios && echo 'guest: {machine: pc-q35-0.1}' \
        >conf/tdx/scenarios/desktop.yaml",
    )
    .text();
    let line = "XDG_CONFIG_HOME=$PWD/conf tdx-td render -i guest.qcow2 --scenario desktop \
        --memory 256M --vcpus 1";
    let document = rig.shell(line).document();
    let warnings = document["warnings"].to_string();
    assert!(warnings.contains("guest.machine is q35 instead of the scenario's value: QEMU on this host does not support machine pc-q35-0.1"), "{warnings}");
    let settings = document["items"][0]["settings"].as_array().unwrap();
    let applies = |name: &str| {
        settings.iter().find(|s| s["setting"] == name).unwrap()["applies"].as_bool().unwrap()
    };
    assert!(applies("guest.video") && applies("storage.cache") && !applies("storage.format"));
}

#[test]
#[ignore = "needs root"]
fn a_blank_disk_follows_the_scenario_and_is_deleted_with_its_domain() {
    let rig = rig_with_base();
    let before = rig.state();
    let new = "--security none --memory 256M --vcpus 1 --name web1";
    let path = |rig: &Rig| {
        let item = listed(rig, "web1");
        assert_eq!((&item["base"], &item["overlay"]), (&Value::Null, &Value::Null));
        item["disks"][0]["source"].as_str().unwrap().to_owned()
    };
    td(&rig, &format!("new --blank 64M --scenario desktop {new}")).document();
    let disk = info(&rig, &path(&rig));
    let data = &disk["format-specific"]["data"];
    assert_eq!((&disk["format"], &disk["virtual-size"]), (&"qcow2".into(), &(64 << 20).into()));
    assert_eq!(
        (&disk["cluster-size"], &data["lazy-refcounts"]),
        (&(1 << 20).into(), &false.into())
    );
    assert_eq!(data["compression-type"], "zlib");
    // The tables are preallocated: every cluster is mapped.
    let map = rig.shell(&format!("qemu-img map -U --output json '{}'", path(&rig)));
    let map: Value = serde_json::from_str(map.text()).unwrap();
    assert!(map.as_array().unwrap().iter().all(|part| part["offset"].is_u64()), "{map}");
    td(&rig, "delete web1 --yes --timeout 0").item();
    assert_eq!(rig.state(), before);

    td(&rig, &format!("new --blank 64M --scenario computation {new}")).document();
    let disk = info(&rig, &path(&rig));
    assert_eq!((&disk["format"], &disk["virtual-size"]), (&"raw".into(), &(64 << 20).into()));
    assert!(disk["actual-size"].as_u64().unwrap() < 1 << 20, "nothing is allocated: {disk}");
    td(&rig, "delete web1 --yes --timeout 0").item();

    // An encrypted disk. The passphrase is neither in the arguments nor in a readable secret.
    rig.shell("umask 077 && printf 'correct horse' >pass && printf wrong >wrong").text();
    let secure = format!("new --blank 64M --scenario securevm {new} --passphrase-file pass");
    td(&rig, &secure).document();
    let disk = path(&rig);
    let shape = info(&rig, &disk);
    assert_eq!(shape["format-specific"]["data"]["encrypt"]["format"], "luks");
    assert_eq!(shape["format-specific"]["data"]["lazy-refcounts"], true);
    assert_eq!(rig.virsh(["-q", "secret-list"]).lines().count(), 1);
    let xml = rig.virsh(["dumpxml", "web1"]);
    assert!(xml.contains("<encryption format='luks'") && !xml.contains("horse"), "{xml}");
    td(&rig, "stop web1 --force").document();
    let open = |pass: &str| {
        let line = format!(
            "qemu-img check --object secret,id=s,file={pass} \
             --image-opts driver=qcow2,encrypt.key-secret=s,file.filename='{disk}'"
        );
        rig.shell(&line).status
    };
    assert_eq!((open("pass"), open("wrong")), (Some(0), Some(1)));
    td(&rig, "start web1").document();
    td(&rig, "delete web1 --yes --timeout 0").item();
    assert_eq!((rig.state(), rig.virsh(["-q", "secret-list"])), (before.clone(), String::new()));
}

#[test]
#[ignore = "needs root"]
fn vmimage_and_cdrom_are_used_in_place_and_never_deleted() {
    let rig = rig_with_base();
    let image = rig.scratch().join("mine.qcow2");
    std::fs::copy(guest_image(false), &image).unwrap();
    rig.shell("chmod 666 mine.qcow2; chmod 755 .; truncate -s 1M install.iso").text();
    let new = "--security none --memory 256M --vcpus 1 --name web1";
    let line = format!("new --vmimage mine.qcow2 --cdrom install.iso {new}");
    td(&rig, &line).document();
    let item = listed(&rig, "web1");
    let image = image.to_str().unwrap();
    let sources: Vec<_> =
        item["disks"].as_array().unwrap().iter().map(|disk| disk["source"].clone()).collect();
    assert_eq!(sources[0], image);
    assert!(sources[1].as_str().unwrap().ends_with("/install.iso"));
    let boot = rig.shell("virsh dumpxml web1 | grep -o \"boot dev='[a-z]*'\"").text().to_owned();
    assert_eq!(boot, "boot dev='cdrom'\nboot dev='hd'\n");
    assert_eq!(td(&rig, &line).document()["changed"], false);
    let other = td(&rig, &format!("new --vmimage mine.qcow2 {new}")).error(5);
    assert!(other["message"].as_str().unwrap().contains("cdrom is"), "{other}");
    td(&rig, "delete web1 --yes --timeout 0").item();
    assert!(std::path::Path::new(image).exists(), "a user's image is never deleted");

    // A domain is replaced only with confirmation, and a foreign domain never.
    td(&rig, &format!("new -i guest.qcow2 {new}")).document();
    let uuid = listed(&rig, "web1")["uuid"].clone();
    let again = format!("new -i guest.qcow2 {new} --overwrite");
    assert_eq!(td(&rig, &again).document()["changed"], false);
    let larger = format!("{again} --disk-size 2G");
    assert!(td(&rig, &larger).error(5)["message"].as_str().unwrap().contains("not confirmed"));
    assert_eq!(td(&rig, &format!("{larger} --dry-run")).document()["changed"], true);
    assert_eq!(listed(&rig, "web1")["uuid"], uuid);
    td(&rig, &format!("{larger} --yes")).document();
    assert_ne!(listed(&rig, "web1")["uuid"], uuid);
    assert_eq!(own(&rig).len(), 1);
    td(&rig, "delete web1 --yes --timeout 0").item();
    td::define(&rig, &td::foreign("web1", ""));
    let foreign = td(&rig, &format!("{again} --yes")).error(5);
    assert!(
        foreign["message"].as_str().unwrap().contains("not created by these tools"),
        "{foreign}"
    );
    rig.virsh(["undefine", "web1"]);

    // A CD-ROM alone gets an empty disk beside it.
    td(&rig, &format!("new --cdrom install.iso {new}")).document();
    assert_eq!(listed(&rig, "web1")["disks"].as_array().unwrap().len(), 2);
    assert_eq!(own(&rig).len(), 1);
    td(&rig, "delete web1 --yes --timeout 0").item();
    assert_eq!(own(&rig), Vec::<String>::new());
}

#[test]
#[ignore = "needs root"]
fn new_and_delete_keep_disks_that_others_need() {
    let rig = rig_with_base();
    let new = "--security none --memory 256M --vcpus 1";
    let refused = |line: &str, status: i32, says: &str| {
        let error = td(&rig, line).error(status);
        assert!(error["message"].as_str().unwrap().contains(says), "{line}: {error}");
    };
    td(&rig, &format!("new -i guest.qcow2 {new} --name web1")).document();
    let base = format!("{IMAGES}/guest.qcow2");
    refused(&format!("new --vmimage {base} {new} --name x"), 5, "is needed by domain 'web1'");
    td(&rig, "stop web1 --force").document();
    refused(&format!("new --vmimage {base} {new} --name x"), 5, "volume 'overlay.");

    // A user's file is kept, whatever its name. A domain is kept if its successor cannot be created.
    let ours = "disk.AAAAAAAAAAAAAAA.qcow2";
    rig.shell(&format!(
        "cp {base} {ours} && chmod 666 {ours}; truncate -s 1M cidata.AAAAAAAAAAAAAAA.iso"
    ))
    .text();
    let mine = format!("new --vmimage {ours} --cdrom cidata.AAAAAAAAAAAAAAA.iso {new} --name mine");
    td(&rig, &mine).document();
    refused(&format!("new --vmimage {ours} {new} --name y"), 5, "domain 'mine'");
    refused(
        &format!("new --vmimage {ours} {new} --name mine --overwrite --yes"),
        5,
        "domain 'mine'",
    );
    td(&rig, "delete mine --yes --timeout 0").document();
    rig.shell(&format!("ls {ours} cidata.AAAAAAAAAAAAAAA.iso")).text();
    let uuid = listed(&rig, "web1")["uuid"].clone();
    let over = format!("new --blank 8M {new} --name web1 --overwrite --yes");
    refused(&format!("{over} --set storage.encryption=on"), 2, "not a terminal");
    refused(&format!("{over} --set storage.cluster_size=3k"), 2, "power of two");
    assert_eq!(listed(&rig, "web1")["uuid"], uuid);
    let told = td(&rig, &format!("{over} --dry-run")).document()["warnings"].to_string();
    assert!(told.contains("is deleted first"), "{told}");

    // A file that is not an image is refused at once.
    rig.shell("mkfifo pipe").text();
    for flag in ["--cdrom", "--vmimage"] {
        refused(&format!("new {flag} pipe {new} --name z"), 3, "pipe");
        refused(&format!("render {flag} {IMAGES} {new} --name z"), 3, "images");
    }
    let device = rig.loop_device(&base);
    refused(&format!("new --vmimage {device} {new} --name z"), 6, "is a device");
    refused(&format!("new --blank 0 {new} --name z"), 2, "is not between 1 MiB and 2 EiB");
    rig.shell("echo secret >pass && chmod 644 pass").text();
    let encrypted = format!("{new} --set storage.encryption=on --passphrase-file pass");
    refused(&format!("new --blank 8M {encrypted} --name z"), 7, "users other than its owner");

    // The secret with the passphrase is deleted with its disk, and only then.
    rig.shell("chmod 600 pass").text();
    td(&rig, &format!("new --blank 8M {encrypted} --name enc")).document();
    td(&rig, "stop enc --force").document();
    let disk = listed(&rig, "enc")["disks"][0]["source"].as_str().unwrap().to_owned();
    let secrets = || rig.virsh(["-q", "secret-list"]).lines().count();
    rig.shell(&format!("mv {disk} away")).text();
    rig.tool("tdx-pool", ["cleanup", "--yes"]).document();
    assert_eq!(secrets(), 1, "a domain needs it, wherever its disk is");
    rig.shell(&format!("mv away {disk}")).text();
    td(&rig, "start enc").document();
    td(&rig, "stop enc --force").document();
    rig.virsh(["undefine", "enc", "--nvram"]);
    let name = disk.rsplit('/').next().unwrap();
    rig.tool("tdx-pool", ["delete", name, "--yes"]).document();
    assert_eq!(secrets(), 0);
}
