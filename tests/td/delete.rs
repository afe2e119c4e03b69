//! `tdx-td delete`: which files go with a domain, which stay, and that both are decided when they are deleted.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::pool::{go_on, signal};
use crate::support::rig::Rig;
use crate::support::td::{IMAGES, define, foreign, listed, new, rig_with_base, td, volumes};
use crate::support::terminal::Terminal;
use crate::support::tools::{Run, bin};
use crate::support::wait;

/// A path in the pool.
fn image(name: &str) -> String {
    format!("{IMAGES}/{name}")
}

/// The file of a domain's own disk.
fn overlay(rig: &Rig, name: &str) -> String {
    listed(rig, name)["overlay"].as_str().unwrap().to_owned()
}

/// Why a file was kept; none when the item does not list it.
fn reason<'a>(item: &'a Value, path: &str) -> Option<&'a str> {
    let kept = item["kept"].as_array().unwrap();
    kept.iter().find(|file| file["path"] == path)?["reason"].as_str()
}

/// The definition of a domain under another name, with what must not be there twice left out.
fn copy(rig: &Rig, name: &str, of: &str) -> String {
    let xml = rig.virsh(["dumpxml", of, "--inactive"]);
    let unique = |line: &&str| {
        !line.contains("<uuid>") && !line.contains("<mac ") && !line.contains("<nvram")
    };
    let xml: Vec<&str> = xml.lines().filter(unique).collect();
    xml.join("\n").replace(&format!("<name>{of}<"), &format!("<name>{name}<"))
}

/// A disk element over a file.
fn disk(file: &str, target: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{file}'/>\
         <target dev='{target}' bus='virtio'/></disk>"
    )
}

/// A domain that needs this file.
fn define_user(rig: &Rig, name: &str, file: &str) {
    define(rig, &foreign(name, &disk(file, "vda")));
}

fn exists(rig: &Rig, path: &str) -> bool {
    rig.path(path).symlink_metadata().is_ok()
}

#[test]
#[ignore = "needs root"]
fn delete_spares_the_files_that_the_header_of_a_raw_disk_names() {
    let rig = rig_with_base(false);
    let scratch = rig.scratch().display().to_string();
    for (name, is_off) in [("off", true), ("running", false)] {
        new(&rig, &format!("--name {name}")).item();
        let own = overlay(&rig, name);
        let below = image("disk.abcDEF012345678.qcow2");
        let backup = format!("{scratch}/monday.qcow2");
        let data = image("data.raw");
        rig.shell(&format!(
            "qemu-img create -q -f qcow2 {below} 1M && \
             qemu-img create -q -f qcow2 -b {below} -F qcow2 {backup} && \
             qemu-img create -q -f qcow2 -b {backup} -F qcow2 header && \
             truncate -s 1M {data} && \
             virsh attach-disk {name} {data} vdc --subdriver raw --persistent && \
             dd if=header of={data} conv=notrunc status=none"
        ))
        .text();
        if is_off {
            rig.virsh(["destroy", name]);
        }
        let plan = td(&rig, &format!("delete {name} --dry-run")).item();
        let item = td(&rig, &format!("delete {name} --yes --timeout 0")).item();
        assert_eq!(item["deleted"], json!([own]), "{name}: {item}");
        assert_eq!((&plan["deleted"], &plan["kept"]), (&item["deleted"], &item["kept"]));
        assert_eq!(item["kept"], json!([{"path": data, "reason": "not made by these tools"}]));
        for file in [&below, &backup, &data] {
            assert!(exists(&rig, file), "{name}: {file} is gone");
            std::fs::remove_file(rig.path(file)).unwrap();
        }
    }
}

#[test]
#[ignore = "needs root"]
fn delete_keeps_an_iso_that_an_administrator_named_like_a_seed() {
    let rig = rig_with_base(false);
    std::fs::write(rig.scratch().join("key.pub"), "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA me\n")
        .unwrap();
    new(&rig, "--name x --user me --ssh-key key.pub").item();
    rig.virsh(["destroy", "x"]);
    let common = image("cidata.common.iso");
    rig.shell(&format!("truncate -s 1M {common}")).text();
    rig.virsh(["attach-disk", "x", &common, "sda", "--type", "cdrom", "--config"]);
    let item = td(&rig, "delete x --yes").item();
    assert_eq!(item["deleted"].as_array().unwrap().len(), 2, "{item}");
    assert_eq!(reason(&item, &common), Some("not made by these tools"), "{item}");
    let left = rig.tool("tdx-pool", ["cleanup", "--yes"]).document();
    assert_eq!(left["changed"], false, "{left}");
    assert_eq!(volumes(&rig), ["cidata.common.iso", "guest.qcow2"]);
}

#[test]
#[ignore = "needs root"]
fn delete_of_a_copied_definition_deletes_no_file_of_the_original() {
    let rig = rig_with_base(false);
    new(&rig, "--name one").item();
    rig.virsh(["destroy", "one"]);
    let own = overlay(&rig, "one");
    let uuid = listed(&rig, "one")["uuid"].as_str().unwrap().to_owned();
    let original = rig.virsh(["dumpxml", "one", "--inactive"]);

    define(&rig, &copy(&rig, "copy", "one"));
    let item = td(&rig, "delete one --yes").document();
    assert_eq!(item["items"][0]["deleted"], json!([]), "{item}");
    assert_eq!(reason(&item["items"][0], &own), Some("needed by domain 'copy'"), "{item}");
    assert_eq!(item["warnings"], json!([format!("{own} is kept: needed by domain 'copy'")]));

    // Nor when the original is defined on another host, or will be defined again.
    let item = td(&rig, "delete copy --yes").item();
    assert_eq!(item["deleted"], json!([]), "{item}");
    let recorded = format!("recorded for the domain with UUID {uuid}");
    assert_eq!(reason(&item, &own), Some(recorded.as_str()), "{item}");
    define(&rig, &original);
    assert_eq!(td(&rig, "delete one --yes").item()["deleted"], json!([own]));
    assert_eq!(volumes(&rig), ["guest.qcow2"]);
}

#[test]
#[ignore = "needs root"]
fn delete_keeps_firmware_variables_that_another_domain_names() {
    let rig = rig_with_base(false);
    new(&rig, "--name a").item();
    let running = rig.virsh(["dumpxml", "a"]);
    let nvram = "/var/lib/libvirt/qemu/nvram/a_VARS.fd";
    assert!(running.contains(nvram), "{running}");
    rig.virsh(["destroy", "a"]);
    // libvirt 9 does not name the variables of a domain that is off.
    let loader = "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>";
    let firmware = format!("</type>{loader}<nvram>{nvram}</nvram>");
    let other = foreign("b", "").replace("</type>", &firmware);
    define(&rig, &other.replace("</os>", "</os><features><acpi/></features>"));
    let plan = td(&rig, "delete a --dry-run").item();
    let item = td(&rig, "delete a --yes").item();
    assert_eq!(item["kept"], json!([{"path": nvram, "reason": "needed by domain 'b'"}]));
    assert_eq!(plan["kept"], item["kept"]);
    assert!(exists(&rig, nvram));
}

/// What version 0.1.0 wrote, word for word but for the names of the files.
const RECORD: &str = r#"<metadata>
    <tdx:domain xmlns:tdx="urn:tdx-tools:domain:1" version="0.1.0">
      <tdx:pool>tdvirsh-pool</tdx:pool>
      <tdx:base>/var/lib/libvirt/images/guest.qcow2</tdx:base>
      <tdx:overlay>/var/lib/libvirt/images/overlay.QPis7Jl9jo0Chjz.qcow2</tdx:overlay>
      <tdx:request template="none" security="none" virt_type="qemu" memory_bytes="268435456" vcpus="1" network="default" hotplug_ports="8" ssh_port="none" devices="none" cc="leave" disk_size_bytes="image" user="u" hostname=""/>
    </tdx:domain>
  </metadata><memory"#;

#[test]
#[ignore = "needs root"]
fn delete_of_a_domain_of_version_0_1_0_deletes_what_its_definition_names_in_a_pool() {
    let rig = rig_with_base(false);
    let scratch = rig.scratch().display().to_string();
    let own = image("overlay.QPis7Jl9jo0Chjz.qcow2");
    let seed = image("cidata.fEdj3kpXLY0MSbh.img");
    let elsewhere = format!("{scratch}/disk.abcDEF012345678.qcow2");
    let base = image("guest.qcow2");
    rig.shell(&format!(
        "qemu-img create -q -f qcow2 -b {base} -F qcow2 {own} && truncate -s 1M {seed} && \
         qemu-img create -q -f qcow2 {elsewhere} 1M"
    ))
    .text();
    let disks = [disk(&own, "vda"), disk(&seed, "vdb"), disk(&elsewhere, "vdc")].concat();
    define(&rig, &foreign("old", &disks).replacen("<memory", RECORD, 1));
    assert_eq!(listed(&rig, "old")["overlay"], own.as_str());
    let item = td(&rig, "delete old --yes").item();
    assert_eq!(item["deleted"], json!([own, seed]), "{item}");
    assert_eq!(
        item["kept"],
        json!([{"path": elsewhere, "reason": "in no directory of these tools"}])
    );
    assert!(exists(&rig, &elsewhere));

    // The user's own disk stays, whatever its name; the record alone leads to the overlay.
    let given = image("disk.QPis7Jl9jo0Chjz.qcow2");
    rig.shell(&format!(
        "qemu-img create -q -f qcow2 {given} 1M && \
         qemu-img create -q -f qcow2 -b {base} -F qcow2 {own}"
    ))
    .text();
    let record = RECORD.replace("user=\"u\"", &format!("disk=\"{given}\" user=\"u\""));
    define(&rig, &foreign("old", &disk(&given, "vda")).replacen("<memory", &record, 1));
    let item = td(&rig, "delete old --yes").item();
    assert_eq!(item["deleted"], json!([own]), "{item}");
    assert_eq!(item["kept"], json!([{"path": given, "reason": "given by the user"}]));
    assert!(exists(&rig, &given) && exists(&rig, &base));
}

#[test]
#[ignore = "needs root"]
fn delete_of_a_domain_of_the_original_deletes_its_overlay_in_var_tmp() {
    let rig = rig_with_base(false);
    rig.shell("mount -t tmpfs -o mode=1777 tmpfs /var/tmp && mkdir /var/tmp/tdvirsh").text();
    let base = image("guest.qcow2");
    let own = "/var/tmp/tdvirsh//overlay.abcDEF012345678.qcow2";
    let below = "/var/tmp/tdvirsh/overlay.000000000000001.qcow2";
    rig.shell(&format!(
        "qemu-img create -q -f qcow2 -b {base} -F qcow2 {below} && \
         qemu-img create -q -f qcow2 -b {below} -F qcow2 {own}"
    ))
    .text();
    let disk = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{own}'/>\
         <backingStore type='file'><format type='qcow2'/><source file='{below}'/><backingStore/>\
         </backingStore><target dev='vda' bus='virtio'/></disk>"
    );
    let name = "tdvirsh-trust_domain-2b3c0e0e-0b9b-4c58-9b32-6f0d5d3c1a11";
    define(&rig, &foreign(name, &disk));
    let item = td(&rig, &format!("delete {name} --yes")).item();
    let own = own.replace("//", "/");
    assert_eq!((&item["deleted"], &item["kept"]), (&json!([own]), &json!([])));
    // What it was backed by is its base image, whatever that is called.
    assert!(!exists(&rig, &own) && exists(&rig, below) && exists(&rig, &base));

    // The directory may not lead elsewhere: everybody can write in /var/tmp.
    rig.shell(&format!(
        "mv /var/tmp/tdvirsh elsewhere && ln -s $PWD/elsewhere /var/tmp/tdvirsh && \
         qemu-img create -q -f qcow2 {own} 1M"
    ))
    .text();
    define(&rig, &foreign(name, &disk));
    let item = td(&rig, &format!("delete {name} --yes")).item();
    assert_eq!(item["deleted"], json!([]), "{item}");
    assert_eq!(reason(&item, &own), Some("in no directory of these tools"), "{item}");
    assert!(exists(&rig, &own));
}

#[test]
#[ignore = "needs root"]
fn delete_leaves_a_link_and_what_it_leads_to() {
    let rig = rig_with_base(false);
    for link in ["symbolic", "none"] {
        new(&rig, "--name x").item();
        rig.virsh(["destroy", "x"]);
        let own = overlay(&rig, "x");
        match link {
            "symbolic" => rig.shell(&format!("mv {own} aside && ln -s $PWD/aside {own}")),
            _ => rig.shell(&format!("rm {own} && mkdir {own}")),
        }
        .text();
        let item = td(&rig, "delete x --yes").item();
        assert_eq!(item["deleted"], json!([]), "{item}");
        let why = if link == "symbolic" { "a symbolic link" } else { "not a regular file" };
        assert_eq!(item["kept"], json!([{"path": own, "reason": why}]));
        assert!(exists(&rig, &own));
        assert!(rig.scratch().join("aside").exists());
        rig.shell(&format!("rm -d {own}")).text();
    }
}

/// `tdx-td` in the background, with what it says.
struct Background {
    child: std::process::Child,
    said: BufReader<std::process::ChildStderr>,
}

impl Background {
    fn start(rig: &Rig, line: &str) -> Self {
        let mut command = rig.command(bin("tdx-td"));
        command.args(line.split(' ')).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        Self { child, said }
    }

    /// Waits until it says a line with these words.
    #[track_caller]
    fn wait_until_it_says(&mut self, words: &str) {
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "it never said {words:?}");
        }
    }

    /// Waits for its end. What it says by the way is no part of the run.
    fn end(mut self) -> Run {
        while self.child.try_wait().unwrap().is_none() {
            go_on(&self.child);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let mut stderr = String::new();
        self.said.read_to_string(&mut stderr).unwrap();
        let output = self.child.wait_with_output().unwrap();
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
fn delete_keeps_a_file_that_gains_a_user_while_the_question_waits() {
    let rig = rig_with_base(false);
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

    // An image that no domain has is a user as well.
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
    // What is left is found once nothing needs it.
    std::fs::remove_file(rig.path(&child)).unwrap();
    rig.tool("tdx-pool", ["cleanup", "--yes"]).document();
    assert_eq!(volumes(&rig), ["guest.qcow2"]);
}

#[test]
#[ignore = "needs root"]
fn delete_keeps_a_file_that_gains_a_user_while_the_guest_shuts_down() {
    let rig = rig_with_base(true);
    new(&rig, "-i deaf.qcow2 --name deaf").item();
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
fn delete_leaves_a_domain_that_is_started_while_it_waits_for_another() {
    let rig = rig_with_base(true);
    new(&rig, "--name off").item();
    rig.virsh(["destroy", "off"]);
    new(&rig, "-i deaf.qcow2 --name deaf").item();
    let mut run = Background::start(&rig, "delete off deaf --yes --timeout 4 -v");
    run.wait_until_it_says("shut down domain 'deaf'");
    rig.virsh(["start", "off"]);
    let error = run.end().error(5);
    assert_eq!(error["message"], "domain 'off' was started by another command meanwhile");
    assert_eq!(error["applied"], json!(["deleted domain 'deaf'"]), "{error}");
    let there = listed(&rig, "off");
    assert_eq!(there["state"], "running");
    assert!(exists(&rig, there["overlay"].as_str().unwrap()));
}

#[test]
#[ignore = "needs root"]
fn delete_leaves_a_domain_that_was_made_anew_while_it_waited() {
    let rig = rig_with_base(true);
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

    // The same while it waits for the guest.
    anew("-i deaf.qcow2 --name x");
    let mut run = Background::start(&rig, "delete x --yes --timeout 30 -v");
    run.wait_until_it_says("shut down domain 'x'");
    signal(&run.child, "STOP");
    let uuid = anew("--name x");
    let error = run.end().error(5);
    assert_eq!(error["code"], "IDENTITY_CHANGED", "{error}");
    assert_eq!(listed(&rig, "x")["uuid"], uuid.as_str());
    assert!(exists(&rig, &overlay(&rig, "x")));

    // And of what new was asked to put in its place.
    let more = "--security none --memory 260M --vcpus 1 --overwrite --json";
    let asked = Terminal::ask(&rig, "tdx-td", &format!("new -i guest.qcow2 --name x {more}"));
    let uuid = anew("--name x");
    let before = volumes(&rig);
    let error = asked.answer("y").error(5);
    assert_eq!(error["code"], "IDENTITY_CHANGED", "{error}");
    assert_eq!(listed(&rig, "x")["uuid"], uuid.as_str());
    assert_eq!(volumes(&rig), before);

    // And of a guest that new gives up waiting for.
    td(&rig, "delete x --yes --timeout 0").item();
    let more = "--security none --memory 256M --vcpus 1 --wait ssh --timeout 8 --on-timeout delete";
    let run = Background::start(&rig, &format!("new -i deaf.qcow2 --name x {more}"));
    wait::wait_for("the guest", std::time::Duration::from_secs(30), || {
        rig.shell("virsh domstate x").stdout.contains("running").then_some(())
    });
    let uuid = anew("--name x");
    assert_ne!(run.end().status, Some(0));
    assert_eq!(listed(&rig, "x")["uuid"], uuid.as_str());
}

#[test]
#[ignore = "needs root"]
fn delete_of_a_domain_with_snapshots_keeps_layers_and_what_they_need() {
    let rig = rig_with_base(false);
    let outside = rig.scratch().join("layers");
    std::fs::create_dir(&outside).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&outside, mode).unwrap();
    let layer: PathBuf = outside.join("one.qcow2");
    new(&rig, "--name s").item();
    let own = overlay(&rig, "s");
    let place = format!("vda,file={}", layer.display());
    rig.virsh(["snapshot-create-as", "s", "one", "--disk-only", "--diskspec", &place]);
    let item = td(&rig, "delete s --yes --timeout 0").item();
    let shown = layer.display().to_string();
    assert_eq!(item["deleted"], json!([]), "{item}");
    assert_eq!(reason(&item, &shown), Some("a snapshot layer made by libvirt"), "{item}");
    let needed = format!("needed by '{shown}', which is kept");
    assert_eq!(reason(&item, &own), Some(needed.as_str()), "{item}");
    assert!(layer.exists() && exists(&rig, &own));
}

#[test]
#[ignore = "needs root"]
fn delete_keeps_files_beside_an_image_whose_data_file_is_not_named() {
    let rig = rig_with_base(false);
    new(&rig, "--name web").item();
    let own = overlay(&rig, "web");
    rig.qcow2(&image("broken"), None);
    // The incompatible feature bit for an external data file, without the header extension that names it.
    let bit = "printf '\\004' | dd of=broken bs=1 seek=79 conv=notrunc status=none";
    rig.shell(&format!("cd {IMAGES} && {bit}")).text();
    let planned = td(&rig, "delete web --dry-run").item();
    let item = td(&rig, "delete web --yes --timeout 0").item();
    for item in [planned, item] {
        let why = reason(&item, &own).unwrap_or_else(|| panic!("{item:#}"));
        assert!(why.contains(&image("broken")), "{why}");
    }
    assert!(exists(&rig, &own));
    rig.shell(&format!("rm {}", image("broken"))).text();
    rig.tool("tdx-pool", ["cleanup", "--yes"]).document();
    assert!(!exists(&rig, &own));
}
