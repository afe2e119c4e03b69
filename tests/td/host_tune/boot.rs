//! Values that are set at every boot, and records of an earlier boot.

use super::*;

/// What restore reports about values whose former value is unknown.
const AT_BOOT: &str = "these settings, set at boot, keep their values until the next boot: host.hugepages, \
    host.io_scheduler, host.ksm, host.ksm_merge_across_nodes, host.swappiness, \
    host.transparent_hugepages";

#[test]
fn tune_persist_writes_files_that_restore_removes() {
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

    // After a reboot /run is empty, and the values are those of the files.
    fs::remove_dir_all(tree.path("/run/tdx")).unwrap();
    tree.file(BOOT_ID, "another\n");
    let error = tune(&tree, "--scenario desktop").error(5);
    assert!(error["message"].as_str().unwrap().contains("scenario securevm set"), "{error}");
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

    // In the same boot, a file that somebody has edited is kept.
    tune(&tree, line).document();
    restore(&tree).document();
    assert_eq!(files(&root(&tree)), before);
    tune(&tree, line).document();
    tree.file("/etc/sysctl.d/90-tdx.conf", "vm.swappiness = 7\n");
    let back = restore(&tree).document();
    assert!(
        back["warnings"]
            .to_string()
            .contains("90-tdx.conf is not restored: another user or program"),
        "{back:#}"
    );
    // A file of that name that tune has not written prevents all writes.
    let before = files(&root(&tree));
    let error = tune(&tree, line).error(5);
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("90-tdx.conf exists and was not written by tdx-td host tune"),
        "{error}"
    );
    assert_eq!(files(&root(&tree)), before);
}

/// After a reboot, a second tune records the values that the files have set.
#[test]
fn restore_names_the_values_set_at_boot_on_a_host_tuned_again() {
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
    let note = format!("{SWAPPINESS} was set at boot and keeps its value until the next boot");
    assert_eq!(swappiness["note"], note.as_str());

    // Another scenario replaces the first; restore sets the values of the boot and reports that.
    tune(&tree, "--scenario securevm --persist").document();
    tree.file(BOOT_ID, "a third\n");
    tune(&tree, "--scenario desktop --replace").document();
    let back = restore(&tree).document();
    let swappiness = item(&back, "host.swappiness");
    assert_eq!(
        (&swappiness["action"], &swappiness["current"], &swappiness["previous"]),
        (&json!("restore"), &json!("35"), &json!("0"))
    );
    assert_eq!(swappiness["note"], "was set at boot: keeps this value until the next boot");
    assert_eq!(item(&back, "host.transparent_hugepages")["action"], "none");
    assert_eq!(says(&tree, SWAPPINESS), "0");

    // A value that already was as wanted before all tuning is not attributed to the files.
    tree.file(BOOT_ID, "a fourth\n");
    tune(&tree, "--scenario securevm --persist").document();
    let back = restore(&tree).document();
    assert_eq!(item(&back, "host.swappiness")["note"], "already has its previous value");
    assert_eq!(back["warnings"], json!([]));
}

/// A value in a file of tune has no effect at boot if a file that is read later sets another value.
#[test]
fn tune_persist_names_a_file_that_overrides_its_values_at_boot() {
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
        ("host.swappiness", "/etc/sysctl.d/99-sysctl.conf:2 sets 60 at boot"),
        ("host.modules.kvm_amd.sev", "/usr/lib/modprobe.d/zz.conf:1 sets 0 at boot"),
        ("host.ksm", "/etc/tmpfiles.d/a.conf:1 sets 1 at boot"),
    ];
    // The conflict is also named if the files exist already.
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
fn restore_keeps_lines_that_somebody_added_to_a_file_of_tune() {
    const FILE: &str = "/etc/sysctl.d/90-tdx.conf";
    let tree = plain();
    let before = files(&root(&tree));
    let add = |line: &str| tree.file(FILE, says(&tree, FILE) + "\n" + line + "\n");
    let stays =
        format!("{FILE} keeps lines that tdx-td host tune did not write: vm.panic_on_oom = 1");
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

    // A changed line of tune counts as somebody else's, until tune sets it again.
    tune(&tree, "--scenario securevm --persist").document();
    tree.file(FILE, says(&tree, FILE).replace("= 0", "= 7") + "\n");
    let done = tune(&tree, "--scenario securevm --persist").document();
    assert!(!done["warnings"].to_string().contains("stays"), "{done:#}");
    assert!(says(&tree, FILE).ends_with("vm.swappiness = 0"), "{}", says(&tree, FILE));
    restore(&tree).document();
    assert_eq!(files(&root(&tree)), before);
}

#[test]
fn a_record_of_another_boot_is_ignored() {
    let tree = plain();
    tune(&tree, "--scenario desktop").document();
    tree.file(BOOT_ID, "another\n");
    let tuned = files(&root(&tree));
    let plan = tree.run("tdx-td", "host restore --dry-run").document();
    assert!(plan["warnings"][0].as_str().unwrap().contains("from before the reboot"), "{plan:#}");
    assert_eq!(files(&root(&tree)), tuned);
    // Another scenario can tune the host.
    let done = tune(&tree, "--scenario computation").document();
    assert!(done["warnings"].to_string().contains("from before the reboot"), "{done:#}");
    let back = restore(&tree).document();
    assert_eq!(item(&back, "host.swappiness")["previous"], "35");
    tune(&tree, "--scenario desktop").document();
    tree.file(BOOT_ID, "a third\n");
    assert_eq!(restore(&tree).document()["changed"], false);
    assert!(!tree.path(RECORD).exists());
    assert_eq!(says(&tree, SWAPPINESS), "35");
    // A record that cannot be read is named.
    tree.file(RECORD, "{\"boot_id\":");
    for verb in ["tune --scenario desktop", "restore"] {
        let error = tree.run("tdx-td", &format!("host {verb} --yes")).error(3);
        assert!(error["message"].as_str().unwrap().contains(RECORD), "{error}");
    }
}
