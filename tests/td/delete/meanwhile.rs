//! Changes while `delete` waits.

use super::*;

/// Defines a domain that needs this file.
fn define_user(rig: &Rig, name: &str, file: &str) {
    define(rig, &foreign(name, &disk(file, "vda")));
}

/// A `tdx-td` in the background, and its output.
struct Background {
    delete: Begun,
    said: BufReader<std::process::ChildStderr>,
}

impl Background {
    fn start(rig: &Rig, line: &str) -> Self {
        let mut command = rig.command(bin("tdx-td"));
        command.args(line.split(' ')).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        Self { delete: Begun::new(child), said }
    }

    /// Waits until the command prints a line with these words.
    #[track_caller]
    fn wait_until_it_says(&mut self, words: &str) {
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "it never said {words:?}");
        }
    }

    /// Waits for the end of the command. Its progress messages are not part of the run.
    fn end(mut self) -> Run {
        let output = self.delete.output();
        let mut stderr = String::new();
        self.said.read_to_string(&mut stderr).unwrap();
        let is_error = |line: &&str| line.starts_with('{');
        Run {
            line: "tdx-td".to_owned(),
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: stderr.lines().filter(is_error).collect(),
        }
    }
}

#[test]
#[ignore = "needs root"]
fn delete_keeps_a_file_that_gains_a_user_during_the_prompt() {
    let rig = rig_with_base();
    new(&rig, "--name x").item();
    rig.virsh(["destroy", "x"]);
    let own = overlay(&rig, "x");
    let asked = Terminal::ask(&rig, "tdx-td", "delete x --json");
    define_user(&rig, "user", &own);
    let item = asked.answer("y").item();
    assert_eq!((&item["action"], &item["deleted"]), (&json!("delete"), &json!([])), "{item}");
    assert_eq!(reason(&item, &own), Some("needed by domain 'user'"));
    assert!(exists(&rig, &own));
    rig.virsh(["undefine", "user"]);

    // An image that belongs to no domain also needs the file.
    new(&rig, "--name y").item();
    rig.virsh(["destroy", "y"]);
    let own = overlay(&rig, "y");
    let asked = Terminal::ask(&rig, "tdx-td", "delete y --json");
    let child = image("child.qcow2");
    rig.shell(&format!("qemu-img create -q -f qcow2 -b {own} -F qcow2 {child}")).text();
    let item = asked.answer("y").item();
    assert_eq!(item["deleted"], json!([]), "{item}");
    let wanted = "needed by volume 'child.qcow2' of pool 'tdvirsh-pool'";
    assert_eq!(reason(&item, &own), Some(wanted));
    // cleanup deletes the kept file when nothing needs it any more.
    std::fs::remove_file(rig.path(&child)).unwrap();
    rig.tool("tdx-pool", ["cleanup", "--yes"]).document();
    assert_eq!(volumes(&rig), ["guest.qcow2"]);
}

#[test]
#[ignore = "needs root"]
fn delete_keeps_a_file_that_gains_a_user_while_the_guest_shuts_down() {
    let rig = rig_with_base();
    new(&rig, "--name deaf").item();
    let own = overlay(&rig, "deaf");
    let mut run = Background::start(&rig, "delete deaf --yes --timeout 4 -v");
    run.wait_until_it_says("shut down domain 'deaf'");
    define_user(&rig, "user", &own);
    let item = run.end().item();
    assert_eq!((&item["forced"], &item["deleted"]), (&json!(true), &json!([])), "{item}");
    assert_eq!(reason(&item, &own), Some("needed by domain 'user'"));
    assert!(exists(&rig, &own));
}

#[test]
#[ignore = "needs root"]
fn delete_keeps_a_domain_that_is_started_while_it_waits_for_another() {
    let rig = rig_with_base();
    new(&rig, "--name off").item();
    rig.virsh(["destroy", "off"]);
    new(&rig, "--name deaf").item();
    let mut run = Background::start(&rig, "delete off deaf --yes --timeout 4 -v");
    run.wait_until_it_says("shut down domain 'deaf'");
    rig.virsh(["start", "off"]);
    let error = run.end().error(5);
    assert_eq!(error["message"], "another command started domain 'off' while it was deleted");
    assert_eq!(error["applied"], json!(["deleted domain 'deaf'"]), "{error}");
    let there = listed(&rig, "off");
    assert_eq!(there["state"], "running");
    assert!(exists(&rig, there["overlay"].as_str().unwrap()));
}

#[test]
#[ignore = "needs root"]
fn delete_keeps_a_domain_that_is_defined_again_while_it_waits() {
    let rig = rig_with_base();
    let anew = |line: &str| {
        td(&rig, "delete x --yes --timeout 0").item();
        new(&rig, line).item()["uuid"].as_str().unwrap().to_owned()
    };
    new(&rig, "--name x").item();
    let asked = Terminal::ask(&rig, "tdx-td", "delete x --json");
    let uuid = anew("--name x");
    let error = asked.answer("y").error(5);
    assert_eq!(error["code"], "IDENTITY_CHANGED", "{error}");
    assert_eq!(error["applied"], json!([]), "{error}");
    let there = listed(&rig, "x");
    assert_eq!((&there["uuid"], &there["state"]), (&json!(uuid), &json!("running")));

    // The domain is defined again while delete waits for the guest to shut down.
    anew("--name x");
    let mut run = Background::start(&rig, "delete x --yes --timeout 30 -v");
    run.wait_until_it_says("shut down domain 'x'");
    signal(&run.delete, "STOP");
    let uuid = anew("--name x");
    let error = run.end().error(5);
    assert_eq!(error["code"], "IDENTITY_CHANGED", "{error}");
    assert_eq!(listed(&rig, "x")["uuid"], uuid.as_str());
    assert!(exists(&rig, &overlay(&rig, "x")));

    // The domain is defined again while new --overwrite asks.
    let more = "--security none --memory 260M --vcpus 1 --overwrite --json";
    let asked = Terminal::ask(&rig, "tdx-td", &format!("new -i guest.qcow2 --name x {more}"));
    let uuid = anew("--name x");
    let before = volumes(&rig);
    let error = asked.answer("y").error(5);
    assert_eq!(error["code"], "IDENTITY_CHANGED", "{error}");
    assert_eq!(listed(&rig, "x")["uuid"], uuid.as_str());
    assert_eq!(volumes(&rig), before);

    // The domain is defined again while new waits for the guest.
    td(&rig, "delete x --yes --timeout 0").item();
    let more = "--security none --memory 256M --vcpus 1 --wait ssh --timeout 8 --on-timeout delete";
    let run = Background::start(&rig, &format!("new -i guest.qcow2 --name x {more}"));
    wait::wait_for("the guest", || {
        rig.shell("virsh domstate x").stdout.contains("running").then_some(())
    });
    let uuid = anew("--name x");
    assert_ne!(run.end().status, Some(0));
    assert_eq!(listed(&rig, "x")["uuid"], uuid.as_str());
}
