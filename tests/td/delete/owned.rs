//! The files that belong to a domain.

use super::*;

/// The definition of a domain under another name, without the values that must be unique.
fn copy(rig: &Rig, name: &str, of: &str) -> String {
    let xml = rig.virsh(["dumpxml", of, "--inactive"]);
    let unique = |line: &&str| {
        !line.contains("<uuid>") && !line.contains("<mac ") && !line.contains("<nvram")
    };
    let xml: Vec<&str> = xml.lines().filter(unique).collect();
    xml.join("\n").replace(&format!("<name>{of}<"), &format!("<name>{name}<"))
}

#[test]
#[ignore = "needs root"]
fn delete_keeps_the_files_that_the_header_of_a_raw_disk_names() {
    let rig = rig_with_base();
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
        assert_eq!(item["kept"], json!([{"path": data, "reason": "not created by these tools"}]));
        for file in [&below, &backup, &data] {
            assert!(exists(&rig, file), "{name}: {file} is gone");
            std::fs::remove_file(rig.path(file)).unwrap();
        }
    }
}

#[test]
#[ignore = "needs root"]
fn delete_keeps_an_iso_that_an_administrator_named_like_a_seed() {
    let rig = rig_with_base();
    std::fs::write(rig.scratch().join("key.pub"), "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA me\n")
        .unwrap();
    new(&rig, "--name x --user me --ssh-key key.pub").item();
    rig.virsh(["destroy", "x"]);
    let common = image("cidata.common.iso");
    rig.shell(&format!("truncate -s 1M {common}")).text();
    rig.virsh(["attach-disk", "x", &common, "sda", "--type", "cdrom", "--config"]);
    let item = td(&rig, "delete x --yes").item();
    assert_eq!(item["deleted"].as_array().unwrap().len(), 2, "{item}");
    assert_eq!(reason(&item, &common), Some("not created by these tools"), "{item}");
    let left = rig.tool("tdx-pool", ["cleanup", "--yes"]).document();
    assert_eq!(left["changed"], false, "{left}");
    assert_eq!(volumes(&rig), ["cidata.common.iso", "guest.qcow2"]);
}

#[test]
#[ignore = "needs root"]
fn delete_of_a_copied_definition_deletes_no_file_of_the_original() {
    let rig = rig_with_base();
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

    // The files are kept even if the original is now defined on another host.
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
    let rig = rig_with_base();
    new(&rig, "--name a").item();
    let running = rig.virsh(["dumpxml", "a"]);
    let nvram = "/var/lib/libvirt/qemu/nvram/a_VARS.fd";
    assert!(running.contains(nvram), "{running}");
    rig.virsh(["destroy", "a"]);
    // libvirt 9 does not name the firmware variables of a domain that is shut off.
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

/// The record that version 0.1.0 wrote, word for word except for the names of the files.
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
    let rig = rig_with_base();
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
        json!([{"path": elsewhere, "reason": "not in a pool or in /var/tmp/tdvirsh"}])
    );
    assert!(exists(&rig, &elsewhere));

    // The user's own disk is kept, whatever its name. Only the record leads to the overlay.
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
    let rig = rig_with_base();
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
    // The file that backs the overlay counts as its base image, whatever its name.
    assert!(!exists(&rig, &own) && exists(&rig, below) && exists(&rig, &base));

    // A link in place of the directory is not followed, because everybody can write to /var/tmp.
    rig.shell(&format!(
        "mv /var/tmp/tdvirsh elsewhere && ln -s $PWD/elsewhere /var/tmp/tdvirsh && \
         qemu-img create -q -f qcow2 {own} 1M"
    ))
    .text();
    define(&rig, &foreign(name, &disk));
    let item = td(&rig, &format!("delete {name} --yes")).item();
    assert_eq!(item["deleted"], json!([]), "{item}");
    assert_eq!(reason(&item, &own), Some("not in a pool or in /var/tmp/tdvirsh"), "{item}");
    assert!(exists(&rig, &own));
}

#[test]
#[ignore = "needs root"]
fn delete_keeps_a_link_and_its_target() {
    let rig = rig_with_base();
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

#[test]
#[ignore = "needs root"]
fn delete_of_a_domain_with_snapshots_keeps_layers_and_their_backing_files() {
    let rig = rig_with_base();
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
    assert_eq!(reason(&item, &shown), Some("an overlay created by a libvirt snapshot"), "{item}");
    let needed = format!("needed by '{shown}', a file that is kept");
    assert_eq!(reason(&item, &own), Some(needed.as_str()), "{item}");
    assert!(layer.exists() && exists(&rig, &own));
}

#[test]
#[ignore = "needs root"]
fn delete_keeps_files_beside_an_image_that_does_not_name_its_data_file() {
    let rig = rig_with_base();
    new(&rig, "--name web").item();
    let own = overlay(&rig, "web");
    rig.qcow2(&image("broken"), None);
    // The incompatible-feature bit of an external data file, without the header extension that names the
    // file.
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
