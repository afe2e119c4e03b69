//! Scenarios, users and commands that want different values, and refused settings.

use super::*;

#[test]
fn tune_refuses_a_scenario_that_conflicts_with_another_and_names_both() {
    let tree = plain();
    let before = files(&root(&tree));
    tune(&tree, "--scenario securevm").document();
    let tuned = files(&root(&tree));
    for more in ["", " --dry-run"] {
        let error = tune(&tree, &format!("--scenario computation{more}")).error(5);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("scenario securevm set"), "{error}");
        assert!(error["hint"].as_str().unwrap().contains("--replace"), "{error}");
        assert_eq!(files(&root(&tree)), tuned);
    }
    // Two scenarios that want the same value do not conflict. A scenario may also change its own value.
    let same = "--set host.ksm= --set host.ksm_merge_across_nodes= --set host.io_scheduler=";
    tune(&tree, &format!("--scenario computation {same}")).document();
    let done = tune(&tree, "--scenario securevm --set host.ksm=on").document();
    assert_eq!(item(&done, "host.ksm")["action"], "set");
    let error =
        tune(&tree, "--scenario securevm --set host.ksm=off --set host.swappiness=1").error(5);
    assert!(error["message"].as_str().unwrap().contains("scenario computation set"), "{error}");
    tune(&tree, "--scenario desktop --replace").document();
    assert_eq!(says(&tree, SWAPPINESS), "35");
    // restore sets the values from before all tuning.
    restore(&tree).document();
    assert_eq!(files(&root(&tree)), before);
}

#[test]
fn restore_keeps_a_value_that_somebody_else_has_set() {
    let tree = plain();
    tune(&tree, "--scenario desktop --set host.hugepages=8").document();
    assert_eq!(says(&tree, PAGES), "8");
    tree.file(SWAPPINESS, "10\n");
    fs::remove_file(tree.path(THP)).unwrap();
    let back = restore(&tree).document();
    let swappiness = item(&back, "host.swappiness");
    assert_eq!((&swappiness["action"], &swappiness["current"]), (&json!("none"), &json!("10")));
    let warnings = back["warnings"].to_string();
    assert!(
        warnings.contains(&format!("{SWAPPINESS} is not restored: another user or program")),
        "{warnings}"
    );
    assert!(warnings.contains(&format!("{THP} no longer exists")), "{warnings}");
    assert_eq!((says(&tree, SWAPPINESS), says(&tree, PAGES)), ("10".to_owned(), "0".to_owned()));
    assert!(!tree.path(RECORD).exists());
}

/// The second command waits, and does what remains to be done.
#[test]
fn two_simultaneous_tune_commands_change_each_value_once() {
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
    // One of two conflicting commands names the other scenario.
    let mut runs = at_once([tune, "host tune --scenario computation --yes"]);
    runs.sort_by_key(|run| run.status);
    runs[0].document();
    let error = runs[1].error(5);
    assert!(error["message"].as_str().unwrap().contains(": scenario "), "{error}");
    tree.run("tdx-td", restore).document();
    assert_eq!(files(&root(&tree)), before);
}

#[test]
fn tune_refuses_impossible_settings_before_it_changes_anything() {
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
    // The mode of a file says whether the kernel accepts writes.
    let mode = |path: &str, mode| {
        fs::set_permissions(tree.path(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(SWAPPINESS, 0o444);
    let error = tune(&tree, "--scenario desktop").error(7);
    assert!(error["message"].as_str().unwrap().contains("vm/swappiness is read-only"), "{error}");
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

/// A configuration that the user may not read is not reported as invalid.
#[test]
#[ignore = "needs root"]
fn a_configuration_that_the_user_may_not_read_is_a_permission_error() {
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
