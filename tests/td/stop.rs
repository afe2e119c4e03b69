//! `tdx-td stop`, `start` and `delete`: guests that react to the power button and guests that do not, and
//! everything that a domain can leave behind.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::rig::Rig;
use crate::support::td::{
    define, foreign, listed, new, rig_for_booted_guests, rig_with_base, td, volumes, wait_until_up,
};
use crate::support::tools::Run;

/// The result of a run for each domain: name, action, forced.
fn actions(run: &Run) -> Vec<(String, String, bool)> {
    let items = run.document()["items"].as_array().unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let action =
        |item: &Value| (text(&item["name"]), text(&item["action"]), item["forced"] == true);
    items.iter().map(action).collect()
}

fn did(name: &str, action: &str, forced: bool) -> (String, String, bool) {
    (name.to_owned(), action.to_owned(), forced)
}

#[test]
#[ignore = "needs root"]
fn stop_waits_only_until_each_guest_is_shut_off_or_the_time_is_over() {
    let rig = rig_for_booted_guests();
    let before = rig.state();
    new(&rig, "--name a").item();
    new(&rig, "--name b").item();
    new(&rig, "-i deaf.qcow2 --name deaf").item();
    for name in ["a", "b", "deaf"] {
        wait_until_up(&rig, name);
    }
    // libvirt boots a guest again whose action at power-off is a restart.
    rig.virsh(["set-lifecycle-action", "b", "poweroff", "restart", "--live"]);
    assert_eq!(
        actions(&td(&rig, "stop a b deaf --dry-run")),
        [did("a", "stop", false), did("b", "stop", false), did("deaf", "stop", false)]
    );
    assert_eq!(listed(&rig, "a")["state"], "running");

    let error = td(&rig, "stop deaf a b absent --timeout 8").error(5);
    assert_eq!(error["message"], "domain 'deaf' is still running after 8 s");
    assert_eq!(error["applied"], json!(["stop domain 'a'", "stop domain 'b'"]));
    for (name, state) in [("a", "shut off"), ("b", "shut off"), ("deaf", "running")] {
        assert_eq!(listed(&rig, name)["state"], state, "{name}");
    }
    let again = td(&rig, "stop a b --timeout 1000000");
    assert_eq!(again.document()["changed"], false);
    assert_eq!(actions(&again), [did("a", "none", false), did("b", "none", false)]);

    // A paused guest cannot react, so stop does not wait for it. delete waits for the guest that may still
    // react.
    td(&rig, "start a").item();
    rig.virsh(["suspend", "a"]);
    let error = td(&rig, "stop a --timeout 1000000").error(5);
    assert_eq!(error["message"], "domain 'a' is paused and cannot react to a shutdown request");
    assert_eq!(
        actions(&td(&rig, "start a b")),
        [did("a", "resume", false), did("b", "start", false)]
    );
    assert_eq!(td(&rig, "start a b").document()["changed"], false);
    assert_eq!(actions(&td(&rig, "stop b --force")), [did("b", "stop", true)]);
    let start = Instant::now();
    let gone = actions(&td(&rig, "delete deaf b --yes --timeout 2"));
    assert_eq!(gone, [did("b", "delete", false), did("deaf", "delete", true)]);
    assert!(start.elapsed() > Duration::from_secs(2), "{:?}", start.elapsed());
    let document = td(&rig, "list").stdout;
    let stopped = rig.pipe("tdx-td", ["stop", "-", "--force"], &document);
    assert_eq!(actions(&stopped), [did("a", "stop", true)]);
    td(&rig, "delete a --yes").item();
    assert_eq!(rig.state(), before);
}

/// All files and objects that libvirt and QEMU can keep for a domain.
#[test]
#[ignore = "needs root"]
fn delete_removes_everything_that_libvirt_keeps_of_a_domain() {
    let rig = rig_with_base();
    let base = rig.path("/var/lib/libvirt/images/guest.qcow2");
    let bytes = std::fs::read(&base).unwrap();
    let before = rig.state();

    // External snapshots on top of each other, one of them with memory; a checkpoint.
    new(&rig, "--name s").item();
    let snapshot = |line: &str| {
        rig.virsh(["snapshot-create-as", "s"].into_iter().chain(line.split(' ')));
    };
    snapshot("one --disk-only");
    snapshot("two --disk-only");
    let memory = rig.path("/var/lib/libvirt/images/memory.save");
    snapshot(
        "three --memspec /var/lib/libvirt/images/memory.save,snapshot=external --diskspec vda",
    );
    rig.virsh(["checkpoint-create-as", "s", "point"]);
    assert_eq!((volumes(&rig).len(), memory.exists()), (6, true));
    let overlay = listed(&rig, "s")["overlay"].as_str().unwrap().to_owned();
    let planned = td(&rig, "delete s --dry-run").item();
    let gone = td(&rig, "delete s --yes --timeout 0").item();
    assert_eq!((&gone["deleted"], &gone["kept"]), (&planned["deleted"], &planned["kept"]));
    // Layers that libvirt named are kept, and so is the overlay that backs them.
    let kept = gone["kept"].as_array().unwrap();
    let is_kept = |path: &str| kept.iter().any(|file| file["path"] == path);
    assert_eq!((&gone["deleted"], kept.len()), (&json!([]), 5), "{gone}");
    assert!(is_kept(&overlay) && is_kept("/var/lib/libvirt/images/memory.save"), "{gone}");
    for file in kept.iter().filter(|file| file["path"] != overlay.as_str()) {
        std::fs::remove_file(rig.path(file["path"].as_str().unwrap())).unwrap();
    }
    rig.tool("tdx-pool", ["cleanup", "--yes"]).document();
    assert_eq!(rig.state(), before);

    // Saved memory and autostart; and a running guest whose definition was removed.
    new(&rig, "--name saved").item();
    rig.virsh(["autostart", "saved"]);
    rig.virsh(["managedsave", "saved"]);
    assert_eq!(listed(&rig, "saved")["state"], "shut off");
    new(&rig, "--name passing").item();
    rig.virsh(["undefine", "passing", "--keep-nvram"]);
    assert_eq!(listed(&rig, "passing")["managed"], true);
    td(&rig, "delete saved passing --yes --timeout 0").document();
    assert_eq!(rig.state(), before);

    // Absent domains and an empty list are no errors.
    assert_eq!(td(&rig, "delete absent other").document()["changed"], false);
    assert_eq!(rig.pipe("tdx-td", ["delete", "-"], "[]").document()["items"], json!([]));
    assert_eq!(td(&rig, "delete --all").document()["items"], json!([]));
    assert_eq!(std::fs::read(&base).unwrap(), bytes);
}

#[test]
#[ignore = "needs root"]
fn delete_keeps_a_disk_that_another_domain_needs() {
    let rig = rig_with_base();
    let before = rig.state();
    let twin = |of: &str, name: &str| {
        new(&rig, &format!("--name {of}")).item();
        rig.virsh(["destroy", of]);
        let xml = rig.virsh(["dumpxml", of, "--inactive"]);
        let kept = |line: &&str| {
            !line.contains("<uuid>") && !line.contains("<mac ") && !line.contains("<nvram")
        };
        let xml: Vec<&str> = xml.lines().filter(kept).collect();
        define(&rig, &xml.join("\n").replace(&format!("<name>{of}<"), &format!("<name>{name}<")));
    };
    twin("one", "two");
    let kept = td(&rig, "delete one --yes").document();
    assert_eq!(kept["items"][0]["deleted"], json!([]));
    let warning = kept["warnings"][0].as_str().unwrap();
    assert!(warning.ends_with("is kept: needed by domain 'two'"), "{kept}");
    assert_eq!(volumes(&rig).len(), 2);
    // The record of the second domain is a copy of the first domain's record.
    let gone = td(&rig, "delete two --yes").document();
    assert_eq!((&gone["warnings"], &gone["items"][0]["deleted"]), (&json!([]), &json!([])));
    rig.tool("tdx-pool", ["cleanup", "--yes"]).document();
    assert_eq!(volumes(&rig).len(), 1);

    // Both domains are deleted in one command.
    twin("one", "two");
    let plan = td(&rig, "delete one two -n").document();
    let gone = td(&rig, "delete one two --yes").document();
    assert_eq!(gone["items"], plan["items"]);
    assert_eq!((&gone["warnings"], volumes(&rig).len()), (&json!([]), 1));

    // A copied record does not claim a file of somebody else.
    let stranger = "/var/lib/libvirt/images/stranger.qcow2";
    rig.shell(&format!("cp /var/lib/libvirt/images/guest.qcow2 {stranger}")).text();
    let record = format!(
        "<metadata><tdx:domain xmlns:tdx='urn:tdx-tools:domain:1'><tdx:pool>p</tdx:pool>\
         <tdx:base>/b</tdx:base><tdx:overlay>{stranger}</tdx:overlay></tdx:domain></metadata><memory"
    );
    define(&rig, &foreign("copied", "").replacen("<memory", &record, 1));
    assert_eq!(listed(&rig, "copied")["managed"], true);
    assert_eq!(td(&rig, "delete copied --yes").item()["deleted"], json!([]));
    std::fs::remove_file(rig.path(stranger)).unwrap();

    // The refusal of one domain does not stop the deletion of the other.
    define(&rig, &foreign("theirs", ""));
    new(&rig, "--name ours").item();
    let error = td(&rig, "delete theirs ours --yes --timeout 0").error(5);
    assert_eq!(error["applied"], json!(["deleted domain 'ours'"]));
    assert_eq!(td(&rig, "delete theirs --foreign --yes").item()["action"], "delete");
    rig.virsh(["pool-refresh", "tdvirsh-pool"]);
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn simultaneous_delete_commands_of_the_same_domains_succeed() {
    let rig: Rig = rig_with_base();
    let before = rig.state();
    for name in ["a", "b", "c"] {
        new(&rig, &format!("--name {name}")).item();
    }
    let line = "for i in 1 2 3; do tdx-td delete a b c --yes --timeout 0 >/dev/null & pids=\"$pids $!\"; done; \
        for pid in $pids; do wait $pid || exit; done";
    let run = rig.shell(line);
    assert_eq!((run.text(), run.stderr.as_str()), ("", ""));
    assert_eq!(rig.state(), before);
}
