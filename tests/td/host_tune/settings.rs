//! The values that tune writes, and the files that it writes to.

use super::*;

/// The values of the host settings in the table on virt-scenario's page.
#[test]
fn tune_writes_the_host_settings_of_every_scenario() {
    let choice = |words: &str, chosen: &str| words.replace(chosen, &format!("[{chosen}]"));
    let always = choice("always madvise never", "always");
    let schedulers = "none mq-deadline kyber bfq";
    for (scenario, ksm, merge, swappiness, scheduler) in [
        ("securevm", "0", "0", "0", "bfq"),
        ("computation", "1", "1", "0", "mq-deadline"),
        ("desktop", "1", "1", "35", "mq-deadline"),
    ] {
        let tree = plain();
        // Every value differs from the wanted one.
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
        // The disk without a guest's image is not changed.
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
        assert!(nothing["warnings"][0].as_str().unwrap().starts_with("no tuning record found"));
    }
}

#[test]
fn tune_reports_sev_options_of_the_module_and_the_kernel_command_line() {
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
    // Running guests or a built-in module prevent a reload of the module.
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
    // An Intel host needs other settings.
    tree.file("/proc/cpuinfo", "flags\t: vmx tdx_host_platform\n");
    let plan = tune(&tree, "--scenario securevm --dry-run").document();
    assert_eq!(item(&plan, "host.modules.kvm_intel.tdx")["note"], "module kvm_intel is not loaded");
    item(&plan, "host.kernel_arguments.nohibernate");
    // On a host without either technology the user must name one.
    tree.file("/proc/cpuinfo", "flags\t: vmx\n");
    tune(&tree, "--scenario securevm --dry-run").error(6);
    tune(&tree, "--scenario securevm --security sev --dry-run").document();
}

#[test]
fn tune_warns_of_settings_that_the_kernel_lacks_and_sets_the_others() {
    let tree = plain();
    tree.file(SCHEDULER, "[none] mq-deadline\n");
    for file in [KSM, MERGE, SHARED] {
        fs::remove_file(tree.path(file)).unwrap();
    }
    let before = files(&root(&tree));
    let done = tune(&tree, "--scenario securevm").document();
    let scheduler = item(&done, "host.io_scheduler");
    assert_eq!((&scheduler["in_force"], &scheduler["action"]), (&json!(false), &json!("none")));
    assert_eq!(scheduler["note"], "this kernel offers only none, mq-deadline");
    let ksm = item(&done, "host.ksm");
    assert_eq!((&ksm["current"], &ksm["in_force"]), (&Value::Null, &json!(false)));
    let warnings = done["warnings"].to_string();
    assert!(warnings.contains("host.io_scheduler: this kernel offers"), "{warnings}");
    assert!(warnings.contains("host.ksm: "), "{warnings}");
    assert_eq!(says(&tree, SWAPPINESS), "0");
    restore(&tree).document();
    assert_eq!(files(&root(&tree)), before);

    // A disk without a scheduler, and a pool that is not on a disk.
    fs::remove_file(tree.path(SCHEDULER)).unwrap();
    let plan = tune(&tree, "--scenario desktop --dry-run").document();
    assert_eq!(item(&plan, "host.io_scheduler")["note"], "disk vda has no scheduler");
    tree.file("/proc/self/mountinfo", "22 1 0:30 / / rw - nfs4 server:/x rw\n");
    let plan = tune(&tree, "--scenario desktop --dry-run").document();
    let scheduler = item(&plan, "host.io_scheduler");
    let note = "/var/lib/libvirt/images is on nfs4 (server:/x): its disk is unknown";
    assert_eq!((&scheduler["path"], &scheduler["note"]), (&Value::Null, &json!(note)));
}

/// From the directory of the pool through all layers down to the disks.
#[test]
fn tune_finds_the_disks_below_the_pool() {
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
    // A device-mapper device on an array of two disks.
    let tree = plain();
    disk(&tree, "sda", 8, 1);
    disk(&tree, "sdb", 9, 1);
    tree.stacked("md0", "9:127", &["sda1", "sdb1"]);
    tree.stacked("dm-0", "252:0", &["md0"]);
    tree.file("/sys/class/block/dm-0/dm/name", "vg-images\n");
    tree.file("/proc/self/mountinfo", format!("{table}{images}"));
    assert_eq!(schedulers(&tree), ["sda", "sdb"]);
    // The file system that is mounted last counts.
    tree.file(
        "/proc/self/mountinfo",
        format!("{table}{images}31 30 253:0 / /var/lib/libvirt rw - ext4 /dev/vdb rw\n"),
    );
    assert_eq!(schedulers(&tree), ["vdb"]);
    // A file system on several disks, with a device number of its own.
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
    // An overlay file system writes to its upper directory.
    tree.file("/proc/self/mountinfo", format!("{table}30 22 0:31 / /var/lib/libvirt rw - overlay o rw,lowerdir=/l,upperdir=/up\\040per,workdir=/w\n31 22 253:0 / /up\\040per rw - ext4 /dev/vdb rw\n"));
    fs::create_dir_all(tree.path("/up per")).unwrap();
    assert_eq!(schedulers(&tree), ["vdb"]);
    // The pool's path is a link, and its file system is on a loop device over a file.
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
    // A disk with two controllers.
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

/// libvirt names the directory of the pool and the disks of a domain.
#[test]
#[ignore = "needs root"]
fn tune_finds_the_disks_below_a_domain() {
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
fn tune_separates_merged_pages_before_it_changes_the_merging_rule() {
    let tree = plain();
    for (path, text) in [(KSM, "1\n"), (SHARED, "512\n")] {
        tree.file(path, text);
    }
    let before = files(&root(&tree));
    let done = tune(&tree, "--scenario securevm").document();
    let note = item(&done, "host.ksm_merge_across_nodes")["note"].as_str().unwrap().to_owned();
    assert!(note.starts_with("512 merged pages are separated first"), "{note}");
    assert_eq!((says(&tree, KSM), says(&tree, MERGE)), ("0".to_owned(), "0".to_owned()));
    restore(&tree).document();
    assert_eq!(files(&root(&tree)), before);
    // Merging that is stopped, with separated pages, counts as off.
    tree.file(KSM, "2\n");
    let before = files(&root(&tree));
    let done = tune(&tree, "--scenario securevm").document();
    assert_eq!(item(&done, "host.ksm")["action"], "none", "{done:#}");
    assert_eq!(says(&tree, KSM), "2");
    restore(&tree).document();
    assert_eq!(files(&root(&tree)), before);
}
