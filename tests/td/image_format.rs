//! The format of a guest's disks is stated by somebody other than the guest that may have written their
//! headers. No header makes a tool open another file.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use serde_json::Value;

use crate::support::headers::{check_secret, make_headers, refused, small};
use crate::support::rig::Rig;
use crate::support::td::{listed, rig_with_base, td};
use crate::support::template::emulated;

/// Puts a header at the start of a file of 1 MiB that is otherwise zeros, as a guest does.
fn write_header(rig: &Rig, header: &str, file: &str) {
    let line = format!("dd if={header} of={file} bs=4k count=16 conv=notrunc status=none");
    rig.shell(&line).text();
}

#[test]
#[ignore = "needs root"]
fn vmimage_format_comes_from_flag_or_name_or_the_image_is_refused() {
    let rig = Rig::start();
    make_headers(&rig);
    rig.shell(
        "for name in .raw .qcow2 .img '' .RAW; do \
             for kind in backing data-file encrypted plain zeros; do cp $kind d-$kind$name; done; done",
    )
    .text();
    let before = rig.state();
    let disagree = "has a qcow2 header, but";
    let convert = "qemu-img convert -f raw -O qcow2 -- ";
    let flatten = "qemu-img convert -f qcow2 -O qcow2 -- ";
    let (unstated, flag) = ("is not known: its name ends in neither", "--image-format raw or");
    for (image, status, says, hints) in [
        ("d-backing.raw", 3, disagree, convert),
        ("d-data-file.raw", 3, disagree, convert),
        ("d-encrypted.raw", 3, disagree, convert),
        ("d-plain.raw", 3, disagree, "--image-format qcow2"),
        ("d-plain.RAW", 3, "but its file name says raw", "--image-format qcow2"),
        ("d-backing.raw --image-format raw", 3, "but --image-format says raw", convert),
        ("d-plain.qcow2 --image-format raw", 3, "but --image-format says raw", convert),
        ("d-backing.raw --image-format qcow2", 3, "is an overlay of", flatten),
        ("d-backing.qcow2", 3, "is an overlay of", flatten),
        ("d-data-file.qcow2", 3, "external data file", flatten),
        ("d-data-file.img --image-format qcow2", 3, "external data file", flatten),
        ("d-encrypted.qcow2", 3, "is an encrypted qcow2 image", "qemu-img convert"),
        ("d-zeros.qcow2", 3, "has no qcow2 header, but its file name", "--image-format raw"),
        ("d-zeros.raw --image-format qcow2", 3, "has no qcow2 header", "--image-format raw"),
        ("d-backing.img", 3, unstated, flag),
        ("d-plain.img", 3, unstated, flag),
        ("d-zeros.img", 3, unstated, flag),
        ("d-zeros", 3, unstated, flag),
        ("d-plain --cdrom zeros", 3, unstated, flag),
    ] {
        for verb in ["new", "render"] {
            refused(&td(&rig, &small(&format!("{verb} --vmimage {image}"))), status, says, hints);
        }
    }
    refused(&td(&rig, &small("new --blank 8M --image-format raw")), 2, "--image-format", "");
    refused(
        &td(&rig, &small("new --cdrom zeros --image-format raw")),
        2,
        "--image-format",
        "--vmimage",
    );
    let error = td(&rig, &small("new --vmimage zeros --image-format vmdk")).error(2);
    assert!(error["message"].to_string().contains("vmdk"), "{error:#}");
    let device = rig.loop_device("zeros");
    let line = format!("new --vmimage {device} --image-format raw");
    refused(&td(&rig, &small(&line)), 6, "is a device", "tdx-disk attach");
    for (image, format) in [
        ("d-zeros.raw", "raw"),
        ("d-zeros.RAW", "raw"),
        ("d-zeros.img --image-format raw", "raw"),
        ("d-zeros --image-format raw", "raw"),
        ("d-plain.qcow2", "qcow2"),
        ("d-plain.img --image-format qcow2", "qcow2"),
        ("d-plain.raw --image-format qcow2", "qcow2"),
    ] {
        let xml = td(&rig, &small(&format!("render --vmimage {image} --xml")));
        let xml = xml.text();
        assert!(xml.contains(&format!("name='qemu' type='{format}'")), "{image}: {xml}");
        assert_eq!(xml.matches("<backingStore/>").count(), 1, "{image}: {xml}");
    }
    assert_eq!(rig.state(), before);
    check_secret(&rig);
}

#[test]
#[ignore = "needs root"]
fn a_header_that_a_guest_writes_opens_no_file_and_is_not_read_again() {
    let rig = Rig::start();
    make_headers(&rig);
    rig.shell("cp zeros a.raw; cp plain b.qcow2; cp zeros c.img; chmod 666 a.raw b.qcow2 c.img")
        .text();
    let guests = [("a", "--vmimage a.raw"), ("b", "--vmimage b.qcow2"), ("c", "--vmimage c.img")];
    let new = |(name, image): (&str, &str), more: &str| {
        let flag = if name == "c" { " --image-format raw" } else { "" };
        td(&rig, &small(&format!("new {image} --name {name}{flag}{more}")))
    };
    for guest in guests {
        new(guest, "").item();
    }
    for header in ["backing", "data-file", "zeros"] {
        for (guest, file) in guests.into_iter().zip(["a.raw", "b.qcow2", "c.img"]) {
            // A guest can write the header of a raw image, but not that of a qcow2 image.
            if guest.0 == "b" && header == "data-file" {
                continue;
            }
            td(&rig, &format!("stop {} --force", guest.0)).document();
            write_header(&rig, header, file);
            // The same command, run again, reads no header.
            assert_eq!(new(guest, " --dry-run").item()["action"], "start", "{guest:?} {header}");
            if guest.0 == "b" && header == "zeros" {
                write_header(&rig, "plain", file);
            }
            assert_eq!(new(guest, "").item()["action"], "start", "{guest:?} {header}");
            assert_eq!(new(guest, "").document()["changed"], false, "{guest:?} {header}");
            check_secret(&rig);
        }
    }
    // The format in the definition is compared only with a stated format.
    let other = td(&rig, &small("new --vmimage a.raw --name a --image-format qcow2")).error(5);
    assert!(
        other["message"].to_string().contains("image_format is raw, but qcow2 was requested"),
        "{other:#}"
    );
    let line = "new --vmimage c.img --name c";
    assert_eq!(td(&rig, &small(line)).document()["changed"], false, "the definition says raw");
    // No other domain can get the images.
    refused(&td(&rig, &small("new --vmimage c.img --image-format raw")), 5, "domain 'c'", "");
    td(&rig, "delete a b c --yes --timeout 0").document();
    rig.shell("ls a.raw b.qcow2 c.img").text();
}

/// The definitions of the images that QEMU got, by the name of the file.
fn told_to_qemu(rig: &Rig, file: &str) -> Vec<Value> {
    let line = "tr '\\0' '\\n' </proc/$(pgrep -n qemu-system)/cmdline | grep -A1 -x -e -blockdev | grep ^{";
    let nodes: Vec<Value> =
        rig.shell(line).text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_file =
        |node: &&Value| node["filename"].as_str().is_some_and(|name| name.ends_with(file));
    let storage = nodes.iter().find(of_file).unwrap_or_else(|| panic!("no {file}: {nodes:#?}"));
    nodes.iter().filter(|node| node["file"] == storage["node-name"]).cloned().collect()
}

#[test]
#[ignore = "needs root"]
fn every_image_chain_in_a_definition_is_terminated() {
    let rig = rig_with_base();
    make_headers(&rig);
    rig.shell("cp plain own.qcow2; chmod 666 own.qcow2; echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA me' >key.pub").text();
    let seed = "--user guest --ssh-key key.pub --cdrom zeros";
    for (name, disk) in [
        ("over", "-i guest.qcow2"),
        ("own", "--vmimage own.qcow2"),
        ("blank", "--blank 8M"),
        ("raw", "--blank 8M --set storage.format=raw"),
    ] {
        td(&rig, &small(&format!("new {disk} --name {name} {seed}"))).item();
        for flags in [&["dumpxml", name][..], &["dumpxml", "--inactive", name]] {
            let xml = rig.virsh(flags);
            for disk in
                xml.split("<disk ").skip(1).map(|disk| disk.split("</disk>").next().unwrap())
            {
                assert_eq!(disk.matches("<backingStore/>").count(), 1, "{name}: {disk}");
            }
            assert_eq!(xml.matches("<disk ").count(), 3, "{name}");
        }
        // QEMU does not follow the header of the last image.
        let last = match name {
            "over" => "/guest.qcow2".to_owned(),
            _ => listed(&rig, name)["disks"][0]["source"].as_str().unwrap().to_owned(),
        };
        let nodes = told_to_qemu(&rig, &last);
        assert_eq!(nodes.len(), 1, "{name}: {nodes:#?}");
        if nodes[0]["driver"] == "qcow2" {
            assert_eq!(nodes[0].get("backing"), Some(&Value::Null), "{name}: {nodes:#?}");
        }
        td(&rig, &format!("delete {name} --yes --timeout 0")).document();
    }
}

#[test]
#[ignore = "needs root"]
fn a_cdrom_is_raw_read_only_and_shareable_whatever_its_content() {
    let rig = rig_with_base();
    make_headers(&rig);
    rig.shell("(printf 'QFI\\373'; head -c 1M /dev/zero) >garbage").text();
    let headers = ["backing", "data-file", "encrypted", "garbage", "zeros"];
    for (number, header) in headers.iter().enumerate() {
        rig.shell(&format!("cp {header} cd.iso")).text();
        for name in [format!("a{number}"), format!("b{number}")] {
            let line = format!("new -i guest.qcow2 --cdrom cd.iso --name {name}");
            td(&rig, &small(&line)).item();
            let xml = rig.virsh(["dumpxml", &name]);
            let cd = xml.split("device='cdrom'").nth(1).unwrap().split("</disk>").next().unwrap();
            assert!(cd.contains("type='raw'") && cd.contains("<readonly/>"), "{cd}");
            assert_eq!(told_to_qemu(&rig, "/cd.iso")[0]["driver"], "raw");
        }
        check_secret(&rig);
        td(&rig, "delete --all --yes --timeout 0").document();
    }
}

#[test]
#[ignore = "needs root"]
fn disks_of_a_template_have_the_stated_format_and_no_header_is_followed() {
    let rig = rig_with_base();
    make_headers(&rig);
    rig.shell("cp backing b.qcow2; cp data-file d.qcow2; cp plain p.qcow2; cp zeros z.raw; chmod 666 *.qcow2 *.raw").text();
    let here = rig.scratch().display().to_string();
    let disk = |driver: &str, file: &str, more: &str| {
        format!(
            "<disk type='file' device='disk'>{driver}<source file='{file}'/><target dev='vdx' bus='virtio'/>{more}</disk>"
        )
    };
    let driver = |format: &str| format!("<driver name='qemu' type='{format}'/>");
    let cd = |format: &str, file: &str| {
        format!(
            "<disk type='file' device='cdrom'>{}<source file='{file}'/><target dev='sdx' bus='sata'/></disk>",
            driver(format)
        )
    };
    let with = |more: &str| emulated().replace("<devices>", &format!("<devices>{more}"));
    let line = "render -i guest.qcow2 -t t.xml --memory 256M --vcpus 1";
    let base = "BASE_IMG_PATH";
    for (disk, says) in [
        (disk(&driver("qcow2"), &format!("{here}/b.qcow2"), ""), "is an overlay of"),
        (disk(&driver("qcow2"), &format!("{here}/d.qcow2"), ""), "external data file"),
        (disk(&driver("qcow2"), &format!("{here}/z.raw"), ""), "has no qcow2 header"),
        (disk(&driver("vmdk"), &format!("{here}/z.raw"), ""), "with format vmdk"),
        (disk(&driver("qed"), &format!("{here}/z.raw"), ""), "with format qed"),
        (cd("qcow2", &format!("{here}/p.qcow2")), "CDs"),
        (
            disk("", base, "<readonly/>"),
            "uses the base image with format raw, but its format is qcow2",
        ),
        (disk(&driver("raw"), base, "<readonly/>"), "uses the base image with format raw"),
    ] {
        rig.template("t.xml", &with(&disk));
        refused(&td(&rig, line), 3, says, "");
    }
    for (disk, ends) in [
        (disk(&driver("qcow2"), &format!("{here}/p.qcow2"), ""), 2),
        (disk(&driver("raw"), &format!("{here}/z.raw"), ""), 2),
        (disk("", &format!("{here}/b.qcow2"), ""), 2),
        (disk(&driver("qcow2"), base, "<readonly/>"), 2),
        (cd("raw", &format!("{here}/b.qcow2")), 2),
    ] {
        rig.template("t.xml", &with(&disk));
        let xml = td(&rig, &format!("{line} --xml"));
        assert_eq!(xml.text().matches("<backingStore/>").count(), ends, "{}", xml.text());
    }
    // libvirt treats a disk without a format as raw, and follows no header.
    rig.template("t.xml", &with(&disk("", &format!("{here}/b.qcow2"), "")));
    td(&rig, "new -i guest.qcow2 -t t.xml --memory 256M --vcpus 1 --name t").item();
    assert_eq!(told_to_qemu(&rig, "/b.qcow2")[0]["driver"], "raw");
    check_secret(&rig);
    td(&rig, "delete t --yes --timeout 0").document();
}
