//! The format of a base image is stated by somebody other than the guest that may have written its header. A
//! disk that a guest writes to cannot be a base image.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{XattrFlags, setxattr};
use serde_json::{Value, json};

use crate::support::headers::{check_secret, make_headers, refused, small};
use crate::support::pool::IMAGES;
use crate::support::rig::{Rig, guest_image};
use crate::support::td::{self, listed, rig_with_base, td, words};

const REMOTE: &str = "-c qemu+tcp://127.0.0.1/system";

/// Puts files of each kind into the pool's directory under each name.
fn fill_pool(rig: &Rig) {
    make_headers(rig);
    rig.pool("ensure").document();
    rig.shell(&format!(
        "for name in .raw .qcow2 .img; do for kind in backing data-file plain zeros; do \
             cp $kind {IMAGES}/v-$kind$name; done; done; chmod 644 {IMAGES}/*; \
         virsh pool-refresh tdvirsh-pool"
    ))
    .text();
}

#[test]
#[ignore = "needs root"]
fn base_format_comes_from_flag_item_or_name_or_the_base_is_refused() {
    let rig = Rig::start();
    fill_pool(&rig);
    let before = rig.state();
    let overlay = |line: &str| rig.tool("tdx-td", words(line));
    let disagree = "has a qcow2 header, but";
    let cases = [
        ("v-backing.raw", Some(disagree)),
        ("v-data-file.raw", Some(disagree)),
        ("v-plain.raw", Some(disagree)),
        ("v-zeros.raw", None),
        ("v-backing.qcow2", Some("is an overlay of")),
        ("v-data-file.qcow2", Some("external data file")),
        ("v-plain.qcow2", None),
        ("v-zeros.qcow2", Some("has no qcow2 header")),
        ("v-backing.img", Some("is not known: its name ends")),
        ("v-plain.img", Some("is not known: its name ends")),
        ("v-zeros.img", Some("is not known: its name ends")),
        ("v-backing.img --image-format raw", Some(disagree)),
        ("v-backing.img --image-format qcow2", Some("is an overlay of")),
        ("v-data-file.raw --image-format qcow2", Some("external data file")),
        ("v-plain.img --image-format qcow2", None),
        ("v-plain.img --image-format raw", Some(disagree)),
        ("v-zeros.img --image-format raw", None),
        ("v-zeros.img --image-format qcow2", Some("has no qcow2 header")),
    ];
    for (image, says) in cases {
        for connect in ["", REMOTE] {
            for named in ["--base", "-i"] {
                let line = format!("{connect} overlay {named} {image} -n");
                let run = overlay(line.trim());
                match says {
                    Some(says) => refused(&run, 3, says, ""),
                    None => drop(run.item()),
                }
            }
        }
    }
    // An item of tdx-pool import states a format; an item of tdx-pool volumes only contains libvirt's guess.
    for (item, says) in [
        (json!({"name": "v-zeros.img", "format": "raw", "source": "/a"}), None),
        (json!({"name": "v-plain.img", "format": "qcow2", "source": "/a"}), None),
        (json!({"name": "v-plain.img", "format": "raw", "source": "/a"}), Some(disagree)),
        (json!({"name": "v-backing.img", "format": "qcow2", "source": "/a"}), Some("overlay of")),
        (json!({"name": "v-backing.img", "format": "raw", "source": "/a"}), Some(disagree)),
        (
            json!({"name": "v-plain.img", "format": "qcow2", "role": "other"}),
            Some("is not known: its name"),
        ),
        (json!({"name": "v-zeros.img", "format": "iso"}), Some("is not known: its name")),
        (
            json!({"name": "v-zeros.img", "format": null, "source": null}),
            Some("is not known: its name"),
        ),
        (json!({"name": "v-plain.qcow2", "format": "raw", "role": "other"}), None),
    ] {
        let mut item = item;
        item["pool"] = json!("tdvirsh-pool");
        let run = rig.pipe("tdx-td", words("overlay --base - -n"), item.to_string());
        match says {
            Some(says) => refused(&run, 3, says, ""),
            None => drop(run.item()),
        }
        let flag =
            rig.pipe("tdx-td", words("overlay --base - -n --image-format raw"), item.to_string());
        let is_raw = item["name"] == "v-zeros.img";
        assert_eq!(flag.status, Some(if is_raw { 0 } else { 3 }), "{item}: {flag:#?}");
    }
    assert_eq!(rig.state(), before);
    check_secret(&rig);
}

#[test]
#[ignore = "needs root"]
fn a_record_states_the_format_until_the_volume_is_written() {
    let rig = Rig::start();
    make_headers(&rig);
    let image = rig.image("disk.img", 1);
    rig.shell("qemu-img convert -f raw -O qcow2 disk.img packed.img").text();
    for (name, format) in [("disk.img", "raw"), ("packed.img", "qcow2")] {
        // The name that Ubuntu gives its images states no format: the tool probes its private copy.
        assert_eq!(rig.pool(&format!("import {name}")).item()["format"], format);
        assert_eq!(td(&rig, &format!("overlay --base {name} -n")).item()["action"], "create");
        refused(
            &td(&rig, &format!("{REMOTE} overlay --base {name} -n")),
            3,
            "is not known: its name",
            "",
        );
        let piped = format!("tdx-pool import {name} | tdx-td {REMOTE} overlay --base - -n");
        rig.shell(&piped).item();
        // The overlay names the format of its base.
        let made = td(&rig, &format!("overlay --base {name}")).item();
        let info = rig.shell(&format!("qemu-img info -U --output json {}", made["path"]));
        let info: Value = serde_json::from_str(info.text()).unwrap();
        assert_eq!(info["backing-filename-format"], format);
        rig.pool("cleanup --yes").document();
    }
    // If flag and record disagree, the header decides.
    refused(&td(&rig, "overlay --base packed.img -n --image-format raw"), 3, "has a qcow2", "");
    refused(&td(&rig, "overlay --base disk.img -n --image-format qcow2"), 3, "has no qcow2", "");
    refused(
        &rig.pool("import packed.img --image-format raw --name x"),
        3,
        "has a qcow2",
        "convert",
    );
    refused(&rig.pool("import disk.img --image-format qcow2 --name x"), 3, "has no qcow2", "");
    // A guest has written to the volume.
    let volume = rig.path(IMAGES).join("disk.img");
    let header = fs::read(rig.scratch().join("plain")).unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(&volume)
        .unwrap()
        .write_all_at(&header[..4096], 0)
        .unwrap();
    for line in ["overlay --base disk.img -n", "overlay -i disk.img -n"] {
        refused(&td(&rig, line), 3, "is not known: its name", "--image-format");
    }
    let in_place = format!("import {IMAGES}/disk.img");
    assert_eq!(rig.pool(&in_place).status, Some(3), "the import reads no format from it either");
    assert!(fs::metadata(image).is_ok());
}

/// The record as version 0.1.0 wrote it: no format, no change time of the source's inode.
fn old_record(rig: &Rig, source: &str, volume: &str) {
    let stamp = |metadata: &fs::Metadata| {
        let time = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
        (metadata.len(), time)
    };
    let source = fs::metadata(rig.scratch().join(source)).unwrap();
    let volume = rig.path(IMAGES).join(volume);
    let ((length, time), (size, mtime)) = (stamp(&source), stamp(&fs::metadata(&volume).unwrap()));
    let text = format!(
        r#"{{"source":{{"device":{},"inode":{},"size_bytes":{length},"mtime_ns":{time}}},"volume":{{"size_bytes":{size},"mtime_ns":{mtime}}},"sha256":null,"compressed":false}}"#,
        source.dev(),
        source.ino(),
    );
    setxattr(&volume, "user.tdx.import", text.as_bytes(), XattrFlags::empty()).unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_record_of_version_0_1_0_counts_after_one_comparison_of_the_content() {
    let rig = Rig::start();
    rig.image("disk.img", 1);
    rig.shell("qemu-img convert -f raw -O qcow2 disk.img packed.img").text();
    for (name, format) in [("disk.img", "raw"), ("packed.img", "qcow2")] {
        rig.pool(&format!("import {name}")).document();
        old_record(&rig, name, name);
        td(&rig, &format!("overlay --base {name} -n")).item();
        // A source that was changed without a new modification time is detected, once.
        let by_record = |flags: &str| {
            let run = rig.pool(&format!("-vv import {name} {flags}"));
            assert_eq!(run.status, Some(0), "{run:#?}");
            assert!(run.stdout.contains(&format!("\"format\":\"{format}\"")), "{run:#?}");
            run.stderr.contains("was imported from the same file")
        };
        assert!(!by_record("-n"), "a record without the inode's time was believed");
        assert!(!by_record(""));
        assert!(by_record(""), "the record was not renewed");
        old_record(&rig, name, name);
        rig.shell(&format!(
            "touch -r {name} stamp; printf x | dd of={name} bs=1 seek=600 conv=notrunc status=none; \
             touch -r stamp {name}"
        ))
        .text();
        refused(&rig.pool(&format!("import {name}")), 5, "exists and differs", "--replace");
    }
}

#[test]
#[ignore = "needs root"]
fn new_refuses_a_base_that_a_domain_writes_to() {
    let rig = Rig::start();
    fill_pool(&rig);
    rig.shell(&format!(
        "ln {IMAGES}/v-zeros.raw {IMAGES}/link.raw; ln -s v-zeros.raw {IMAGES}/soft.raw; \
                        virsh pool-refresh tdvirsh-pool"
    ))
    .text();
    let disk = |source: &str, more: &str| {
        let kind = if source.contains("pool=") { "volume" } else { "file" };
        format!(
            "<disk type='{kind}' device='disk'><driver name='qemu' type='raw'/><source {source}/>\
                 <target dev='vda' bus='virtio'/>{more}</disk>"
        )
    };
    let file = format!("file='{IMAGES}/v-zeros.raw'");
    let volume = "pool='tdvirsh-pool' volume='v-zeros.raw'";
    let check = |says: Option<&str>, images: &[&str]| {
        for image in images {
            for line in [
                format!("overlay --base {image} -n"),
                format!("overlay -i {image} -n"),
                small(&format!("new --base {image} -n")),
            ] {
                match says {
                    Some(says) => refused(&td(&rig, &line), 5, says, "tdx-pool import"),
                    None => drop(td(&rig, &line).item()),
                }
            }
        }
    };
    let all = ["v-zeros.raw", "link.raw", "soft.raw"];
    rig.define_xml("vm", &disk(&file, ""), "");
    check(Some("cannot be a base image: it is a writable disk of domain 'vm'"), &all);
    refused(&td(&rig, &format!("{REMOTE} overlay --base v-zeros.raw -n")), 5, "domain 'vm'", "");
    let line = format!("import {IMAGES}/v-zeros.raw");
    assert!([3, 5].contains(&rig.pool(&line).status.unwrap_or_default()));
    rig.define_xml("vm", &disk(volume, ""), "");
    check(Some("domain 'vm'"), &all);
    // The domain is saved and its definition changed afterwards; then only a snapshot names the volume.
    rig.define_xml("vm", &disk(&file, ""), "");
    rig.virsh(["start", "vm"]);
    check(Some("domain 'vm'"), &all);
    rig.virsh(["managedsave", "vm"]);
    check(Some("domain 'vm'"), &all);
    rig.virsh(["managedsave-remove", "vm"]);
    rig.virsh([
        "snapshot-create-as",
        "vm",
        "s",
        "--disk-only",
        "--diskspec",
        "vda,file=/var/lib/libvirt/top.qcow2",
    ]);
    rig.virsh(["snapshot-list", "vm"]);
    check(Some("domain 'vm'"), &all);
    rig.virsh(["snapshot-delete", "vm", "s", "--metadata"]);
    check(None, &all);
    // A domain that only reads the volume is no writer, nor is one with an overlay of the volume.
    rig.define_xml("vm", &disk(&file, "<readonly/>"), "");
    check(None, &all);
}

#[test]
#[ignore = "needs root"]
fn new_refuses_a_base_that_gains_a_writer_during_the_prompt() {
    let rig = rig_with_base();
    rig.shell(&format!("cp {} other.qcow2; chmod 666 other.qcow2", guest_image(false).display()))
        .text();
    td(&rig, &small("new --vmimage other.qcow2 --name x")).item();
    let uuid = listed(&rig, "x")["uuid"].clone();
    // script(1) provides the terminal of the prompt; the answer is typed when the other domain exists.
    let disk = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
         <source file='{IMAGES}/guest.qcow2'/><target dev='vda' bus='virtio'/></disk>"
    );
    td::define(&rig, &td::foreign("writer", &disk));
    rig.virsh(["dumpxml", "writer"]);
    let xml = rig.scratch().join("define.xml");
    rig.virsh(["undefine", "writer"]);
    let line = small("new -i guest.qcow2 --name x --overwrite");
    let script = format!(
        "mkfifo answer; (exec script -qec 'tdx-td {line}' out <answer >log) & exec 3>answer; \
         for try in {{1..300}}; do grep -q 'delete domain' log && break; sleep 0.1; done; \
         virsh define {} >&2 && echo y >&3; exec 3>&-; wait $!; echo $?",
        xml.display()
    );
    let run = rig.shell(&script);
    assert_eq!(
        run.text().trim(),
        "5",
        "{run:#?}\n{}",
        fs::read_to_string(rig.scratch().join("log")).unwrap()
    );
    assert_eq!(listed(&rig, "x")["uuid"], uuid, "the domain that was is gone");
}

#[test]
#[ignore = "needs root"]
fn every_verb_refuses_headers_of_other_formats_or_treats_them_as_data() {
    let rig = Rig::start();
    rig.image("disk.raw", 1);
    rig.pool("ensure").document();
    rig.shell(&format!(
        "for f in vmdk vdi vhdx vpc qed qcow parallels; do \
             qemu-img convert -f raw -O $f disk.raw $f.made || exit; done; \
         (printf 'Bochs Virtual HD Image'; head -c 1M /dev/zero) >bochs.made; \
         (printf '#!/bin/sh\\n#V2.0 Format\\nmodprobe cloop file=$0'; head -c 1M /dev/zero) >cloop.made; \
         (printf '# Disk DescriptorFile\\nversion=1\\n'; head -c 1M /dev/zero) >descriptor.made; \
         (printf 'LUKS\\272\\276\\0\\1'; head -c 1M /dev/zero) >luks.made; \
         for made in *.made; do for name in raw qcow2 img; do \
             cp $made ${{made%.made}}.$name; cp $made {IMAGES}/v-${{made%.made}}.$name; done; done; \
         virsh pool-refresh tdvirsh-pool"
    ))
    .text();
    let before = rig.state();
    let formats =
        ["vmdk", "vdi", "vhdx", "vpc", "qed", "qcow", "parallels", "bochs", "cloop", "descriptor"];
    for format in formats {
        for name in ["raw", "qcow2", "img"] {
            let flags = ["", " --image-format raw", " --image-format qcow2"];
            for flag in flags {
                for line in [
                    small(&format!("new --vmimage {format}.{name}{flag}")),
                    format!("overlay --base v-{format}.{name}{flag}"),
                    format!("overlay -i v-{format}.{name}{flag}"),
                    format!("overlay -i ./{format}.{name}{flag}"),
                ] {
                    refused(&td(&rig, &line), 3, format, "");
                }
                refused(
                    &rig.pool(&format!("import {format}.{name}{flag}")),
                    3,
                    format,
                    "qemu-img convert",
                );
            }
        }
        let xml = td(&rig, &small(&format!("render --blank 8M --cdrom {format}.raw --xml")));
        assert_eq!(xml.text().matches("type='qcow2'").count(), 1, "{xml:#?}");
    }
    // A LUKS header in a raw disk is data, because no machine boots from it.
    for line in [
        small("render --vmimage luks.raw"),
        small("render --vmimage luks.img --image-format raw"),
        "overlay -n --base v-luks.raw".to_owned(),
    ] {
        td(&rig, &line).item();
    }
    refused(&td(&rig, &small("new --vmimage luks.qcow2")), 3, "has no qcow2 header", "");
    refused(&td(&rig, &small("new --vmimage luks.img")), 3, "is not known: its name", "");
    refused(&rig.pool("import luks.raw"), 3, "LUKS", "");
    assert_eq!(rig.state(), before);
}
