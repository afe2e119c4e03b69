//! `tdx-td host tune` and `host restore` on hosts made of files.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal::{SIGKILL, SIGTERM};
use serde_json::{Value, json};

use crate::support::rig::Rig;
use crate::support::steps::{Fate, moments, walk_here_all};
use crate::support::table::{self, Row};
use crate::support::terminal::Process;
use crate::support::tools::{self, Run};
use crate::support::tree::Tree;
use crate::support::tuned::{
    BOOT_ID, KSM, LASTING, MERGE, PAGES, RECORD, SCHEDULER, SHARED, SWAPPINESS, THP, disk, files,
    filled, item, plain, says,
};

fn tune(tree: &Tree, line: &str) -> Run {
    tree.run("tdx-td", &format!("host tune {line} --yes"))
}

fn restore(tree: &Tree) -> Run {
    tree.run("tdx-td", "host restore --yes")
}

fn root(tree: &Tree) -> std::path::PathBuf {
    tree.path("")
}

/// Every cell of the table of host settings that this project was asked for with.
#[test]
fn every_scenario_writes_its_column_of_the_table() {
    let choice = |words: &str, chosen: &str| words.replace(chosen, &format!("[{chosen}]"));
    let always = choice("always madvise never", "always");
    let schedulers = "none mq-deadline kyber bfq";
    for (scenario, ksm, merge, swappiness, scheduler) in [
        ("securevm", "0", "0", "0", "bfq"),
        ("computation", "1", "1", "0", "mq-deadline"),
        ("desktop", "1", "1", "35", "mq-deadline"),
    ] {
        let tree = plain();
        // Each as unlike as can be.
        for (path, text) in [(KSM, ksm), (MERGE, merge)] {
            tree.file(path, if text == "1" { "0\n" } else { "1\n" });
        }
        let before = files(&root(&tree));
        let line = format!("--scenario {scenario}");
        let plan = tune(&tree, &format!("{line} --dry-run")).document();
        assert_eq!((&plan["changed"], &plan["dry_run"]), (&json!(true), &json!(true)));
        assert_eq!(files(&root(&tree)), before, "a plan touches nothing");

        let done = tune(&tree, &line).document();
        assert_eq!(done["items"], plan["items"]);
        for (setting, path, wanted, text) in [
            ("host.transparent_hugepages", THP, "always", always.as_str()),
            ("host.ksm", KSM, ksm, ksm),
            ("host.ksm_merge_across_nodes", MERGE, merge, merge),
            ("host.swappiness", SWAPPINESS, swappiness, swappiness),
            ("host.io_scheduler", SCHEDULER, scheduler, &choice(schedulers, scheduler)),
        ] {
            let told = item(&done, setting);
            assert_eq!((&told["path"], &told["wanted"]), (&json!(path), &json!(wanted)));
            assert_eq!((&told["action"], &told["in_force"]), (&json!("set"), &json!(true)));
            assert_eq!(says(&tree, path), text, "{scenario}: {path}");
        }
        // The disk that nothing of a guest is on stays as it is.
        assert_eq!(says(&tree, "/sys/block/vdb/queue/scheduler"), choice(schedulers, "none"));
        let sev: Vec<&str> = done["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|item| item["setting"].as_str())
            .filter(|setting| setting.contains("modules") || setting.contains("arguments"))
            .collect();
        match scenario {
            "securevm" => assert_eq!(
                sev,
                [
                    "host.kernel_arguments.mem_encrypt",
                    "host.modules.kvm_amd.sev",
                    "host.modules.kvm_amd.sev_es",
                ]
            ),
            _ => assert_eq!(sev, [""; 0]),
        }

        let again = tune(&tree, &line).document();
        assert_eq!(again["changed"], false, "{again:#}");
        let back = restore(&tree).document();
        assert_eq!(back["changed"], true);
        assert_eq!(item(&back, "host.swappiness")["previous"], "60");
        assert_eq!(files(&root(&tree)), before, "{scenario}");
        let nothing = restore(&tree).document();
        assert_eq!((&nothing["changed"], &nothing["items"]), (&json!(false), &json!([])));
        assert!(nothing["warnings"][0].as_str().unwrap().starts_with("nothing is recorded"));
    }
}

#[test]
fn sev_is_asked_of_the_module_and_of_the_command_line() {
    let tree = plain();
    let before = files(&root(&tree));
    let plan = tune(&tree, "--scenario securevm --dry-run").document();
    let argument = item(&plan, "host.kernel_arguments.mem_encrypt");
    assert_eq!(argument["current"], "mem_encrypt=off");
    assert_eq!((&argument["action"], &argument["in_force"]), (&json!("none"), &json!(false)));
    assert!(argument["note"].as_str().unwrap().contains("GRUB_CMDLINE_LINUX"), "{argument}");
    let sev = item(&plan, "host.modules.kvm_amd.sev");
    assert_eq!((&sev["current"], &sev["wanted"]), (&json!("0"), &json!("1")));
    assert_eq!((&sev["action"], &sev["in_force"]), (&json!("none"), &json!(false)));
    assert!(sev["note"].as_str().unwrap().contains("--persist"), "{sev}");
    // Guests that run, and modules that are built in, keep it from being loaded again.
    tree.file("/sys/module/kvm_amd/refcnt", "3\n");
    let error = tune(&tree, "--scenario securevm --reload-modules").error(5);
    assert_eq!(error["code"], "IN_USE_BY_VM", "{error}");
    fs::remove_file(tree.path("/sys/module/kvm_amd/refcnt")).unwrap();
    let error = tune(&tree, "--scenario securevm --reload-modules").error(6);
    assert!(error["hint"].as_str().unwrap().contains("kvm_amd.sev=1"), "{error}");
    tree.file("/sys/module/kvm_amd/refcnt", "0\n");
    let error = tune(&tree, "--scenario securevm --reload-modules").error(6);
    assert!(error["message"].as_str().unwrap().contains("--sysroot"), "{error}");
    assert_eq!(files(&root(&tree)), before);
    for name in ["sev", "sev_es"] {
        tree.file(&format!("/sys/module/kvm_amd/parameters/{name}"), "Y\n");
    }
    tree.file("/proc/cmdline", "ro mem_encrypt=on\n");
    let plan = tune(&tree, "--scenario securevm --dry-run").document();
    for setting in ["host.kernel_arguments.mem_encrypt", "host.modules.kvm_amd.sev_es"] {
        let held = item(&plan, setting);
        assert_eq!((&held["in_force"], &held["note"]), (&json!(true), &Value::Null));
    }
    // An Intel host is asked for something else.
    tree.file("/proc/cpuinfo", "flags\t: vmx tdx_host_platform\n");
    let plan = tune(&tree, "--scenario securevm --dry-run").document();
    assert_eq!(item(&plan, "host.modules.kvm_intel.tdx")["note"], "kvm_intel is not loaded");
    item(&plan, "host.kernel_arguments.nohibernate");
    // One that has nothing has to be told.
    tree.file("/proc/cpuinfo", "flags\t: vmx\n");
    tune(&tree, "--scenario securevm --dry-run").error(6);
    tune(&tree, "--scenario securevm --security sev --dry-run").document();
}

#[test]
fn what_the_kernel_lacks_is_told_and_the_rest_is_set() {
    let tree = plain();
    tree.file(SCHEDULER, "[none] mq-deadline\n");
    for file in [KSM, MERGE, SHARED] {
        fs::remove_file(tree.path(file)).unwrap();
    }
    let before = files(&root(&tree));
    let done = tune(&tree, "--scenario securevm").document();
    let scheduler = item(&done, "host.io_scheduler");
    assert_eq!((&scheduler["in_force"], &scheduler["action"]), (&json!(false), &json!("none")));
    assert_eq!(scheduler["note"], "the kernel offers only none, mq-deadline");
    let ksm = item(&done, "host.ksm");
    assert_eq!((&ksm["current"], &ksm["in_force"]), (&Value::Null, &json!(false)));
    let warnings = done["warnings"].to_string();
    assert!(warnings.contains("host.io_scheduler: the kernel offers"), "{warnings}");
    assert!(warnings.contains("host.ksm: "), "{warnings}");
    assert_eq!(says(&tree, SWAPPINESS), "0");
    restore(&tree).document();
    assert_eq!(files(&root(&tree)), before);

    // A disk without any scheduler, and a pool that is on no disk.
    fs::remove_file(tree.path(SCHEDULER)).unwrap();
    let plan = tune(&tree, "--scenario desktop --dry-run").document();
    assert_eq!(item(&plan, "host.io_scheduler")["note"], "vda has no scheduler");
    tree.file("/proc/self/mountinfo", "22 1 0:30 / / rw - nfs4 server:/x rw\n");
    let plan = tune(&tree, "--scenario desktop --dry-run").document();
    let scheduler = item(&plan, "host.io_scheduler");
    let note = "/var/lib/libvirt/images is on nfs4 (server:/x), on no disk that is known";
    assert_eq!((&scheduler["path"], &scheduler["note"]), (&Value::Null, &json!(note)));
}

/// From the pool's folder through what it stands on down to the disks.
#[test]
fn the_disks_below_the_pool_are_found() {
    let schedulers = |tree: &Tree| -> Vec<String> {
        let plan = tune(tree, "--scenario desktop --dry-run").document();
        let items = plan["items"].as_array().unwrap().iter();
        let of_disks = items.filter(|item| item["setting"] == "host.io_scheduler");
        of_disks
            .filter_map(|item| Some(item["path"].as_str()?.split('/').nth(3)?.to_owned()))
            .collect()
    };
    let images = "30 22 252:0 / /var/lib/libvirt rw - xfs /dev/mapper/vg-images rw\n";
    let table = "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n";
    // A mapping over an array over two disks.
    let tree = plain();
    disk(&tree, "sda", 8, 1);
    disk(&tree, "sdb", 9, 1);
    tree.stacked("md0", "9:127", &["sda1", "sdb1"]);
    tree.stacked("dm-0", "252:0", &["md0"]);
    tree.file("/sys/class/block/dm-0/dm/name", "vg-images\n");
    tree.file("/proc/self/mountinfo", format!("{table}{images}"));
    assert_eq!(schedulers(&tree), ["sda", "sdb"]);
    // What is mounted over it is what counts.
    tree.file(
        "/proc/self/mountinfo",
        format!("{table}{images}31 30 253:0 / /var/lib/libvirt rw - ext4 /dev/vdb rw\n"),
    );
    assert_eq!(schedulers(&tree), ["vdb"]);
    // A file system of several disks, with a number of its own.
    for name in ["vda", "vdb"] {
        let target = fs::read_link(tree.path(&format!("/sys/block/{name}"))).unwrap();
        let target = target.to_str().unwrap().trim_start_matches("../").to_owned();
        tree.link(
            &format!("/sys/fs/btrfs/6f5/devices/{name}"),
            &format!("/sys/{}", target.trim_start_matches("sys/")),
        );
    }
    tree.file("/proc/self/mountinfo", "22 1 0:30 /@ / rw - btrfs /dev/vda rw,subvol=/@\n");
    assert_eq!(schedulers(&tree), ["vda", "vdb"]);
    // An overlay writes to another folder.
    tree.file("/proc/self/mountinfo", format!("{table}30 22 0:31 / /var/lib/libvirt rw - overlay o rw,lowerdir=/l,upperdir=/up\\040per,workdir=/w\n31 22 253:0 / /up\\040per rw - ext4 /dev/vdb rw\n"));
    fs::create_dir_all(tree.path("/up per")).unwrap();
    assert_eq!(schedulers(&tree), ["vdb"]);
    // A link elsewhere, and a loop device over a file.
    tree.link("/srv/images", "/var/lib/libvirt/images");
    tree.file("/etc/tdx/tdx.yaml", "pool_path: /srv/images\n");
    tree.file(
        "/proc/self/mountinfo",
        format!("{table}30 22 7:0 / /var/lib/libvirt rw - ext4 /dev/loop0 rw\n"),
    );
    let folder = "/sys/devices/virtual/block/loop0";
    tree.file(&format!("{folder}/loop/backing_file"), "/disk.img\n");
    tree.link("/sys/block/loop0", folder);
    tree.link("/sys/class/block/loop0", folder);
    tree.link("/sys/dev/block/7:0", folder);
    assert_eq!(schedulers(&tree), ["vda"]);
    // A disk that is reached by two controllers.
    let head = "/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1";
    tree.link("/sys/class/block/nvme0n1", head);
    tree.link("/sys/dev/block/259:0", head);
    tree.file(&format!("{head}/dev"), "259:0\n");
    for path in ["nvme0c0n1", "nvme0c1n1", "nvme10c0n1"] {
        tree.file(&format!("/sys/block/{path}/queue/scheduler"), "[none] mq-deadline\n");
    }
    tree.file("/proc/self/mountinfo", "22 1 259:0 / / rw - ext4 /dev/nvme0n1 rw\n");
    assert_eq!(schedulers(&tree), ["nvme0c0n1", "nvme0c1n1"]);
}

/// libvirt tells where the pool is and what a domain's disks are.
#[test]
#[ignore = "needs root"]
fn the_disks_below_a_domain_are_found() {
    let rig = Rig::start();
    rig.virsh("pool-define-as tdvirsh-pool dir --target /srv/pool".split(' '));
    let tree = filled(Tree::below(rig.scratch()));
    disk(&tree, "sda", 8, 0);
    tree.file(
        "/proc/self/mountinfo",
        "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n30 22 253:0 / /srv rw - ext4 /dev/vdb rw\n",
    );
    let xml = rig.scratch().join("web.xml");
    let disks = "<disk type='file' device='disk'><source file='/srv/web.raw'/><target dev='vda' bus='virtio'/></disk>\
         <disk type='block' device='disk'><source dev='/dev/sda'/><target dev='vdb' bus='virtio'/></disk>";
    let text = format!(
        "<domain type='qemu'><name>web</name><memory unit='MiB'>64</memory>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>{disks}</devices></domain>"
    );
    fs::write(&xml, text).unwrap();
    rig.virsh(["define".as_ref(), xml.as_os_str()]);
    let run = |more: &str| {
        let sysroot = root(&tree).display().to_string();
        let line = format!("host tune --scenario desktop --dry-run --sysroot {sysroot}{more}");
        rig.tool("tdx-td", line.split(' '))
    };
    let schedulers = |more: &str| -> Vec<String> {
        let plan = run(more).document();
        let items = plan["items"].as_array().unwrap().iter();
        let of_disks = items.filter(|item| item["setting"] == "host.io_scheduler");
        of_disks.map(|item| item["path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(schedulers(""), [SCHEDULER], "where the configuration has the pool");
    let both = ["/sys/block/sda/queue/scheduler", "/sys/block/vdb/queue/scheduler"];
    assert_eq!(schedulers(" --domain web"), both);
    run(" --domain web --domain wob").error(4);
}

#[test]
fn merged_pages_are_taken_apart_where_that_was_planned() {
    let tree = plain();
    for (path, text) in [(KSM, "1\n"), (SHARED, "512\n")] {
        tree.file(path, text);
    }
    let before = files(&root(&tree));
    let done = tune(&tree, "--scenario securevm").document();
    let note = item(&done, "host.ksm_merge_across_nodes")["note"].as_str().unwrap().to_owned();
    assert!(note.starts_with("512 pages that stand for several are taken apart"), "{note}");
    assert_eq!((says(&tree, KSM), says(&tree, MERGE)), ("0".to_owned(), "0".to_owned()));
    restore(&tree).document();
    assert_eq!(files(&root(&tree)), before);
    // Stopped and taken apart is off as well.
    tree.file(KSM, "2\n");
    let before = files(&root(&tree));
    let done = tune(&tree, "--scenario securevm").document();
    assert_eq!(item(&done, "host.ksm")["action"], "none", "{done:#}");
    assert_eq!(says(&tree, KSM), "2");
    restore(&tree).document();
    assert_eq!(files(&root(&tree)), before);
}

#[test]
fn scenarios_that_want_other_things_are_told_of_each_other() {
    let tree = plain();
    let before = files(&root(&tree));
    tune(&tree, "--scenario securevm").document();
    let tuned = files(&root(&tree));
    for more in ["", " --dry-run"] {
        let error = tune(&tree, &format!("--scenario computation{more}")).error(5);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("for scenario securevm"), "{error}");
        assert!(error["hint"].as_str().unwrap().contains("--replace"), "{error}");
        assert_eq!(files(&root(&tree)), tuned);
    }
    // What both want alike is no conflict, nor is what the scenario itself is now said to want.
    let same = "--set host.ksm= --set host.ksm_merge_across_nodes= --set host.io_scheduler=";
    tune(&tree, &format!("--scenario computation {same}")).document();
    let done = tune(&tree, "--scenario securevm --set host.ksm=on").document();
    assert_eq!(item(&done, "host.ksm")["action"], "set");
    let error =
        tune(&tree, "--scenario securevm --set host.ksm=off --set host.swappiness=1").error(5);
    assert!(error["message"].as_str().unwrap().contains("for scenario computation"), "{error}");
    tune(&tree, "--scenario desktop --replace").document();
    assert_eq!(says(&tree, SWAPPINESS), "35");
    // The values before all of it are what comes back.
    restore(&tree).document();
    assert_eq!(files(&root(&tree)), before);
}

#[test]
fn what_somebody_else_set_since_is_left() {
    let tree = plain();
    tune(&tree, "--scenario desktop --set host.hugepages=8").document();
    assert_eq!(says(&tree, PAGES), "8");
    tree.file(SWAPPINESS, "10\n");
    fs::remove_file(tree.path(THP)).unwrap();
    let back = restore(&tree).document();
    let swappiness = item(&back, "host.swappiness");
    assert_eq!((&swappiness["action"], &swappiness["current"]), (&json!("none"), &json!("10")));
    let warnings = back["warnings"].to_string();
    assert!(warnings.contains(&format!("{SWAPPINESS} was set otherwise since")), "{warnings}");
    assert!(warnings.contains(&format!("{THP} is not there any more")), "{warnings}");
    assert_eq!((says(&tree, SWAPPINESS), says(&tree, PAGES)), ("10".to_owned(), "0".to_owned()));
    assert!(!tree.path(RECORD).exists());
}

/// What a restoration says of what it cannot know.
const AT_BOOT: &str = "what the files have set at boot stays until the next one: host.hugepages, \
    host.io_scheduler, host.ksm, host.ksm_merge_across_nodes, host.swappiness, \
    host.transparent_hugepages";

#[test]
fn what_is_persisted_is_ours_and_goes_again() {
    let tree = plain();
    let before = files(&root(&tree));
    let line = "--scenario securevm --persist --set host.hugepages=4";
    let done = tune(&tree, line).document();
    for (setting, action) in [
        ("host.swappiness", "set"),
        ("host.ksm", "persist"),
        ("host.modules.kvm_amd.sev", "persist"),
    ] {
        let told = item(&done, setting);
        assert_eq!(
            (&told["action"], &told["persistent"]),
            (&json!(action), &json!(true)),
            "{told}"
        );
    }
    assert_eq!(item(&done, "host.modules.kvm_amd.sev")["in_force"], false);
    let lines = |path: &str| -> Vec<String> {
        let text = says(&tree, path);
        assert!(text.starts_with("# Made by tdx-td host tune --persist"), "{text}");
        text.lines().skip(1).map(str::to_owned).collect()
    };
    assert_eq!(lines("/etc/sysctl.d/90-tdx.conf"), ["vm.swappiness = 0"]);
    assert_eq!(
        lines("/etc/modprobe.d/tdx.conf"),
        ["options kvm_amd sev=1", "options kvm_amd sev_es=1"]
    );
    assert_eq!(
        lines("/etc/tmpfiles.d/tdx.conf"),
        [
            format!("w {THP} - - - - always"),
            format!("w {MERGE} - - - - 0"),
            format!("w {KSM} - - - - 0"),
            format!("w {PAGES} - - - - 4"),
        ]
    );
    assert_eq!(
        lines("/etc/udev/rules.d/90-tdx.rules"),
        [
            "ACTION==\"add|change\", SUBSYSTEM==\"block\", ENV{DEVTYPE}==\"disk\", ATTR{serial}==\"disk-1\", ATTR{queue/scheduler}=\"bfq\"",
        ]
    );
    let tuned = files(&root(&tree));
    assert_eq!(tune(&tree, line).document()["changed"], false);
    assert_eq!(files(&root(&tree)), tuned);

    // After a reboot: /run is empty, the values are those of the files.
    fs::remove_dir_all(tree.path("/run/tdx")).unwrap();
    tree.file(BOOT_ID, "another\n");
    let error = tune(&tree, "--scenario desktop").error(5);
    assert!(error["message"].as_str().unwrap().contains("for scenario securevm"), "{error}");
    assert_eq!(tune(&tree, line).document()["changed"], false);
    fs::remove_dir_all(tree.path("/run/tdx")).unwrap();
    let back = restore(&tree).document();
    let items = back["items"].as_array().unwrap().iter();
    let removed = items.filter(|item| item["action"] == "remove").count();
    assert_eq!((removed, &back["items"].as_array().unwrap().len()), (4, &10), "{back:#}");
    assert_eq!(back["warnings"], json!([AT_BOOT]));
    assert!(!tree.path(LASTING).exists());
    tree.file(BOOT_ID, "0d6e3f0e-1f6c-4c4f-8b7a-2f6f3c6f9a11\n");
    for (path, text) in [
        (THP, "always [madvise] never\n"),
        (MERGE, "1\n"),
        (SWAPPINESS, "60\n"),
        (PAGES, "0\n"),
        (SCHEDULER, "[none] mq-deadline kyber bfq\n"),
    ] {
        tree.file(path, text);
    }
    assert_eq!(files(&root(&tree)), before);

    // Within one boot; and a file that somebody has edited stays.
    tune(&tree, line).document();
    restore(&tree).document();
    assert_eq!(files(&root(&tree)), before);
    tune(&tree, line).document();
    tree.file("/etc/sysctl.d/90-tdx.conf", "vm.swappiness = 7\n");
    let back = restore(&tree).document();
    assert!(
        back["warnings"].to_string().contains("90-tdx.conf was set otherwise since"),
        "{back:#}"
    );
    // One of that name that is not ours keeps everything from being written.
    let before = files(&root(&tree));
    let error = tune(&tree, line).error(5);
    assert!(
        error["message"].as_str().unwrap().contains("90-tdx.conf is there and not ours"),
        "{error}"
    );
    assert_eq!(files(&root(&tree)), before);
}

/// Tuned again after a reboot, the values are as they were when that tuning began: the files set them.
#[test]
fn what_was_set_at_boot_is_told_of_a_host_that_is_tuned_again() {
    let tree = plain();
    let line = "--scenario securevm --persist --set host.hugepages=4";
    tune(&tree, line).document();
    tree.file(BOOT_ID, "another\n");
    let again = tune(&tree, line).document();
    assert_eq!(again["changed"], false, "{again:#}");
    let back = restore(&tree).document();
    assert_eq!(back["warnings"], json!([AT_BOOT]));
    let swappiness = item(&back, "host.swappiness");
    assert_eq!(
        (&swappiness["action"], &swappiness["current"], &swappiness["previous"]),
        (&json!("none"), &json!("0"), &Value::Null)
    );
    let note = format!("{SWAPPINESS} was set at boot and stays until the next one");
    assert_eq!(swappiness["note"], note.as_str());

    // By another scenario, it goes back to what was set at boot, and that is said.
    tune(&tree, "--scenario securevm --persist").document();
    tree.file(BOOT_ID, "a third\n");
    tune(&tree, "--scenario desktop --replace").document();
    let back = restore(&tree).document();
    let swappiness = item(&back, "host.swappiness");
    assert_eq!(
        (&swappiness["action"], &swappiness["current"], &swappiness["previous"]),
        (&json!("restore"), &json!("35"), &json!("0"))
    );
    assert_eq!(swappiness["note"], "that was set at boot, and stays until the next one");
    assert_eq!(item(&back, "host.transparent_hugepages")["action"], "none");
    assert_eq!(says(&tree, SWAPPINESS), "0");

    // A value that was so before all tuning, and is wanted so, is no file's doing.
    tree.file(BOOT_ID, "a fourth\n");
    tune(&tree, "--scenario securevm --persist").document();
    let back = restore(&tree).document();
    assert_eq!(item(&back, "host.swappiness")["note"], "it is as it was before");
    assert_eq!(back["warnings"], json!([]));
}

/// What is to hold at boot does not where a file that is read later says otherwise.
#[test]
fn a_file_that_overrules_ours_at_boot_is_named() {
    let tree = plain();
    let before = files(&root(&tree));
    let others = [
        ("/etc/sysctl.d/99-sysctl.conf", "kernel.panic = 10\nvm.swappiness = 60\n"),
        ("/usr/lib/modprobe.d/zz.conf", "options kvm-amd sev=0\n"),
        ("/etc/tmpfiles.d/a.conf", "w /sys/kernel/mm/ksm/run - - - - 1\n"),
    ];
    for (path, text) in others {
        tree.file(path, text);
    }
    let notes = [
        ("host.swappiness", "/etc/sysctl.d/99-sysctl.conf:2 sets it to 60 at boot"),
        ("host.modules.kvm_amd.sev", "/usr/lib/modprobe.d/zz.conf:1 sets it to 0 at boot"),
        ("host.ksm", "/etc/tmpfiles.d/a.conf:1 sets it to 1 at boot"),
    ];
    // Also when the files are there already.
    for _ in 0..2 {
        let done = tune(&tree, "--scenario securevm --persist").document();
        for (setting, note) in notes {
            let told = item(&done, setting);
            assert_eq!(told["persistent"], false, "{told}");
            assert!(told["note"].as_str().unwrap().contains(note), "{told}");
            let warnings = done["warnings"].as_array().unwrap().iter();
            let warned = warnings.filter(|warning| warning.as_str().unwrap().contains(note));
            assert_eq!(warned.count(), if setting.contains("modules") { 2 } else { 1 }, "{done:#}");
        }
        assert_eq!(item(&done, "host.modules.kvm_amd.sev_es")["persistent"], true);
        assert_eq!(item(&done, "host.ksm_merge_across_nodes")["persistent"], true);
    }
    restore(&tree).document();
    for (path, text) in others {
        assert_eq!(says(&tree, path), text.trim_end());
        fs::remove_file(tree.path(path)).unwrap();
    }
    tree.file("/etc/sysctl.d/99-sysctl.conf", "kernel.panic = 10\n");
    assert_eq!(files(&root(&tree)), before);
}

#[test]
fn what_somebody_added_to_a_file_of_ours_stays() {
    const FILE: &str = "/etc/sysctl.d/90-tdx.conf";
    let tree = plain();
    let before = files(&root(&tree));
    let add = |line: &str| tree.file(FILE, says(&tree, FILE) + "\n" + line + "\n");
    let stays = format!("in {FILE} stays what tuning has not written: vm.panic_on_oom = 1");
    tune(&tree, "--scenario securevm --persist").document();
    add("vm.panic_on_oom = 1");
    for replace in ["--scenario securevm", "--scenario desktop --replace"] {
        let done = tune(&tree, &format!("{replace} --persist")).document();
        assert!(done["warnings"].to_string().contains(&stays), "{done:#}");
        assert!(says(&tree, FILE).contains("vm.panic_on_oom = 1"));
    }
    assert!(says(&tree, FILE).contains("vm.swappiness = 35"));
    let plan = tree.run("tdx-td", "host restore --dry-run").document();
    let back = restore(&tree).document();
    assert_eq!((&back["items"], &back["warnings"]), (&plan["items"], &plan["warnings"]));
    let of_file = back["items"].as_array().unwrap().iter().find(|item| item["path"] == FILE);
    assert_eq!(
        (&of_file.unwrap()["action"], &of_file.unwrap()["note"]),
        (&json!("restore"), &json!(stays))
    );
    assert!(back["warnings"].to_string().contains(&stays), "{back:#}");
    assert_eq!(says(&tree, FILE), "vm.panic_on_oom = 1");
    fs::remove_file(tree.path(FILE)).unwrap();
    assert_eq!(files(&root(&tree)), before);

    // A line of ours that was changed is somebody's, until tuning sets it again.
    tune(&tree, "--scenario securevm --persist").document();
    tree.file(FILE, says(&tree, FILE).replace("= 0", "= 7") + "\n");
    let done = tune(&tree, "--scenario securevm --persist").document();
    assert!(!done["warnings"].to_string().contains("stays"), "{done:#}");
    assert!(says(&tree, FILE).ends_with("vm.swappiness = 0"), "{}", says(&tree, FILE));
    restore(&tree).document();
    assert_eq!(files(&root(&tree)), before);
}

/// Who comes second waits, and does what is still to be done.
#[test]
fn two_at_once_do_it_once() {
    let tree = plain();
    let before = files(&root(&tree));
    restore(&tree).document();
    let folder = tree.path("/run/tdx/tuned");
    fs::create_dir_all(&folder).unwrap();
    let at_once = |lines: [&str; 2]| -> Vec<Run> {
        let held = fs::File::open(&folder).unwrap();
        held.lock().unwrap();
        let both = lines.map(|line| Process::start(tree.command("tdx-td", line), "tdx-td"));
        both.iter().for_each(Process::wait_until_waiting);
        drop(held);
        both.map(|one| one.end().0).into()
    };
    let changed =
        |runs: &[Run]| runs.iter().filter(|run| run.document()["changed"] == json!(true)).count();
    let tune = "host tune --scenario desktop --persist --yes";
    assert_eq!(changed(&at_once([tune, tune])), 1);
    assert_eq!(says(&tree, SWAPPINESS), "35");
    let restore = "host restore --yes";
    assert_eq!(changed(&at_once([restore, restore])), 1);
    assert_eq!(files(&root(&tree)), before);
    // One of two that want other things is told of the other.
    let mut runs = at_once([tune, "host tune --scenario computation --yes"]);
    runs.sort_by_key(|run| run.status);
    runs[0].document();
    let error = runs[1].error(5);
    assert!(error["message"].as_str().unwrap().contains("for scenario"), "{error}");
    tree.run("tdx-td", restore).document();
    assert_eq!(files(&root(&tree)), before);
}

#[test]
fn a_record_of_another_boot_is_forgotten() {
    let tree = plain();
    tune(&tree, "--scenario desktop").document();
    tree.file(BOOT_ID, "another\n");
    let tuned = files(&root(&tree));
    let plan = tree.run("tdx-td", "host restore --dry-run").document();
    assert!(plan["warnings"][0].as_str().unwrap().contains("before the last boot"), "{plan:#}");
    assert_eq!(files(&root(&tree)), tuned);
    // Another scenario is free to tune.
    let done = tune(&tree, "--scenario computation").document();
    assert!(done["warnings"].to_string().contains("before the last boot"), "{done:#}");
    let back = restore(&tree).document();
    assert_eq!(item(&back, "host.swappiness")["previous"], "35");
    tune(&tree, "--scenario desktop").document();
    tree.file(BOOT_ID, "a third\n");
    assert_eq!(restore(&tree).document()["changed"], false);
    assert!(!tree.path(RECORD).exists());
    assert_eq!(says(&tree, SWAPPINESS), "35");
    // One that nobody can read is named.
    tree.file(RECORD, "{\"boot_id\":");
    for verb in ["tune --scenario desktop", "restore"] {
        let error = tree.run("tdx-td", &format!("host {verb} --yes")).error(3);
        assert!(error["message"].as_str().unwrap().contains(RECORD), "{error}");
    }
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_touched() {
    let tree = plain();
    let before = files(&root(&tree));
    let same = |what: &str| assert_eq!(files(&root(&tree)), before, "{what}");
    let error = tree.run("tdx-td", "host tune --scenario desktop").error(5);
    assert!(error["hint"].as_str().unwrap().contains("--yes"), "{error}");
    tune(&tree, "--scenario dektop").error(4);
    tune(&tree, "").error(2);
    tune(&tree, "--scenario desktop --set guest.vcpus=2").error(2);
    tune(&tree, "--scenario desktop --set host.swapiness=2").error(2);
    tune(&tree, "--scenario desktop --set host.swappiness=201").error(2);
    for uri in ["qemu+ssh://root@far/system", "qemu://far/system"] {
        for verb in ["tune --scenario desktop", "restore"] {
            let error = tree.run("tdx-td", &format!("host {verb} --yes -c {uri}")).error(6);
            assert!(error["message"].as_str().unwrap().contains(uri), "{error}");
        }
    }
    same("refusals");
    // The kernel says which files can be written.
    let mode = |path: &str, mode| {
        fs::set_permissions(tree.path(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(SWAPPINESS, 0o444);
    let error = tune(&tree, "--scenario desktop").error(7);
    assert!(
        error["message"].as_str().unwrap().contains("vm/swappiness can only be read"),
        "{error}"
    );
    mode(SWAPPINESS, 0o644);
    same("a file that can only be read");
    tune(&tree, "--scenario desktop").document();
    mode(SWAPPINESS, 0o444);
    let tuned = files(&root(&tree));
    restore(&tree).error(7);
    assert_eq!(files(&root(&tree)), tuned);
    mode(SWAPPINESS, 0o644);
    restore(&tree).document();
    same("a restoration that was refused");
    for (file, text) in [
        ("/run/systemd/container", "lxc\n"),
        ("/.dockerenv", ""),
        ("/proc/1/environ", "A=b\0container=podman\0"),
    ] {
        tree.file(file, text);
        for verb in ["tune --scenario desktop --dry-run", "restore --yes"] {
            let error = tree.run("tdx-td", &format!("host {verb}")).error(6);
            assert!(error["message"].as_str().unwrap().contains("container"), "{error}");
        }
        fs::remove_file(tree.path(file)).unwrap();
    }
    same("containers");
}

/// A configuration that somebody may not read is no bad configuration.
#[test]
#[ignore = "needs root"]
fn a_configuration_that_may_not_be_read_is_a_matter_of_permission() {
    let tree = plain();
    let mode = |path: &str, mode| {
        fs::set_permissions(tree.path(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    tree.file("/etc/tdx/tdx.yaml", "pool: guests\n");
    fs::copy(tools::bin("tdx-td"), tree.path("tool")).unwrap();
    mode("", 0o755);
    let run = || {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]);
        command.arg(tree.path("tool")).args(["host", "restore", "--dry-run", "--sysroot"]);
        command.arg(root(&tree)).env("HOME", "/nonexistent");
        Run::of(command, b"")
    };
    run().document();
    mode("/etc/tdx/tdx.yaml", 0o600);
    let error = run().error(7);
    assert!(error["message"].as_str().unwrap().contains("/etc/tdx/tdx.yaml"), "{error}");
    mode("/etc/tdx/tdx.yaml", 0o644);
    tree.file("/etc/tdx/tdx.yaml", "pools: guests\n");
    run().error(3);
}

/// Killed right before any of its steps, tuning leaves what restoring puts back; and so does restoring.
#[test]
#[ignore = "needs root"]
fn a_kill_at_any_step_leaves_what_restore_puts_back() {
    let tree = plain();
    for (path, text) in [(KSM, "1\n"), (SHARED, "9\n")] {
        tree.file(path, text);
    }
    // All folders are made once.
    tune(&tree, "--scenario securevm --persist").document();
    restore(&tree).document();
    let before = files(&root(&tree));
    let sysroot = root(&tree).display().to_string();
    let tune_line =
        format!("tdx-td host tune --scenario securevm --persist --yes --sysroot {sysroot}");
    let restore_line = format!("tdx-td host restore --yes --sysroot {sysroot}");
    for (title, line, prepare) in
        [("tdx-td host tune", &tune_line, false), ("tdx-td host restore", &restore_line, true)]
    {
        let ready = || {
            if prepare {
                tune(&tree, "--scenario securevm --persist").document();
            }
        };
        ready();
        let first = files(&root(&tree));
        let walk = walk_here_all(line, None);
        walk.run.document();
        let done = files(&root(&tree));
        restore(&tree).document();
        assert_eq!(files(&root(&tree)), before, "{line}, undisturbed");
        let moments = moments(&walk.steps, true);
        assert!(moments.len() > 30, "{:#?}", walk.steps);
        let mut rows = Vec::new();
        for mut moment in moments {
            ready();
            let killed = walk_here_all(line, Some((moment.clone(), Fate::Signal(SIGKILL))));
            assert!(killed.struck && killed.signal == Some(9), "{line}, {moment:?}: {killed:#?}");
            let left = table::changes([&first, &files(&root(&tree)), &done]);
            restore(&tree).document();
            assert_eq!(files(&root(&tree)), before, "{line}, killed at {moment:?}: {killed:#?}");
            moment.step = moment.step.replace(sysroot.trim_end_matches('/'), "");
            rows.push(Row::new(&moment, vec![left]));
        }
        if table::update() {
            table::write_down(title, &["SIGKILL leaves"], &rows);
        } else {
            let steps: Vec<&str> = rows.iter().map(|row| row.step.as_str()).collect();
            table::check(title, &steps, &rows);
        }
    }
    // Nor does replacing one scenario by another lose what was before both.
    tune(&tree, "--scenario securevm").document();
    let replace =
        format!("tdx-td host tune --scenario desktop --replace --yes --sysroot {sysroot}");
    let steps = walk_here_all(&replace, None).steps;
    restore(&tree).document();
    for moment in moments(&steps, true) {
        tune(&tree, "--scenario securevm").document();
        walk_here_all(&replace, Some((moment.clone(), Fate::Signal(SIGKILL))));
        restore(&tree).document();
        assert_eq!(files(&root(&tree)), before, "{replace}, killed at {moment:?}");
    }
}

/// Who asks it to stop finds all as it was, or done when nothing but the end was missing.
#[test]
#[ignore = "needs root"]
fn a_signal_undoes_what_was_done() {
    let tree = plain();
    // All folders are made once.
    tune(&tree, "--scenario securevm --persist").document();
    restore(&tree).document();
    let before = files(&root(&tree));
    let sysroot = root(&tree).display().to_string();
    let line = format!("tdx-td host tune --scenario securevm --persist --yes --sysroot {sysroot}");
    let walk = walk_here_all(&line, None);
    restore(&tree).document();
    let (mut undone, mut done) = (0, 0);
    for moment in moments(&walk.steps, true) {
        let walk = walk_here_all(&line, Some((moment.clone(), Fate::Signal(SIGTERM))));
        assert_eq!(walk.signal, Some(15), "{moment:?}: {walk:#?}");
        if walk.run.stdout.is_empty() {
            assert!(walk.run.stderr.contains("interrupted"), "{moment:?}: {walk:#?}");
            undone += 1;
        } else {
            restore(&tree).document();
            done += 1;
        }
        assert_eq!(files(&root(&tree)), before, "{moment:?}: {walk:#?}");
    }
    assert!(undone > 30 && done < 10, "{undone} undone, {done} done");
}

/// The write of any step fails: what was done before it is undone.
#[test]
#[ignore = "needs root"]
fn a_failure_undoes_what_was_done() {
    use nix::errno::Errno;
    let tree = plain();
    // All folders are made once.
    tune(&tree, "--scenario securevm --persist").document();
    restore(&tree).document();
    let before = files(&root(&tree));
    let sysroot = root(&tree).display().to_string();
    let line = format!("tdx-td host tune --scenario securevm --persist --yes --sysroot {sysroot}");
    let walk = walk_here_all(&line, None);
    restore(&tree).document();
    let writes = |step: &str| step.starts_with("rename ") || step.starts_with("create ");
    let moments = moments(&walk.steps, true);
    let mut failed = 0;
    for moment in moments.into_iter().filter(|moment| writes(&moment.step)) {
        let walk = walk_here_all(&line, Some((moment.clone(), Fate::Error(Errno::ENOSPC))));
        assert!(walk.struck, "{moment:?}");
        let error = walk.run.error(1);
        assert_eq!(error["left_behind"], json!([]), "{moment:?}: {error}");
        assert!(!tree.path(RECORD).exists() && !tree.path(LASTING).exists(), "{moment:?}");
        restore(&tree).document(); // what is beside the files
        assert_eq!(files(&root(&tree)), before, "{moment:?}");
        failed += 1;
    }
    assert!(failed > 10, "{failed}");
}
