//! `tdx-pool import` as root on the pool's own host.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use serde_json::json;

use crate::support::pool::{IMAGES, end, named, overlay, raw_image, signal, values};
use crate::support::rig::{Rig, guest_image};
use crate::support::wait::wait_for;

#[test]
#[ignore = "needs root"]
fn import_copies_an_image_once() {
    let rig = Rig::start();
    let image = guest_image(false);
    let image = image.to_str().unwrap();
    let before = rig.state();
    let plan = rig.tool("tdx-pool", ["import", image, "-n"]).document();
    assert_eq!(rig.state(), before, "a dry run changed something");
    let first = rig.tool("tdx-pool", ["import", image]).document();
    let item = &first["items"][0];
    // The planned pool has no UUID yet.
    let mut planned = plan["items"][0].clone();
    assert_eq!(planned["pool_uuid"], json!(null));
    planned["pool_uuid"] = item["pool_uuid"].clone();
    assert_eq!(*item, planned, "the plan was another");
    assert_eq!(item["action"], "import");
    assert_eq!((&item["name"], &item["format"]), (&json!("guest.qcow2"), &json!("qcow2")));
    assert_eq!(rig.owner("guest.qcow2"), (0, rig.qemu_group(), 0o640));
    assert_eq!(rig.names(), ["guest.qcow2"]);
    let copy = rig.path(IMAGES).join("guest.qcow2");
    assert!(fs::read(&copy).unwrap() == fs::read(image).unwrap());
    assert_eq!(rig.shell("ls -A /run/tdx-pool").text(), "");

    let second = rig.tool("tdx-pool", ["import", image]).document();
    assert_eq!(
        (&second["changed"], &second["items"][0]["action"]),
        (&json!(false), &json!("none"))
    );
    let there = rig.tool("tdx-pool", ["import", &format!("{IMAGES}/guest.qcow2")]).document();
    assert_eq!(there["changed"], false, "the image lies in the pool already");
    let other = rig.tool("tdx-pool", ["import", &format!("{IMAGES}/guest.qcow2"), "--name", "b"]);
    assert_eq!(other.item()["action"], "import");
    assert_eq!(named(&rig.pool("volumes").document(), "b")["role"], "base");
}

#[test]
#[ignore = "needs root"]
fn import_recognises_an_equal_image_and_reads_it_only_if_it_may_differ() {
    let rig = Rig::start();
    let image = rig.image("a.img", 1);
    let import = |more: &str| rig.pool(&format!("import {image} {more}"));
    import("").document();
    let volume = rig.path(IMAGES).join("a.img");
    let inode = fs::metadata(&volume).unwrap().ino();

    let by_record = || {
        let run = rig.pool(&format!("-vv import {image}"));
        assert_eq!(run.status, Some(0), "{run:#?}");
        run.stderr.contains("was imported from the same file")
    };
    assert!(by_record());
    // Other bytes with an equal device, inode, size and modification time: the inode's change time differs.
    rig.shell(
        "touch -r a.img stamp; printf x | dd of=a.img bs=1 seek=4096 conv=notrunc status=none; \
               touch -r stamp a.img",
    )
    .text();
    let differs = import("").error(5);
    assert_eq!(differs["message"], format!("volume 'a.img' exists and differs from {image}"));
    assert_eq!(differs["hint"], "choose another name with --name, or replace it with --replace");
    // Equal bytes in another file: the file is read once, and then recorded.
    raw_image(&image, 1 << 20, 1);
    rig.shell("cp a.img b.img; mv b.img a.img").text();
    assert_eq!(import("-n").item()["action"], "none");
    assert!(!by_record());
    assert!(by_record(), "the record was not renewed");
    // Another program writes to the volume: the record is no longer valid.
    rig.shell(&format!("printf y | dd of={IMAGES}/a.img bs=1 seek=9000 conv=notrunc status=none"))
        .text();
    import("").error(5);
    // --replace asks first, creates a new file, and removes the old record.
    let asked = import("--replace").error(5);
    assert_eq!(asked["message"], "not confirmed: replace volume 'a.img'?");
    assert_eq!(import("--replace -n").item()["action"], "replace");
    assert_eq!(fs::metadata(&volume).unwrap().ino(), inode);
    assert_eq!(import("--replace --yes").item()["action"], "replace");
    assert_ne!(fs::metadata(&volume).unwrap().ino(), inode);
    assert_eq!(import("--replace").document()["changed"], false);
    assert_eq!(rig.owner("a.img"), (0, rig.qemu_group(), 0o640));

    // If the file system stores no attributes, the contents are compared.
    rig.shell("mkdir plain; mount -t ramfs ramfs plain").text();
    rig.pool("ensure --pool plain --path plain").document();
    for action in ["import", "none"] {
        assert_eq!(import("--pool plain").item()["action"], action);
    }
    for action in ["import", "none"] {
        let item = import("--pool plain --compress --name c.qcow2").item();
        assert_eq!(item["action"], action, "{item:#}");
    }
    rig.shell("umount plain").text();
}

#[test]
#[ignore = "needs root"]
fn import_refuses_files_that_are_not_base_images() {
    let rig = Rig::start();
    let guest = guest_image(false);
    rig.shell(&format!(
        "head -c 100000 {guest} >truncated; qemu-img create -q -f qcow2 -b {guest} -F qcow2 overlay; \
         qemu-img create -q -f qcow2 -o data_file=data data-file 1M; : >empty; mkdir folder; \
         echo text >text; mkfifo fifo; ln -s circle circle; gzip -c {guest} >gz; \
         (head -c 510 /dev/zero; printf '\\125\\252'; head -c 1000 /dev/zero) >unaligned; \
         cp {guest} corrupt; printf '\\2' | dd of=corrupt bs=1 seek=79 conv=notrunc status=none; \
         (printf 'QFI\\373'; head -c 2000 /dev/zero) >garbage; printf 'QFI\\373' >stump",
        guest = guest.display()
    ))
    .text();
    let device = rig.loop_device(guest.to_str().unwrap());
    let before = rig.state();
    for (image, status, says) in [
        ("absent", 4, "cannot open"),
        ("text/below", 4, "cannot open"),
        ("folder", 3, "is a directory"),
        (".", 3, "is a directory"),
        ("text", 3, "is not a disk image"),
        ("empty", 3, "is empty"),
        ("truncated", 3, "is truncated: it has 100000 bytes"),
        ("stump", 3, "is truncated"),
        ("garbage", 3, "is a qcow2 image of unknown version 0"),
        ("overlay", 3, "is an overlay of"),
        ("data-file", 3, "external data file"),
        ("corrupt", 3, "is marked corrupt"),
        ("unaligned", 3, "is not a complete raw disk"),
        ("gz", 3, "is a gzip-compressed file"),
        ("fifo", 3, "is a named pipe"),
        ("/dev/null", 3, "is a character device"),
        (device.trim(), 3, "is a block device"),
    ] {
        let error = rig.tool("tdx-pool", ["import", image]).error(status);
        assert!(error["message"].as_str().unwrap().contains(says), "{image}: {error:#}");
        let has_hint = error["hint"].is_string();
        assert!(has_hint || ["absent", "text/below"].contains(&image), "{image}");
    }
    assert_eq!(rig.tool("tdx-pool", ["import", "circle"]).error(4)["kind"], "not_found");
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn import_accepts_any_name_that_libvirt_accepts() {
    let rig = Rig::start();
    let image = rig.image("a.img", 1);
    rig.pool("ensure").document();
    for name in ["with space & <'quote\"s>.img", "-dash", ".hidden", "日本語.img", &"n".repeat(255)]
    {
        let name = format!("--name={name}");
        let item = rig.tool("tdx-pool", ["import", &image, &name]).item();
        assert_eq!(item["name"], name["--name=".len()..]);
        assert_eq!(rig.tool("tdx-pool", ["import", &image, &name]).item()["action"], "none");
    }
    let document = rig.pool("volumes").document();
    assert_eq!(values(&document, "name").len(), 5);
    let deleted = rig.pipe("tdx-pool", ["delete", "-", "--yes"], document.to_string()).document();
    assert_eq!(values(&deleted, "action"), ["delete"; 5]);
    assert_eq!(rig.names(), Vec::<String>::new());

    let long = "n".repeat(256);
    let ours = overlay(1);
    for name in [
        "",
        ".",
        "..",
        "a/b",
        "a\nb",
        &ours,
        "cidata.abcDEF012345678.iso",
        "import.abcDEF012345678.part",
        &long,
    ] {
        let error = rig.tool("tdx-pool", ["import", &image, "--name", name]).error(2);
        assert_eq!(error["hint"], "choose another name with --name", "{name:?}");
    }
    // Names of source files: if the volume cannot have such a name, the command asks for --name.
    let scratch = rig.scratch();
    let odd: [&[u8]; 3] = [b"new\nline.img", b"latin-\xe9.img", ours.as_bytes()];
    for name in odd {
        let file = scratch.join(OsStr::from_bytes(name));
        fs::copy(&image, &file).unwrap();
        let error = rig.tool("tdx-pool", [OsStr::new("import"), file.as_os_str()]).error(2);
        assert!(error["hint"].as_str().unwrap().ends_with("with --name"), "{error:#}");
        let named = ["import".as_ref(), file.as_os_str(), "--name".as_ref(), "ok.img".as_ref()];
        rig.tool("tdx-pool", named).document();
    }
    rig.shell("cp a.img ./-dash.img; ln -s a.img 'sym & link.img'").text();
    assert_eq!(rig.tool("tdx-pool", ["import", "--", "-dash.img"]).item()["name"], "-dash.img");
    let link = rig.tool("tdx-pool", ["import", "sym & link.img"]).item();
    assert_eq!(link["name"], "sym & link.img");
    let kind = fs::symlink_metadata(rig.path(IMAGES).join("sym & link.img")).unwrap();
    assert!(kind.is_file(), "a link was copied as a link");

    // Any other file with that name is kept.
    rig.shell(&format!(
        "cd {IMAGES} && ln -s no dangling; mkdir folder; mkfifo fifo; ln -s {image} link"
    ))
    .text();
    let before = rig.listing(IMAGES);
    for name in ["dangling", "folder", "fifo"] {
        let error =
            rig.tool("tdx-pool", ["import", &image, "--name", name, "--replace", "--yes"]).error(5);
        assert_eq!(error["message"], format!("{IMAGES}/{name} exists and is not a regular file"));
    }
    // A link to a file is a volume without a stated format.
    let link = ["import", &image, "--name", "link"];
    let error = rig.tool("tdx-pool", link).error(3);
    assert_eq!(error["hint"], "add --image-format raw or --image-format qcow2");
    let link = link.iter().chain(&["--image-format", "raw"]);
    assert_eq!(rig.tool("tdx-pool", link).item()["action"], "none");
    assert_eq!(rig.listing(IMAGES), before);
}

#[test]
#[ignore = "needs root"]
fn import_replace_refuses_an_image_in_use() {
    let rig = Rig::start();
    let scratch = rig.scratch().to_str().unwrap().to_owned();
    rig.image("new.img", 99);
    for (index, user) in ["plain", "off", "on", "snapshot", "elsewhere", "free"].iter().enumerate()
    {
        let image = rig.image(user, index as u64);
        rig.tool("tdx-pool", ["import", &image]).document();
        // The image backs an overlay, so that every domain can use it.
        rig.qcow2(&format!("{IMAGES}/{user}.top"), Some((&format!("{IMAGES}/{user}"), "raw")));
    }
    rig.shell(&format!("rm {IMAGES}/free.top; mv {IMAGES}/elsewhere.top {scratch}/other.top"))
        .text();
    rig.pool("ensure --pool other --path .").document();
    let source = |name: &str| vec![format!("<source file='{IMAGES}/{name}.top'/>")];
    for name in ["off", "on", "snapshot"] {
        rig.define(name, &source(name));
    }
    rig.virsh(["start", "on"]);
    rig.virsh(["snapshot-create-as", "snapshot", "s"]);
    rig.define("snapshot", &[]);

    let before = rig.state();
    for (name, user) in [
        ("plain", "volume 'plain.top'"),
        ("off", "domain 'off', volume 'off.top'"),
        ("on", "domain 'on', volume 'on.top'"),
        ("snapshot", "domain 'snapshot', volume 'snapshot.top'"),
        ("elsewhere", "volume 'other.top' of pool 'other'"),
    ] {
        let line = format!("import new.img --name {name} --replace --yes");
        let error = rig.pool(&line).error(5);
        let message = error["message"].as_str().unwrap();
        assert!(message.ends_with(&format!("and is needed by {user}")), "{message}");
        let refused = rig.pool(&format!("delete {name} --yes")).error(5);
        assert_eq!(refused["message"], format!("volume '{name}' is needed by {user}"));
    }
    assert_eq!(rig.state(), before);
    let line = "import new.img --name free --replace --yes";
    assert_eq!(rig.pool(line).item()["action"], "replace");
}

#[test]
#[ignore = "needs root"]
fn import_checks_the_digest_compresses_and_keeps_holes() {
    let rig = Rig::start();
    let image = rig.image("a.img", 1);
    let sum = rig.shell("sha256sum a.img").text()[..64].to_owned();
    let wrong = "0".repeat(64);
    rig.pool("ensure").document();
    let before = rig.state();
    for more in ["", "--dry-run", "--compress"] {
        let error = rig.pool(&format!("import {image} --sha256 {wrong} {more}")).error(3);
        let message = format!("{image} has the SHA-256 digest {sum}, expected {wrong}");
        assert_eq!(error["message"], message, "{more}");
        assert_eq!(rig.state(), before);
    }
    let upper = sum.to_uppercase();
    assert_eq!(rig.pool(&format!("import a.img --sha256 {upper} -n")).item()["sha256"], sum);
    assert_eq!(rig.pool(&format!("import a.img --sha256 {sum}")).item()["sha256"], sum);
    assert_eq!(rig.pool(&format!("import a.img --sha256 {sum}")).item()["action"], "none");
    rig.pool(&format!("import a.img --sha256 {wrong}")).error(3);
    // The digest of the old image does not match the new image.
    raw_image(&image, 1 << 20, 2);
    rig.pool(&format!("import a.img --sha256 {sum} --replace --yes --dry-run")).error(3);
    rig.pool(&format!("import a.img --sha256 {sum} --replace --yes")).error(3);
    let new = rig.shell("sha256sum a.img").text()[..64].to_owned();
    let line = format!("import a.img --sha256 {new} --replace --yes");
    assert_eq!(rig.pool(&format!("{line} -n")).item()["sha256"], new);
    assert_eq!(rig.pool(&line).item()["sha256"], new);

    // A compressed volume is smaller, has the same content, and is recognised.
    let guest = guest_image(false);
    // The kernel in the image is compressed already; these bytes are not.
    let more = "head -c 16M /dev/zero | tr '\\0' y >>big.img";
    rig.shell(&format!("qemu-img convert -O raw {} big.img && {more}", guest.display())).text();
    let item = rig.pool("import big.img --compress --name c.qcow2").item();
    assert_eq!((&item["format"], &item["action"]), (&json!("qcow2"), &json!("import")));
    rig.shell(&format!("qemu-img compare -f raw -F qcow2 big.img {IMAGES}/c.qcow2")).text();
    rig.shell(&format!("qemu-img check -q {IMAGES}/c.qcow2")).text();
    let blocks = |path: &std::path::Path| fs::metadata(path).unwrap().blocks();
    assert!(blocks(&rig.path(IMAGES).join("c.qcow2")) < blocks(&rig.scratch().join("big.img")));
    assert_eq!(rig.owner("c.qcow2"), (0, rig.qemu_group(), 0o640));
    assert_eq!(rig.pool("import big.img --compress --name c.qcow2").item()["action"], "none");
    rig.shell("touch big.img").text();
    assert_eq!(rig.pool("import big.img --compress --name c.qcow2").item()["action"], "none");

    // Holes are kept.
    rig.shell(
        "cp a.img sparse.img; truncate -s 256M sparse.img; printf x >>sparse.img; \
               truncate -s 256M sparse.img",
    )
    .text();
    rig.pool("import sparse.img").document();
    assert!(blocks(&rig.path(IMAGES).join("sparse.img")) * 512 < 4 << 20);
    assert!(rig.shell(&format!("cmp sparse.img {IMAGES}/sparse.img")).text().is_empty());
}

#[test]
#[ignore = "needs root"]
fn a_failed_or_stopped_import_leaves_nothing() {
    let rig = Rig::start();
    rig.shell("mkdir small; mount -t tmpfs -o size=8M tmpfs small").text();
    rig.pool("ensure --pool small --path small").document();
    let big = rig.scratch().join("big.img");
    raw_image(&big, 160 << 20, 1);
    raw_image(rig.scratch().join("medium.img"), 24 << 20, 1);
    let full = rig.pool("import medium.img --pool small").error(1);
    assert_eq!(
        full["causes"][0], "cannot write the copy: no space left on the file system",
        "{full:#}"
    );
    let full = rig.pool("import medium.img --pool small --compress").error(1);
    assert_eq!(full["left_behind"], json!([]));
    assert_eq!(
        fs::read_dir(rig.path(&format!("{}/small", rig.scratch().display()))).unwrap().count(),
        0
    );
    rig.virsh(["pool-destroy", "small"]);
    rig.shell("umount small").text();

    rig.pool("ensure").document();
    let before = rig.state();
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        let import = rig.begin(&["import", "big.img"]);
        rig.halt(&import);
        signal(&import, name);
        let (run, by) = end(import);
        assert_eq!(by, Some(number), "did not die of the signal: {run:#?}");
        assert!(run.stdout.is_empty() && run.stderr.contains("interrupted"), "{run:#?}");
        assert_eq!(rig.state(), before, "SIG{name} left something");
    }
    let import = rig.begin(&["import", "medium.img", "--compress"]);
    wait_for("the compression", || {
        rig.shell("pgrep -x qemu-img").status.filter(|status| *status == 0)
    });
    signal(&import, "TERM");
    assert_eq!(end(import).1, Some(15));
    assert_eq!(rig.state(), before);
    assert_eq!(rig.shell("pgrep -x qemu-img || true").text(), "");

    // As under nohup: a signal that the caller ignores does not stop the import.
    let ignoring = rig.shell(&format!(
        "trap '' HUP; tdx-pool import big.img & \
         until ls {IMAGES}/import.*.part >&2; do :; done 2>/dev/null; kill -HUP $!; wait $!"
    ));
    ignoring.document();
    rig.pool("delete big.img --yes").document();
    assert_eq!(rig.state(), before);

    // A running import is no orphan; a killed one is.
    let import = rig.begin(&["import", "big.img"]);
    let part = rig.halt(&import);
    let kept = rig.pool("cleanup --yes").item();
    assert_eq!((&kept["name"], &kept["reason"]), (&json!(part), &json!("in_flight")));
    let refused = rig.pool(&format!("delete {part} --yes")).error(5);
    assert!(refused["message"].as_str().unwrap().contains("is creating volume"), "{refused:#}");
    signal(&import, "KILL");
    end(import);
    let hint = "add --yes to confirm, or --dry-run to see what would be done";
    assert_eq!(rig.pool("cleanup").error(5)["hint"], hint);
    let plan = rig.pool("cleanup --dry-run").item();
    assert_eq!((&plan["action"], &plan["reason"]), (&json!("delete"), &json!("orphan")));
    assert_eq!(rig.names(), [part]);
    assert_eq!(rig.pool("cleanup --yes").item()["action"], "delete");
    assert_eq!(rig.state(), before);
    assert_eq!(rig.pool("cleanup --yes").document()["changed"], false);

    // libvirtd is killed during the import: the image is complete or absent.
    let import = rig.begin(&["import", "big.img"]);
    rig.halt(&import);
    rig.libvirtd("kill");
    let (run, _) = end(import);
    run.error(6);
    rig.libvirtd("start");
    let again = rig.pool("import big.img").document();
    assert_eq!(again["items"][0]["action"], "none", "what was renamed is whole: {run:#?}");
    assert_eq!(rig.names(), ["big.img"]);
}

#[test]
#[ignore = "needs root"]
fn two_simultaneous_imports_create_one_image() {
    let rig = Rig::start();
    rig.pool("ensure").document();
    let image = rig.scratch().join("a.img");
    raw_image(&image, 64 << 20, 1);
    let runs = [(); 3].map(|()| rig.begin(&["import", "a.img"])).map(|child| end(child).0);
    assert!(runs.iter().any(|run| run.status == Some(0)), "{runs:#?}");
    for run in &runs {
        if run.status != Some(0) {
            let hint = run.error(5)["hint"].clone();
            assert_eq!(hint, "run this command again to compare the image with the new volume");
        }
    }
    assert_eq!(rig.names(), ["a.img"]);
    assert_eq!(rig.pool("import a.img").item()["action"], "none");
    assert!(rig.shell(&format!("cmp a.img {IMAGES}/a.img")).text().is_empty());

    // Two different images with one name: one import completes, the other reports the conflict.
    raw_image(rig.scratch().join("b.img"), 64 << 20, 2);
    let runs = ["a.img", "b.img"].map(|file| rig.begin(&["import", file, "--name", "c.img"]));
    let runs = runs.map(|child| end(child).0);
    let won: Vec<usize> = (0..2).filter(|&index| runs[index].status == Some(0)).collect();
    assert_eq!(won.len(), 1, "{runs:#?}");
    runs[1 - won[0]].error(5);
    let winner = ["a.img", "b.img"][won[0]];
    assert!(rig.shell(&format!("cmp {winner} {IMAGES}/c.img")).text().is_empty());
    assert_eq!(rig.names(), ["a.img", "c.img"]);
}

#[test]
#[ignore = "needs root"]
fn import_reads_the_document_of_volumes() {
    let rig = Rig::start();
    for (index, name) in ["a.img", "b.img"].iter().enumerate() {
        let image = rig.image(name, index as u64);
        rig.tool("tdx-pool", ["import", &image]).document();
    }
    rig.pool("ensure --pool other --path other").document();
    let line = "tdx-pool volumes | tdx-pool import - --pool other";
    let imported = rig.shell(line).document();
    assert_eq!(values(&imported, "action"), ["import"; 2]);
    assert_eq!(rig.shell(line).document()["changed"], false);
    // A name alone means a volume of the default pool; an item names its pool.
    let gone = rig.shell("tdx-pool volumes --pool other | tdx-pool delete - --yes").document();
    assert_eq!(values(&gone, "pool"), ["other"; 2]);
    assert_eq!(rig.names(), ["a.img", "b.img"]);
    rig.shell("tdx-pool volumes | tdx-pool delete - --pool other --yes").error(2);
    assert_eq!(rig.names(), ["a.img", "b.img"]);
    assert_eq!(rig.pipe("tdx-pool", ["import", "-"], "[]").document()["items"], json!([]));
    let two = r#"{"path":"/a"}{"path":"/b"}"#;
    rig.pipe("tdx-pool", ["import", "-", "--name", "x"], two).error(2);
    // Both items are planned first; the first import stays when the second fails.
    let rest =
        format!(r#"{{"path":"{0}/new.img"}}{{"path":"{0}/absent"}}"#, rig.scratch().display());
    rig.image("new.img", 9);
    rig.pipe("tdx-pool", ["import", "-"], &rest).error(4);
    assert_eq!(rig.names(), ["a.img", "b.img"]);
}
