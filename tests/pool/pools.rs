//! `tdx-pool` on a real libvirtd: the pool itself, its volumes, and the contract of every verb.

use std::fs;
use std::process::Stdio;

use serde_json::json;

use crate::support::pool::{IMAGES, named, values};
use crate::support::rig::Rig;
use crate::support::tools::{Run, bin, tool};

const REMOTE: &str = "-c qemu+tcp://127.0.0.1/system";

#[test]
#[ignore = "needs root"]
fn ensure_creates_and_repairs_a_pool_once() {
    let rig = Rig::start();
    let before = rig.state();
    let missing = rig.pool("info").error(4);
    assert_eq!(missing["message"], "pool 'tdvirsh-pool' does not exist");
    let plan = rig.pool("ensure --dry-run").document();
    assert_eq!((&plan["changed"], &plan["dry_run"]), (&json!(true), &json!(true)));
    assert_eq!(rig.state(), before, "a dry run changed something");

    let made = rig.pool("ensure").document();
    assert_eq!(made["items"][0]["action"], "create");
    assert_eq!(made["items"][0]["path"], IMAGES);
    assert_eq!(made["warnings"], json!([]));
    assert_eq!(rig.virsh(["pool-info", "tdvirsh-pool"]).matches("yes").count(), 2);
    let mut imagined = plan["items"][0].clone();
    for key in ["uuid", "capacity_bytes", "allocation_bytes", "available_bytes", "volumes"] {
        assert!(imagined[key].is_null());
        imagined[key] = made["items"][0][key].clone();
    }
    assert_eq!(imagined, made["items"][0], "the plan was another");

    for same in ["", "--path /var/lib/libvirt/images/", "--path /var/lib/libvirt/../libvirt/images"]
    {
        let again = rig.pool(&format!("ensure {same}")).document();
        assert_eq!(again["changed"], false, "{again:#}");
        assert_eq!(again["items"][0]["action"], "none");
    }
    assert_eq!(rig.pool(&format!("{REMOTE} ensure")).document()["changed"], false);

    // A pool that is stopped or lacks autostart is repaired.
    rig.virsh(["pool-destroy", "tdvirsh-pool"]);
    let stopped = rig.pool("info").item();
    assert_eq!((&stopped["state"], &stopped["capacity_bytes"]), (&json!("inactive"), &json!(null)));
    let hint = rig.pool("volumes").error(5)["hint"].clone();
    assert_eq!(hint, "tdx-pool ensure --pool tdvirsh-pool");
    rig.virsh(["pool-autostart", "--disable", "tdvirsh-pool"]);
    assert_eq!(rig.pool("ensure -n").item()["state"], "active");
    assert_eq!(rig.pool("info").item()["state"], "inactive");
    assert_eq!(rig.pool("ensure").item()["action"], "start");
    rig.virsh(["pool-autostart", "--disable", "tdvirsh-pool"]);
    let updated = rig.pool("ensure").item();
    assert_eq!((&updated["action"], &updated["autostart"]), (&json!("update"), &json!(true)));

    // The directory of the pool was removed without libvirt.
    fs::remove_dir(rig.path(IMAGES)).unwrap();
    assert_eq!(rig.pool("ensure --dry-run").item()["action"], "start");
    assert_eq!(rig.pool("ensure").item()["action"], "start");
    assert!(rig.path(IMAGES).is_dir());
    assert_eq!(rig.pool("ensure").document()["changed"], false);
}

#[test]
#[ignore = "needs root"]
fn simultaneous_ensure_commands_create_one_pool() {
    let rig = Rig::start();
    for round in 0..10 {
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..8).map(|_| scope.spawn(|| rig.pool("ensure"))).collect();
            for thread in running {
                let pool = thread.join().unwrap().item();
                let (state, autostart) = (&pool["state"], &pool["autostart"]);
                assert_eq!((state, autostart), (&json!("active"), &json!(true)), "{round}");
            }
        });
        assert_eq!(rig.pool("list").document()["items"].as_array().unwrap().len(), 1);
        rig.virsh(["pool-destroy", "tdvirsh-pool"]);
        // In every other round the pool is stopped.
        if round % 2 == 0 {
            rig.virsh(["pool-undefine", "tdvirsh-pool"]);
        }
    }
}

#[test]
#[ignore = "needs root"]
fn ensure_creates_the_pool_in_the_requested_directory_or_not_at_all() {
    let rig = Rig::start();
    let scratch = rig.scratch().to_str().unwrap().to_owned();
    rig.shell("mkdir -m 0751 real; ln -s real link; ln -s nowhere dangling; touch file").text();
    rig.shell("mkdir readonly; mount -t tmpfs -o ro tmpfs readonly").text();

    let through = rig.pool("ensure --pool p --path link/sub/").document();
    assert_eq!(through["items"][0]["path"], format!("{scratch}/real/sub"));
    let warning = format!(
        "pool path {scratch}/link/sub/ resolves to {scratch}/real/sub, which libvirt shows instead"
    );
    assert_eq!(through["warnings"], json!([warning]));
    for same in ["link/sub", "real/sub", "./real//sub/", "link/../real/sub"] {
        let again = rig.pool(&format!("ensure --pool p --path {same}")).document();
        assert_eq!(again["changed"], false, "{same}: {again:#}");
    }
    // An existing directory keeps its mode.
    rig.pool("ensure --pool real --path real").document();
    assert_eq!(rig.shell("stat -c %a real").text(), "751\n");

    let before = rig.state();
    let other = rig.pool("ensure --pool p --path elsewhere").error(5);
    let message = format!(
        "pool 'p' exists, but its directory is {scratch}/real/sub, expected {scratch}/elsewhere"
    );
    assert_eq!(other["message"], message);
    let owned = rig.pool("ensure --pool q --path link/sub").document();
    assert_eq!((&owned["changed"], &owned["items"][0]["name"]), (&false.into(), &"p".into()));
    assert!(owned["warnings"].to_string().contains("used instead of 'q'"), "{owned:#}");
    for (path, status) in [
        ("file", 5),
        ("file/below", 5),
        ("dangling", 5),
        ("dangling/below", 5),
        ("readonly", 7),
        ("readonly/new", 7),
    ] {
        for flag in ["", "--dry-run"] {
            let error = rig.pool(&format!("ensure --pool x --path {path} {flag}")).error(status);
            assert_eq!(error["hint"], "choose another directory with --path", "{path}");
        }
    }
    for name in ["", "a/b", "a\nb"] {
        rig.tool("tdx-pool", ["ensure", "--pool", name]).error(2);
    }
    rig.pool(&format!("{REMOTE} ensure --pool x --path relative")).error(2);
    assert_eq!(rig.state(), before);

    // The creation fails half way: the definition and the new directories are removed.
    let failed = rig.pool(&format!("{REMOTE} ensure --pool x --path {scratch}/readonly/new/deep"));
    assert_eq!(failed.error(1)["left_behind"], json!([]));
    assert_eq!(rig.state(), before);
    rig.shell("umount readonly").text();
}

#[test]
#[ignore = "needs root"]
fn ensure_uses_the_pool_that_already_has_the_directory() {
    let rig = Rig::start();
    rig.virsh(["pool-define-as", "default", "dir", "--target", IMAGES]);
    let plan = rig.pool("ensure -n").document();
    assert_eq!(plan["items"][0]["state"], "active");
    let used = rig.pool("ensure").document();
    assert_eq!(used["items"][0]["name"], "default");
    assert_eq!(used["items"][0]["action"], "start");
    let warning = format!(
        "pool 'default' already has the directory {IMAGES} and is used instead of 'tdvirsh-pool'"
    );
    assert_eq!(used["warnings"], json!([warning]));
    let item = rig.pool("ensure").item();
    assert_eq!((&item["action"], &item["autostart"]), (&json!("none"), &json!(true)));

    let image = rig.image("disk.img", 1);
    assert_eq!(rig.tool("tdx-pool", ["import", &image]).item()["pool"], "default");
    assert_eq!(rig.pool("info").item()["name"], "default");
    assert_eq!(values(&rig.pool("volumes").document(), "name"), ["disk.img"]);
    assert_eq!(values(&rig.pool("list").document(), "name"), ["default"]);
    rig.pool("info --pool tdvirsh-pool").error(4);
    let named = rig.pool("ensure --pool mine").document();
    assert_eq!(named["items"][0]["name"], "default");
    assert!(named["warnings"].to_string().contains("used instead of 'mine'"), "{named:#}");
    // A script that sets the names of the pool gets the same pool.
    let line =
        "TDX_POOL=mine tdx-pool ensure --format name; TDX_POOL_PATH=/x tdx-pool info || echo $?";
    let run = rig.shell(line);
    assert!(run.text().starts_with("default\n"), "{run:#?}");
    assert!(run.text().ends_with("4\n"), "{run:#?}");
}

#[test]
#[ignore = "needs root"]
fn volumes_lists_backing_files_and_users_of_each_volume() {
    let rig = Rig::start();
    let base = rig.image("base.img", 1);
    rig.tool("tdx-pool", ["import", &base]).document();
    let path = |name: &str| format!("{IMAGES}/{name}");
    let source = |name: &str| format!("<source file='{IMAGES}/{name}'/>");
    rig.qcow2(&path("middle.qcow2"), Some(("base.img", "raw")));
    rig.qcow2(&path("top.qcow2"), Some((&path("middle.qcow2"), "qcow2")));
    rig.qcow2(&path("free.qcow2"), None);
    rig.qcow2(&path("snap.qcow2"), None);
    rig.define("off", &[source("top.qcow2")]);
    rig.define("on", &[source("snap.qcow2")]);
    rig.virsh(["start", "on"]);
    // Only a snapshot refers to the volume.
    rig.define("was", &[source("free.qcow2")]);
    rig.virsh(["snapshot-create-as", "was", "s"]);
    rig.define("was", &[]);
    rig.shell(&format!("mkdir {IMAGES}/folder; mkfifo {IMAGES}/fifo; ln -s no {IMAGES}/dangling"))
        .text();

    let document = rig.pool("volumes").document();
    assert_eq!(document["changed"], false);
    let item = |name: &str| named(&document, name).clone();
    assert_eq!(item("base.img")["role"], "base");
    assert_eq!(item("base.img")["users"], json!(["off"]));
    assert_eq!(item("middle.qcow2")["role"], "overlay");
    assert_eq!(item("middle.qcow2")["backing"], path("base.img"));
    let chain = json!([path("middle.qcow2"), path("base.img")]);
    assert_eq!(item("top.qcow2")["backing_chain"], chain);
    assert_eq!(item("top.qcow2")["users"], json!(["off"]));
    assert_eq!(item("snap.qcow2")["users"], json!(["on"]));
    assert_eq!(item("snap.qcow2")["role"], "other");
    assert_eq!(item("free.qcow2")["users"], json!(["was"]));
    assert_eq!(values(&document, "name").len(), 6, "{document:#}");
    let remote = rig.pool(&format!("{REMOTE} volumes")).document();
    for (ours, theirs) in
        document["items"].as_array().unwrap().iter().zip(remote["items"].as_array().unwrap())
    {
        assert_eq!(ours["users"], theirs["users"], "{ours:#}");
        assert_eq!(ours["backing_chain"], theirs["backing_chain"], "{ours:#}");
    }
    // A volume that was removed without libvirt is not listed.
    fs::remove_file(rig.path(&path("snap.qcow2"))).unwrap();
    assert_eq!(values(&rig.pool("volumes").document(), "name").len(), 5);
}

#[test]
#[ignore = "needs root"]
fn list_and_info_keep_the_contract_for_formats_pipes_and_languages() {
    let rig = Rig::start();
    rig.pool("ensure").document();
    let names = rig.pool("list --format name");
    assert_eq!((names.text(), names.stderr.as_str()), ("tdvirsh-pool\n", ""));
    let table =
        rig.shell("NO_COLOR=1 tdx-pool list --format table; tdx-pool -q info --format table");
    assert_eq!(table.text().matches("NAME          STATE   AUTOSTART").count(), 2, "{table:#?}");
    assert!(!table.stdout.contains('\x1b'), "{table:#?}");
    assert_eq!(rig.shell("TDX_FORMAT=name tdx-pool info").text(), "tdvirsh-pool\n");

    // The reader ends early, or the output cannot be written.
    for line in ["tdx-pool list | head -c 0", "tdx-pool list >&-", "tdx-pool list | true"] {
        let run = rig.shell(line);
        assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{line}: {run:#?}");
    }
    rig.shell("tdx-pool list >/dev/full").error(1);

    // Documents do not depend on the user's language.
    let japanese = "env LC_ALL=ja_JP.UTF-8 LANGUAGE=ja tdx-pool";
    assert_eq!(rig.shell(&format!("{japanese} info")).item()["name"], "tdvirsh-pool");
    let error = rig.shell(&format!("{japanese} info --pool none")).error(4);
    assert_eq!(error["message"], "pool 'none' does not exist");

    // libvirtd is stopped, or killed during a command.
    rig.libvirtd("stop");
    for verb in ["ensure", "info", "list", "volumes", "delete x --yes", "cleanup"] {
        let error = rig.pool(verb).error(6);
        assert_eq!(error["message"], "cannot connect to libvirt", "{verb}");
    }
    rig.libvirtd("start");
    rig.libvirtd("kill");
    rig.pool("info").error(6);
    rig.libvirtd("start");
    rig.pool("info").document();
    rig.pool("-c qemu+tcp://127.0.0.1:1/system info").error(6);
    rig.pool("-c nonsense://x info").error(6);
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    for line in [
        "",
        "list --no-such-flag",
        "list extra",
        "lisst",
        "info --pool",
        "import",
        "delete",
        "import a --sha256 12",
        "ensure --type logical",
        "list --format yaml",
        "delete a - --yes",
    ] {
        let run = tool("tdx-pool", line.split_whitespace());
        let error = run.error(2);
        assert_eq!(error["kind"], "usage", "{line}");
        if !line.starts_with("delete a") {
            assert!(
                error["hint"].as_str().unwrap().contains("tdx-pool --help"),
                "{line}: {run:#?}"
            );
        }
    }
    for line in ["--help", "-V", "import --help"] {
        let run = tool("tdx-pool", line.split_whitespace());
        assert!(!run.text().is_empty() && run.stderr.is_empty(), "{run:#?}");
    }
}

#[test]
fn invalid_documents_are_refused_before_the_connection() {
    let pools = r#"{"schema_version":"1.0","kind":"tdx.pool.pools","items":[{"name":"a"}]}"#;
    let newer = r#"{"schema_version":"2.0","kind":"tdx.pool.volumes","items":[]}"#;
    for input in ["", " ", "{", "[1]", "[{}]", pools, newer] {
        for verb in ["import", "delete"] {
            // No libvirt answers at this address.
            let mut command = bare_command();
            command.args([verb, "-", "--yes", "-c", "qemu+tcp://127.0.0.1:1/system"]);
            let error = Run::of(command, input.as_bytes()).error(3);
            assert_eq!(error["kind"], "invalid_input", "{verb} of {input:?}");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
fn bare_command() -> std::process::Command {
    let mut command = std::process::Command::new(bin("tdx-pool"));
    command.env_clear().stdin(Stdio::piped());
    command
}
