//! The files that an image consists of: `tdx-pool` protects every file that QEMU opens with it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use serde_json::json;

use crate::support::pool::{self, IMAGES, named, overlay, values};
use crate::support::rig::Rig;
use crate::support::terminal::Terminal;
use crate::support::tools::bin;
use crate::support::wait::wait_for;

fn path(name: &str) -> String {
    format!("{IMAGES}/{name}")
}

fn source(name: &str) -> String {
    format!("<source file='{IMAGES}/{name}'/>")
}

/// A rig with a pool.
fn rig() -> Rig {
    let rig = Rig::start();
    rig.pool("ensure").document();
    rig
}

/// Creates a qcow2 image whose data is in another file.
#[track_caller]
fn with_data_file(rig: &Rig, name: &str, data: &str) {
    let options = format!("data_file={data},data_file_raw=on");
    rig.shell(&format!("qemu-img create -q -f qcow2 -o {options} {} 16M", path(name))).text();
}

/// Expects that `volumes` and `delete` find that a domain needs a volume.
#[track_caller]
fn is_needed(rig: &Rig, volume: &str, domain: &str) {
    let volumes = rig.pool("volumes").document();
    assert_eq!(named(&volumes, volume)["users"], json!([domain]), "{volume}");
    let error = rig.pool(&format!("delete {volume} --yes")).error(5);
    let message = format!("volume '{volume}' is needed by domain '{domain}'");
    assert!(error["message"].as_str().unwrap().starts_with(&message), "{error}");
    assert!(rig.names().contains(&volume.to_owned()));
}

#[test]
#[ignore = "needs root"]
fn delete_refuses_the_data_file_of_a_domains_image_running_or_shut_off() {
    let rig = rig();
    with_data_file(&rig, "run.qcow2", &path("run.data"));
    rig.define("dom", &[source("run.qcow2")]);
    is_needed(&rig, "run.data", "dom");
    rig.shell(&format!("chmod 666 {}", path("run.data"))).text();
    rig.virsh(["start", "dom"]);
    is_needed(&rig, "run.data", "dom");
    rig.virsh(["destroy", "dom"]);
    // The image still needs its data file after the domain is undefined.
    rig.virsh(["undefine", "dom"]);
    let error = rig.pool("delete run.data --yes").error(5);
    assert_eq!(error["message"], "volume 'run.data' is needed by volume 'run.qcow2'");
    rig.image("new.img", 1);
    let error = rig.pool("import new.img --name run.data --replace --yes").error(5);
    assert!(
        error["message"].as_str().unwrap().ends_with("needed by volume 'run.qcow2'"),
        "{error}"
    );
    let deleted = rig.pool("delete run.data run.qcow2 --yes").document();
    assert_eq!(values(&deleted, "action"), ["delete", "delete"]);
}

#[test]
#[ignore = "needs root"]
fn delete_refuses_the_files_of_a_base_that_backs_an_overlay() {
    let rig = rig();
    with_data_file(&rig, "base", &path("base.data"));
    rig.qcow2(&path("middle"), Some(("base", "qcow2")));
    rig.qcow2(&path(&overlay(1)), Some((&path("middle"), "qcow2")));
    rig.define("dom", &[source(&overlay(1))]);
    is_needed(&rig, "base.data", "dom");
    let volumes = rig.pool("volumes").document();
    let chain = json!([path("middle"), path("base")]);
    assert_eq!(named(&volumes, &overlay(1))["backing_chain"], chain);
    assert_eq!(named(&volumes, "base")["role"], "base");
    // The domain also needs the files through a snapshot, whose images no definition names.
    rig.virsh(["snapshot-create-as", "dom", "one", "--disk-only", "--no-metadata"]);
    is_needed(&rig, "base.data", "dom");
}

#[test]
#[ignore = "needs root"]
fn delete_refuses_the_extents_of_a_vmdk() {
    let rig = rig();
    let options = "subformat=twoGbMaxExtentFlat";
    rig.shell(&format!("qemu-img create -q -f vmdk -o {options} {} 16M", path("disk.vmdk"))).text();
    let disk = format!(
        "<disk type='file'><driver name='qemu' type='vmdk'/>{}<target dev='vda'/></disk>",
        source("disk.vmdk")
    );
    rig.define_xml("dom", &disk, "");
    is_needed(&rig, "disk-f001.vmdk", "dom");
    rig.shell(&format!("chmod 666 {}", path("disk-f001.vmdk"))).text();
    rig.virsh(["start", "dom"]);
    is_needed(&rig, "disk-f001.vmdk", "dom");
}

#[test]
#[ignore = "needs root"]
fn delete_refuses_the_files_of_json_names() {
    let rig = rig();
    for name in ["plain.raw", "one.raw", "two.raw", "in xml, twice.raw"] {
        rig.shell(&format!("truncate -s 1M '{}'", path(name))).text();
    }
    let json = |name: &str| {
        let file = path(name);
        format!(r#"{{"driver":"raw","file":{{"driver":"file","filename":"{file}"}}}}"#)
    };
    rig.qcow2(&path("top"), Some((&format!("json:{}", json("plain.raw")), "raw")));
    let quorum = format!(
        r#"json:{{"driver":"quorum","vote-threshold":1,"children":[{},{}]}}"#,
        json("one.raw"),
        json("two.raw")
    );
    let create = format!("qemu-img create -q -f qcow2 -u -b '{quorum}' -F raw {} 1M", path("many"));
    rig.shell(&create).text();
    rig.define("dom", &[source("top"), source("many")]);
    for name in ["plain.raw", "one.raw", "two.raw"] {
        is_needed(&rig, name, "dom");
    }
    let argument = format!("file=json:{}", json("in xml, twice.raw")).replace(',', ",,");
    let argument = argument.replace('"', "&quot;");
    let more = format!(
        "<qemu:commandline><qemu:arg value='-drive'/><qemu:arg value='if=none,{argument}'/>\
         </qemu:commandline>"
    );
    rig.define_xml("args", "", &more);
    let error = rig.tool("tdx-pool", ["delete", "in xml, twice.raw", "--yes"]).error(5);
    assert_eq!(error["message"], "volume 'in xml, twice.raw' is needed by domain 'args'");
    // A remote protocol protects no local file.
    let remote = format!("nbd://localhost{}", path("free.raw"));
    let create = format!("qemu-img create -q -f qcow2 -u -b '{remote}' -F raw {} 1M", path("nbd"));
    rig.shell(&create).text();
    rig.shell(&format!("truncate -s 1M {}", path("free.raw"))).text();
    assert_eq!(rig.pool("delete free.raw --yes").item()["action"], "delete");
}

#[test]
#[ignore = "needs root"]
fn delete_resolves_relative_names_from_the_link_and_from_its_target() {
    let rig = rig();
    rig.qcow2(&path("base"), None);
    rig.shell(&format!("cd {IMAGES} && mkdir real && cp base real/base")).text();
    rig.shell(&format!("cd {IMAGES}/real && qemu-img create -q -f qcow2 -b base -F qcow2 top"))
        .text();
    rig.shell(&format!("ln -s real/top {}", path("link"))).text();
    rig.define("dom", &[source("link")]);
    is_needed(&rig, "base", "dom");
    rig.pool(&format!("ensure --pool real --path {IMAGES}/real")).document();
    let error = rig.pool("delete base --pool real --yes").error(5);
    assert!(error["message"].as_str().unwrap().contains("domain 'dom'"), "{error}");
}

#[test]
#[ignore = "needs root"]
fn delete_terminates_on_hostile_image_chains() {
    let rig = rig();
    let rebase = |name: &str, below: &str| {
        rig.shell(&format!("qemu-img rebase -u -b '{below}' -F qcow2 {}", path(name))).text();
    };
    for name in ["a", "b", "self", "pipes", "folder", "long"] {
        rig.qcow2(&path(name), None);
    }
    rebase("a", "b");
    rebase("b", "../images/a");
    rebase("self", "self");
    rig.shell(&format!("mkfifo {}", path("pipe"))).text();
    rebase("pipes", "pipe");
    rebase("folder", "..");
    rebase("long", &"x".repeat(1000));
    rig.qcow2(&path("0"), None);
    rig.shell(&format!(
        "cd {IMAGES} && for i in $(seq 200); do cp 0 $i; done && for i in $(seq 200); do \
         qemu-img rebase -u -b $((i - 1)) -F qcow2 $i; done"
    ))
    .text();
    rig.define("dom", &[source("200"), source("a"), source("self"), source("pipes")]);
    is_needed(&rig, "0", "dom");
    is_needed(&rig, "b", "dom");
    let volumes = rig.pool("volumes").document();
    let chain = named(&volumes, "200")["backing_chain"].as_array().unwrap().len();
    assert_eq!(chain, 200);
    rig.virsh(["undefine", "dom"]);
    for name in ["self", "pipes", "folder", "long", "200"] {
        assert_eq!(rig.pool(&format!("delete {name} --yes")).item()["action"], "delete", "{name}");
    }
}

#[test]
#[ignore = "needs root"]
fn delete_refuses_a_volume_that_is_open_or_behind_a_loop_device() {
    let rig = rig();
    for name in ["open", "looped", "free"] {
        rig.qcow2(&path(name), None);
    }
    let mut holder = rig.command("sh");
    holder.args(["-c", &format!("exec 3<{}; echo; read line", path("open"))]);
    holder.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut holder = holder.spawn().unwrap();
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let device = rig.loop_device(&path("looped"));
    rig.image("new.img", 1);
    for name in ["open", "looped"] {
        for flag in ["--yes", "--dry-run"] {
            let error = rig.pool(&format!("delete {name} {flag}")).error(5);
            let message = error["message"].as_str().unwrap();
            assert!(message.starts_with(&format!("volume '{name}' is in use")), "{error}");
        }
        rig.pool(&format!("import new.img --name {name} --replace --yes")).error(5);
    }
    let deleted = rig.pool("delete free --yes").document();
    assert_eq!(deleted["warnings"], json!([]));
    drop(holder.stdin.take());
    holder.wait().unwrap();
    rig.shell(&format!("losetup -d {device}")).text();
    rig.pool("delete open looped --yes").document();
    assert_eq!(rig.names(), [""; 0]);
}

#[test]
#[ignore = "needs root"]
fn delete_warns_of_images_and_processes_that_it_cannot_read() {
    let rig = rig();
    for name in ["a", "b", "base", "top"] {
        rig.qcow2(&path(name), None);
    }
    // A member of the group libvirt can read neither the images nor the processes of others.
    rig.qcow2(&path("top"), Some((&path("base"), "qcow2")));
    rig.shell(&format!("chmod 600 {IMAGES}/*")).text();
    let user = |line: &str| {
        let group = rig.shell("stat -c %g /run/libvirt/libvirt-sock").text().trim().to_owned();
        let tool = bin("tdx-pool");
        let tool = format!("{} -c qemu:///system {line}", tool.display());
        rig.shell(&format!("setpriv --reuid 65534 --regid {group} --clear-groups {tool}"))
    };
    // libvirt's description of an unreadable image counts.
    let error = user("delete base --yes").error(5);
    assert_eq!(error["message"], "volume 'base' is needed by volume 'top'");
    let deleted = user("delete a --yes").document();
    let warnings = deleted["warnings"].to_string();
    assert!(warnings.contains("the open files of "), "{warnings}");
    // libvirt does not describe an image outside of all pools.
    rig.shell(
        "mkdir -p private && qemu-img create -q -f qcow2 private/disk 1M && chmod 600 private/*",
    )
    .text();
    let image = rig.scratch().join("private/disk").display().to_string();
    rig.define("dom", &[format!("<source file='{image}'/>")]);
    let error = user("delete b --yes").error(5);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(&image) && message.contains("cannot be read"), "{error}");
    // A raw disk has no image below it, nor has a disk whose XML ends the image chain.
    let disk = format!(
        "<disk type='file'><driver name='qemu' type='raw'/><source file='{image}'/>\
         <target dev='vda'/></disk>"
    );
    rig.define_xml("dom", &disk, "");
    user("delete b --dry-run").document();
    let disk = disk.replace("'raw'", "'qcow2'").replace("</disk>", "<backingStore/></disk>");
    rig.define_xml("dom", &disk, "");
    user("delete b --dry-run").document();
    let remote = rig.pool("-c qemu+tcp://127.0.0.1/system delete b --yes").document();
    let warnings = remote["warnings"].to_string();
    assert!(warnings.contains("only the users that libvirt knows of were checked"), "{warnings}");
}

#[test]
#[ignore = "needs root"]
fn delete_refuses_volumes_beside_an_image_that_does_not_name_its_data_file() {
    let rig = rig();
    with_data_file(&rig, "broken", &path("some.raw"));
    rig.qcow2(&path("free"), None);
    rig.qcow2(&path(&overlay(1)), None);
    // The magic number of the header extension that holds the name.
    rig.shell(&format!("LC_ALL=C sed -i s/DATA/XXXX/ {}", path("broken"))).text();
    let error = rig.pool("delete free --yes").error(5);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(&path("broken")) && message.contains("data file"), "{error}");
    let error = rig.pool("cleanup --yes").error(5);
    assert!(error["message"].as_str().unwrap().contains(&path("broken")), "{error}");
    // In another pool the image protects nothing, unless a domain uses it.
    rig.shell("mkdir other").text();
    rig.pool("ensure --pool other --path other").document();
    rig.qcow2(&rig.scratch().join("other/free").display().to_string(), None);
    rig.pool("delete free --pool other --dry-run").document();
    rig.define("dom", &[source("broken")]);
    rig.pool("delete free --pool other --yes").error(5);
    // For a guest that uses the image as a raw disk, its header is data.
    let disk = format!(
        "<disk type='file'><driver name='qemu' type='raw'/>{}<target dev='vda'/></disk>",
        source("broken")
    );
    rig.define_xml("dom", &disk, "");
    rig.pool("delete free --yes").document();
    rig.virsh(["undefine", "dom"]);
    rig.pool("cleanup --yes").error(5);
    assert_eq!(rig.pool("delete broken --yes").item()["action"], "delete");
    assert_eq!(rig.pool("cleanup --yes").document()["changed"], true);
}

#[test]
#[ignore = "needs root"]
fn cleanup_keeps_the_files_that_images_need() {
    let rig = rig();
    let data = "disk.000000000000001.raw";
    with_data_file(&rig, "top", &path(data));
    rig.qcow2(&path(&overlay(2)), None);
    let document = rig.pool("cleanup --yes").document();
    assert_eq!(values(&document, "action"), ["delete", "none"]);
    assert!(rig.names().contains(&data.to_owned()));
}

#[test]
#[ignore = "needs root"]
fn delete_checks_the_users_again_after_the_prompt() {
    let rig = rig();
    for name in ["base", "replaced", "gone"] {
        rig.qcow2(&path(name), None);
    }
    let ask = |line: &str| Terminal::ask(&rig, "tdx-pool", &format!("{line} --json"));

    let question = ask("delete base");
    rig.qcow2(&path("top"), Some((&path("base"), "qcow2")));
    rig.define("dom", &[source("top")]);
    let run = question.answer("y");
    assert_eq!(run.status, Some(5), "{run:?}");
    assert!(run.stderr.contains("needed by domain 'dom', volume 'top'"), "{run:?}");
    assert!(rig.names().contains(&"base".to_owned()));

    // A file that replaces the volume during the prompt is not deleted.
    let question = ask("delete replaced");
    rig.shell(&format!("cd {IMAGES} && rm replaced && cp base replaced")).text();
    let run = question.answer("y");
    assert_eq!(run.status, Some(5), "{run:?}");
    assert!(run.stderr.contains("volume 'replaced' was replaced during this command"), "{run:?}");

    // A volume that appears during the prompt is not deleted; a volume that disappears is no error.
    let question = ask("delete gone new");
    rig.shell(&format!("cd {IMAGES} && rm gone && cp base new")).text();
    let run = question.answer("y");
    assert_eq!(run.status, Some(5), "{run:?}");
    assert!(run.stderr.contains("volume 'new' was created during this command"), "{run:?}");
    assert_eq!(rig.names(), ["base", "new", "replaced", "top"]);

    let question = ask("delete new");
    rig.pool("delete new --yes").document();
    assert_eq!(question.answer("y").status, Some(0));
    let question = ask("delete replaced");
    assert_eq!(question.answer("n").status, Some(5));
    let question = ask("delete replaced");
    let run = question.answer("y");
    assert_eq!(run.status, Some(0), "{run:?}");
    assert_eq!(rig.names(), ["base", "top"]);
}

#[test]
#[ignore = "needs root"]
fn import_replace_checks_the_users_again_after_the_prompt() {
    let rig = rig();
    rig.image("a.img", 1);
    rig.image("b.img", 2);
    rig.pool("import a.img --name base").document();
    let question = Terminal::ask(&rig, "tdx-pool", "import b.img --name base --replace --json");
    with_data_file(&rig, "top", &path("base"));
    let run = question.answer("y");
    assert_eq!(run.status, Some(5), "{run:?}");
    assert!(run.stderr.contains("is needed by volume 'top'"), "{run:?}");
    rig.shell(&format!("rm {}", path("top"))).text();
    assert_eq!(rig.names(), ["base"]);
}

#[test]
#[ignore = "needs root"]
fn delete_waits_for_an_overlay_that_a_member_of_group_libvirt_creates() {
    let rig = rig();
    rig.qcow2(&path("base"), None);
    // A creation by that user holds the lock.
    rig.shell(
        "mkdir -p -m 1777 /run/lock/tdx && cd /run/lock/tdx && touch base && chmod 640 base && \
         chown nobody:libvirt base",
    )
    .text();
    let mut creation = rig.command("setpriv");
    creation.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "flock", "-s"]);
    creation.args(["/run/lock/tdx/base", "sh", "-c", "echo; read line"]);
    creation.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut creation = creation.spawn().unwrap();
    std::io::Read::read_exact(creation.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let delete = rig.begin(&["delete", "base", "--yes"]);
    wait_for("the wait", || {
        let held = rig.shell("test -e /run/tdx-pool/base").status;
        (held == Some(0)).then_some(())
    });
    rig.qcow2(&path("top"), Some((&path("base"), "qcow2")));
    drop(creation.stdin.take());
    creation.wait().unwrap();
    let (run, _) = pool::end(delete);
    let error = run.error(5);
    assert_eq!(error["message"], "volume 'base' is needed by volume 'top'");
    assert_eq!(rig.names(), ["base", "top"]);
}
