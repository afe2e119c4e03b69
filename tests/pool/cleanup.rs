//! `tdx-pool cleanup` deletes files of these tools that nothing needs, and keeps all others.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::pool::{Begun, IMAGES, end, named, overlay, raw_image, values};
use crate::support::rig::Rig;
use crate::support::tools::{Run, bin};
use crate::support::wait::wait_for;

fn path(name: &str) -> String {
    format!("{IMAGES}/{name}")
}

fn source(path: &str) -> String {
    format!("<source file='{path}'/>")
}

/// Runs cleanup as a dry run and for real. Expects that both name exactly these files, and that the rest of
/// the directory stays unchanged, byte for byte.
#[track_caller]
fn deletes(rig: &Rig, orphans: &[String]) -> Value {
    let before = rig.listing(IMAGES);
    let plan = rig.pool("cleanup --dry-run").document();
    assert_eq!(rig.listing(IMAGES), before, "a dry run changed something");
    let document = rig.pool("cleanup --yes").document();
    assert_eq!(plan["items"], document["items"], "the plan was another");
    let judged = values(&document, "name").into_iter().zip(values(&document, "action"));
    let deleted: Vec<String> =
        judged.filter(|(_, action)| action == "delete").map(|(name, _)| name).collect();
    let mut wanted = orphans.to_vec();
    wanted.sort_unstable();
    assert_eq!(deleted, wanted, "{document:#}");
    let rest: String = before
        .lines()
        .filter(|line| !orphans.iter().any(|name| line.contains(name.as_str())))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(rig.listing(IMAGES), rest);
    assert_eq!(document["changed"], !orphans.is_empty());
    document
}

#[test]
#[ignore = "needs root"]
fn cleanup_keeps_volumes_that_a_domain_needs() {
    let rig = Rig::start();
    rig.pool("ensure").document();
    let scratch = rig.scratch().to_str().unwrap().to_owned();
    rig.qcow2(&path("base"), None);
    for number in 1..=16 {
        rig.qcow2(&path(&overlay(number)), Some((&path("base"), "qcow2")));
    }
    let file = |number: usize| source(&path(&overlay(number)));
    rig.define("running", &[file(1)]);
    rig.virsh(["start", "running"]);
    rig.define("off", &[file(2)]);
    // Only the live definition has the overlay; only the persistent definition has it.
    rig.define("both", &[file(3)]);
    rig.virsh(["start", "both"]);
    rig.define("both", &[file(4)]);
    // Only a snapshot needs the overlay: a snapshot of its disk, or a layer above the disk.
    rig.define("internal", &[file(5)]);
    rig.virsh(["snapshot-create-as", "internal", "s"]);
    rig.define("internal", &[]);
    rig.define("external", &[file(6)]);
    let above = format!("vda,file={}", path(&overlay(106)));
    rig.virsh(["snapshot-create-as", "external", "s", "--disk-only", "--diskspec", &above]);
    // Only the saved state of the domain needs the overlay.
    rig.define("saved", &[file(7)]);
    rig.virsh(["start", "saved"]);
    rig.virsh(["managedsave", "saved"]);
    rig.define("saved", &[]);
    // The definition spells the path in another way.
    rig.shell(&format!("ln -s {IMAGES} link; mkdir bind; mount --bind {IMAGES} bind")).text();
    rig.define("linked", &[source(&format!("{scratch}/link/{}", overlay(8)))]);
    rig.define("slashes", &[source(&format!("/var//lib/./libvirt/images//{}", overlay(9)))]);
    rig.define("bound", &[source(&format!("{scratch}/bind/{}", overlay(10)))]);
    rig.shell(&format!("ln {} /var/lib/libvirt/boot/hard", path(&overlay(11)))).text();
    rig.define("hard", &[source("/var/lib/libvirt/boot/hard")]);
    let volume = format!("<source pool='tdvirsh-pool' volume='{}'/>", overlay(12));
    rig.define("volume", &[volume]);
    let arguments = format!(
        "<qemu:commandline><qemu:arg value='-drive'/>\
         <qemu:arg value='file={},if=virtio'/></qemu:commandline>",
        path(&overlay(13))
    );
    rig.define_xml("arguments", "", &arguments);
    fs::write(rig.path(&path("cidata.abcDEF012345678.iso")), "seed").unwrap();
    let cdrom = format!(
        "<disk type='file' device='cdrom'>{}<target dev='sda' bus='sata'/></disk>",
        source(&path("cidata.abcDEF012345678.iso"))
    );
    rig.define_xml("seeded", &cdrom, "");
    fs::write(rig.path(&path("cidata.defABC012345678.iso")), "seed").unwrap();
    // A relative backing file counts from the directory of the link.
    rig.qcow2(&path("relative"), Some((&path(&overlay(14)), "qcow2")));
    rig.shell(&format!("cd {IMAGES} && qemu-img rebase -u -b {} -F qcow2 relative", overlay(14)))
        .text();
    rig.shell(&format!(
        "mkdir away; cp {0}/base away/{1}; ln -s {0}/relative away/top",
        IMAGES,
        overlay(14)
    ))
    .text();
    rig.define("relative", &[source(&format!("{scratch}/away/top"))]);

    let orphans = [overlay(15), overlay(16), "cidata.defABC012345678.iso".to_owned()];
    let document = deletes(&rig, &orphans);
    assert_eq!(values(&document, "name").len(), 3, "{document:#}");
    assert_eq!(rig.pool("cleanup --yes").document()["items"], json!([]));
    rig.shell("umount bind").text();
}

#[test]
#[ignore = "needs root"]
fn cleanup_keeps_volumes_that_back_an_image_or_are_held_by_a_process() {
    let rig = Rig::start();
    rig.pool("ensure").document();
    rig.shell("mkdir others off").text();
    for pool in ["others", "off"] {
        rig.pool(&format!("ensure --pool {pool} --path {pool}")).document();
    }
    let scratch = rig.scratch().to_str().unwrap().to_owned();
    for number in 1..=14 {
        rig.qcow2(&path(&overlay(number)), None);
    }
    let over = |top: &str, number: usize| {
        rig.qcow2(top, Some((&path(&overlay(number)), "qcow2")));
    };
    // Foreign images need the overlays: images in this pool, in another pool, in an inactive pool, and images
    // that libvirt does not know.
    over(&path("foreign"), 1);
    over(&format!("{scratch}/others/foreign"), 2);
    over(&format!("{scratch}/off/foreign"), 3);
    rig.virsh(["pool-destroy", "off"]);
    // A damaged image that still names the file it needs.
    over(&path("broken"), 4);
    rig.shell(&format!(
        "printf '\\377' | dd of={} bs=1 seek=72 conv=notrunc status=none",
        path("broken")
    ))
    .text();
    // Processes hold overlays: by an open file, by flock, by QEMU's lock, in another mount namespace, and by
    // a loop device.
    let hold = |number: usize, how: &str| {
        let mut command = rig.command("bash");
        let file = path(&overlay(number));
        command.args(["-c", &how.replace("FILE", &file)]);
        command.stdin(Stdio::piped()).spawn().unwrap()
    };
    let mut holders = vec![
        hold(5, "exec 3<FILE; read"),
        hold(6, "exec 3>>FILE; flock 3; read"),
        hold(7, "qemu-io -c 'sleep 100000' FILE & read; kill $!"),
        hold(
            8,
            "unshare -m bash -c 'mkdir -p ns; mount --bind /var/lib/libvirt/images ns; \
                 exec 3<ns/${0##*/}; umount -l ns; read' FILE",
        ),
    ];
    let device = rig.loop_device(&path(&overlay(9)));
    // Overlays under creation, by a live process and by a dead one; and the file that backs a kept overlay.
    rig.shell("mkdir -p -m 711 /run/tdx-pool").text();
    let lock = format!("exec 3>/run/tdx-pool/{}; flock 3; read", overlay(10));
    holders.push(hold(10, &lock));
    rig.shell(&format!("touch /run/tdx-pool/{}", overlay(11))).text();
    rig.shell(&format!(
        "qemu-img rebase -u -b {} -F qcow2 {}",
        path(&overlay(12)),
        path(&overlay(5))
    ))
    .text();
    // An orphan backs another orphan.
    rig.shell(&format!(
        "qemu-img rebase -u -b {} -F qcow2 {}",
        path(&overlay(13)),
        path(&overlay(14))
    ))
    .text();
    wait_for("the holders", || {
        let plan = rig.pool("cleanup -n").document();
        let held = values(&plan, "reason").iter().filter(|reason| *reason != "other").count();
        let orphans = values(&plan, "reason").iter().filter(|reason| *reason == "orphan").count();
        (held - orphans == 7).then_some(())
    });

    let document = deletes(&rig, &[overlay(11), overlay(13), overlay(14)]);
    for number in [5, 6, 7, 8, 9, 12] {
        assert_eq!(named(&document, &overlay(number))["reason"], "open", "{number}");
    }
    assert_eq!(named(&document, &overlay(10))["reason"], "in_flight");
    for name in ["foreign", "broken"] {
        assert_eq!(named(&document, name)["reason"], "other");
    }
    let locks = rig.shell("ls /run/tdx-pool").text().to_owned();
    assert_eq!(locks, format!("{}\n", overlay(10)), "a stale lock stayed, or a live one went");

    // All holders end: cleanup deletes what nothing needs now.
    for holder in &mut holders {
        drop(holder.stdin.take());
        holder.wait().unwrap();
    }
    rig.shell(&format!("losetup -d {device}")).text();
    let free: Vec<String> = [5, 6, 7, 8, 9, 10, 12].map(overlay).into();
    deletes(&rig, &free);
}

#[test]
#[ignore = "needs root"]
fn cleanup_keeps_files_that_these_tools_did_not_create() {
    let rig = Rig::start();
    rig.virsh(["pool-define-as", "default", "dir", "--target", IMAGES]);
    rig.pool("ensure").document();
    let near = [
        "overlay.00000000000001.qcow2",
        "overlay.0000000000000001.qcow2",
        "overlay.00000000000000_.qcow2",
        "overlay.000000000000001.qcow2.bak",
        "overlay.000000000000001.qcow",
        "Overlay.000000000000001.qcow2",
        "x-overlay.000000000000001.qcow2",
        "cidata..iso",
        "cidata.a-b.iso",
        "cidata.common.iso",
        "import.00000000000000.part",
        "windows server & co.qcow2",
        "disk.img",
    ];
    for name in near {
        rig.qcow2(&path(name), None);
    }
    let base = rig.image("base.img", 1);
    rig.tool("tdx-pool", ["import", &base]).document();
    // Files with names of these tools that these tools would not create.
    rig.shell(&format!(
        "cd {IMAGES} && mkdir {0} folder && touch {0}/keep && ln -s disk.img {1} && mkfifo {2} && \
         ln -s nowhere {3} && ln -s nowhere dangling && touch $'latin-\\xe9' $'new\\nline' && \
         perl -MSocket -e 'socket(S,AF_UNIX,SOCK_STREAM,0); bind(S,sockaddr_un(\"socket\"))'",
        overlay(1),
        overlay(2),
        overlay(3),
        overlay(4)
    ))
    .text();
    rig.qcow2(&path(&overlay(9)), None);
    let document = deletes(&rig, &[overlay(9)]);
    for name in near.iter().copied().chain(["base.img", "folder", &overlay(1), &overlay(2)]) {
        assert_eq!(named(&document, name)["reason"], "other", "{name}");
    }

    // A user who cannot see enough, or who does not confirm, deletes nothing.
    rig.qcow2(&path(&overlay(10)), None);
    let before = rig.listing(IMAGES);
    let hint = "add --yes to confirm, or --dry-run to see what would be done";
    assert_eq!(rig.pool("cleanup").error(5)["hint"], hint);
    rig.pool("-c qemu+tcp://127.0.0.1/system cleanup --yes").error(6);
    let user = "setpriv --reuid 65534 --clear-groups tdx-pool -c qemu:///system cleanup --yes";
    rig.shell(user).error(7);
    rig.shell("setpriv --bounding-set=-sys_ptrace --inh-caps=-sys_ptrace tdx-pool cleanup --yes")
        .error(7);
    rig.pool("cleanup --pool absent --yes").error(4);
    assert_eq!(rig.listing(IMAGES), before);

    // A file that cannot be deleted does not stop the deletion of the others.
    rig.qcow2(&path(&overlay(11)), None);
    let immutable = rig.shell(&format!("chattr +i {}", path(&overlay(10))));
    if immutable.status == Some(0) {
        let error = rig.pool("cleanup --yes").error(1);
        assert_eq!(error["applied"], json!([format!("deleted volume '{}'", overlay(11))]));
        rig.shell(&format!("chattr -i {}", path(&overlay(10)))).text();
    }
    assert!(rig.names().contains(&overlay(10)));
}

#[test]
#[ignore = "needs root"]
fn cleanup_of_a_thousand_overlays_asks_about_each_volume_once() {
    let rig = Rig::start();
    rig.pool("ensure").document();
    rig.qcow2(&path("base"), None);
    rig.qcow2(&path(&overlay(0)), Some((&path("base"), "qcow2")));
    let template = rig.path(&path(&overlay(0)));
    for number in 1..=1100 {
        fs::copy(&template, rig.path(&path(&overlay(number)))).unwrap();
    }
    // Images after the 1,024th name, which need overlays of these tools. libvirt returns names in no order.
    for number in 0..10 {
        rig.qcow2(&path(&format!("z{number}")), Some((&path(&overlay(number)), "qcow2")));
    }
    for number in 100..120 {
        rig.define(&format!("d{number}"), &[source(&path(&overlay(number)))]);
    }
    let walk = rig.walk("tdx-pool cleanup -n", None);
    let plan = walk.run.document();
    let orphans = values(&plan, "reason").iter().filter(|reason| *reason == "orphan").count();
    assert_eq!(orphans, 1101 - 10 - 20);
    rig.pool("cleanup --yes").document();
    assert_eq!(rig.names().len(), 1 + 10 + 10 + 20);
    // The tool asks libvirt about each volume and each domain once, not about each volume for each domain.
    let (volumes, domains) = (1112, 20);
    assert!(walk.steps.len() < 4 * (volumes + domains), "{} steps", walk.steps.len());
}

#[test]
#[ignore = "needs root"]
fn cleanup_ignores_a_lock_of_a_user_who_may_not_use_libvirt() {
    let rig = Rig::start();
    rig.pool("ensure").document();
    for number in [1, 2] {
        rig.qcow2(&format!("{IMAGES}/{}", overlay(number)), None);
    }
    let hold = |groups: &str, number: usize, more: &str| {
        let script = format!(
            "umask 077; exec 3>/run/lock/tdx/{0}; {more} flock 3; echo held; read line",
            overlay(number)
        );
        let mut command = rig.command("setpriv");
        command.args(["--reuid", "nobody", "--regid", "nogroup"]).args(groups.split(' '));
        command.args(["sh", "-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "held\n");
        holder
    };
    rig.shell("mkdir -m 1777 /run/lock/tdx").text();
    let member = format!("chgrp libvirt /run/lock/tdx/{};", overlay(2));
    let mut holders = [hold("--clear-groups", 1, ""), hold("--groups libvirt", 2, &member)];
    let document = rig.pool("cleanup --yes").document();
    assert_eq!(named(&document, &overlay(1))["action"], "delete");
    assert_eq!(named(&document, &overlay(2))["reason"], "in_flight");
    assert_eq!(rig.shell("ls /run/lock/tdx").text().trim(), overlay(2));
    for holder in &mut holders {
        drop(holder.stdin.take());
        holder.wait().unwrap();
    }
    // Such a user cannot take root's locks either.
    rig.image("a.img", 1);
    rig.pool("import a.img").document();
    rig.shell("umask 077; exec 3>/run/tdx-pool/lock").text();
    let user = "setpriv --reuid nobody --regid nogroup --clear-groups";
    for line in ["exec 3</run/tdx-pool/lock", "echo >/run/tdx-pool/new", "ls /run/tdx-pool"] {
        let run = rig.shell(&format!("{user} sh -c '{line}'"));
        assert_ne!(run.status, Some(0), "{run:#?}");
    }
}

#[test]
#[ignore = "needs root"]
fn delete_by_a_member_of_group_libvirt_refuses_only_if_root_holds_the_lock() {
    let rig = Rig::start();
    rig.pool("ensure").document();
    rig.qcow2(&path("base"), None);
    let member = |line: &str| {
        let mut command = rig.command("setpriv");
        command.args(["--reuid", "nobody", "--regid", "nogroup", "--groups", "libvirt"]);
        command.arg(bin("tdx-pool")).args(["-c", "qemu:///system"]).args(line.split(' '));
        Run::of(command, b"")
    };
    rig.shell(
        "mkdir -m 711 /run/tdx-pool && cd /run/tdx-pool && touch base && chmod 640 base && \
         chown root:libvirt base",
    )
    .text();
    // Root's creation of a volume holds the lock; the file stays after a killed creation.
    let mut creation = rig.command("flock");
    creation.args(["-s", "/run/tdx-pool/base", "sh", "-c", "echo; read line"]);
    let mut creation = creation.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(creation.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let refused = member("delete base --yes");
    drop(creation.stdin.take());
    creation.wait().unwrap();
    let error = refused.error(5);
    assert_eq!(error["message"], "another process is creating volume 'base'", "{error}");
    let document = member("delete base --yes").document();
    assert_eq!(named(&document, "base")["action"], "delete");
    assert_eq!(rig.shell("ls /run/tdx-pool; ls /run/lock/tdx").text(), "base\n");
}

#[test]
#[ignore = "needs root"]
fn cleanup_keeps_the_running_import_of_a_member_of_group_libvirt() {
    let rig = Rig::start();
    rig.pool("ensure").document();
    raw_image(rig.scratch().join("big.img"), 160 << 20, 1);
    rig.shell("chmod 711 . && chmod 644 big.img").text();
    let mut command = rig.command("setpriv");
    command.args(["--reuid", "nobody", "--regid", "nogroup", "--groups", "libvirt"]);
    command.arg(bin("tdx-pool")).args(["-c", "qemu:///system", "import", "big.img"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let import = Begun::new(command.spawn().unwrap());
    let part = rig.halt(&import);
    let lock = rig.shell(&format!("stat -c '%U %G %a' /run/lock/tdx/{part}"));
    let cleanup = rig.pool("cleanup --yes");
    let (run, _) = end(import);
    assert_eq!(lock.text(), "nobody libvirt 600\n");
    let document = cleanup.document();
    assert_eq!(named(&document, &part)["reason"], "in_flight", "{document:#}");
    run.document();
    assert_eq!(rig.names(), ["big.img"]);
}
