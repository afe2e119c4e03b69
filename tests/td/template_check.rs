//! The faults that `tdx-td new` and `render` refuse in a user's template, and the fixes of `--fix-template`.

use serde_json::{Value, json};

use crate::support::rig::{Rig, guest_image};
use crate::support::td::{IMAGES, listed, new, rig_with_base, td};
use crate::support::template::{CANONICAL, emulated, emulated_original, without};
use crate::support::tools::Run;

/// Runs `tdx-td VERB` with an image that is in no pool yet, and with a template.
fn with_template(rig: &Rig, verb: &str, template: &str, more: &str) -> Run {
    let image = guest_image(false);
    let image = image.display();
    td(rig, &format!("{verb} -i {image} -t {template} --memory 256M --vcpus 1{more}"))
}

/// The error of `new` and `render` for a template; both print the same.
#[track_caller]
fn refused(rig: &Rig, text: &str, more: &str, status: i32) -> Value {
    rig.template("t.xml", text);
    let error = with_template(rig, "new", "t.xml", more).error(status);
    assert_eq!(with_template(rig, "render", "t.xml", more).error(status), error);
    error
}

/// The line of a template on which a text occurs first.
fn line_of(text: &str, what: &str) -> usize {
    let start = text.find(what).unwrap_or_else(|| panic!("no {what}"));
    text[..start].matches('\n').count() + 1
}

#[test]
#[ignore = "needs root"]
fn new_and_render_name_parts_that_libvirt_would_drop_and_import_nothing() {
    let rig = Rig::start();
    let before = rig.state();
    for name in CANONICAL {
        let text = emulated_original(name);
        let error = refused(&rig, &text, "", 3);
        let message = error["message"].as_str().unwrap();
        for (part, at) in [
            ("element domain/allowReboot", "<allowReboot"),
            ("attribute enable of domain/pm/suspend-to-mem", "<suspend-to-mem"),
            ("attribute enable of domain/pm/suspend-to-disk", "<suspend-to-disk"),
        ] {
            let part = format!("{part} (line {})", line_of(&text, at));
            assert!(message.contains(&part), "{part} is not in {message}");
        }
        assert!(message.contains("hostfwd=tcp::0-:22"), "{message}");
        assert!(error["hint"].as_str().unwrap().contains("--fix-template"), "{error}");
    }
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn new_with_fix_template_starts_an_original_and_warns_of_each_change() {
    let rig = Rig::start();
    let text = emulated_original("regular_vm");
    rig.template("regular_vm.xml.template", &text);
    let file = "regular_vm.xml.template";
    let made = with_template(&rig, "new", file, " --fix-template --name vm").document();
    assert_eq!(made["items"][0]["state"], "running");
    let warnings = made["warnings"].to_string();
    let line = |what| line_of(&text, what);
    for change in [
        format!("element domain/allowReboot (line {}) was removed", line("<allowReboot")),
        format!(
            "domain/pm/suspend-to-disk (line {}) was renamed to enabled",
            line("<suspend-to-disk")
        ),
        format!(
            "domain/pm/suspend-to-mem (line {}) was renamed to enabled",
            line("<suspend-to-mem")
        ),
        "hostfwd=tcp:127.0.0.1:2201-:22".to_owned(),
    ] {
        assert!(warnings.contains(&change), "{change} is not in {warnings}");
    }
    let xml = rig.virsh(["dumpxml", "vm"]);
    assert!(xml.contains("<suspend-to-mem enabled='no'/>"), "{xml}");
}

/// Each unknown part is named, wherever it occurs.
#[test]
#[ignore = "needs root"]
fn new_names_unknown_and_wrong_parts_anywhere_in_a_template() {
    let rig = Rig::start();
    let before = rig.state();
    let good = emulated();
    for (from, to, part) in [
        ("<acpi/>", "<acpi/><nonsense/>", "element domain/features/nonsense"),
        ("<acpi/>", "<acpi sate='on'/>", "attribute sate of domain/features/acpi"),
        ("dev=\"vda\"", "dev=\"vda\" buss=\"x\"", "attribute buss of domain/devices/disk/target"),
        ("<cpu ", "<cpu_ mode='x'/><cpu ", "element domain/cpu_"),
        ("<qemu:arg ", "<qemu:args/><qemu:arg ", "element domain/qemu:commandline/qemu:args"),
    ] {
        assert!(good.contains(from), "{from}");
        let text = good.replacen(from, to, 1);
        let message = refused(&rig, &text, "", 3)["message"].to_string();
        let part = format!("{part} (line {})", line_of(&good, from));
        assert!(message.contains(&part), "{part} is not in {message}");
        rig.template("fixed.xml", &text);
        let fixed = with_template(&rig, "render", "fixed.xml", " --fix-template").document();
        assert!(fixed["warnings"].to_string().contains(&part), "{fixed}");
    }
    // Parts that libvirt knows by name but refuses must be changed by the user.
    for (from, to, part) in [
        ("enabled='no'", "enabled='maybe'", "attribute enabled of domain/pm/suspend-to-disk"),
        ("dev='hd'", "dev='hdd'", "element domain/os/boot"),
        ("unit=\"GiB\"", "unit=\"GuB\"", "attribute unit of domain/memory"),
        ("<pm>", "<pm/><pm>", "element domain/pm"),
    ] {
        assert!(good.contains(from), "{from}");
        let text = good.replacen(from, to, 1);
        for flag in ["", " --fix-template"] {
            let message = refused(&rig, &text, flag, 3)["message"].to_string();
            let part = format!("{part} (line {})", line_of(&good, from));
            assert!(message.contains(&part), "{part} is not in {message}");
        }
    }
    // Faults that only libvirt's drivers find.
    for (from, to, says) in [
        ("bus=\"virtio\"", "bus=\"ide\"", "IDE"),
        ("port=\"1\"", "port=\"one\"", "Invalid port number: one"),
    ] {
        let text = good.replacen(from, to, 1);
        let error = refused(&rig, &text, "", 3);
        assert!(error["causes"].to_string().contains(says), "{error}");
    }
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn new_refuses_ports_open_on_every_address_and_closes_them_with_fix_template() {
    let rig = rig_with_base();
    let before = rig.state();
    let good = emulated();
    let device = |xml: &str| good.replace("</devices>", &format!("{xml}</devices>"));
    let argument = |value: &str| {
        let forward = "user,id=nic0,hostfwd=tcp:127.0.0.1:0-:22";
        assert!(good.contains(forward));
        good.replace(forward, value)
    };
    let tcp = "<source mode='bind' host='0.0.0.0' service='4555'/><protocol type='raw'/>";
    let json = "{&quot;type&quot;:&quot;user&quot;,&quot;id&quot;:&quot;nic0&quot;,\
        &quot;hostfwd&quot;:[{&quot;str&quot;:&quot;tcp::4555-:22&quot;}]}";
    for (text, port) in [
        (device("<graphics type='vnc' port='5955' listen='0.0.0.0'/>"), 5955),
        (
            device(
                "<graphics type='vnc' port='5955'><listen type='address' address='::'/></graphics>",
            ),
            5955,
        ),
        (device(&format!("<serial type='tcp'>{tcp}<target port='0'/></serial>")), 4555),
        (
            device(&format!(
                "<channel type='tcp'>{tcp}<target type='virtio' name='a.b'/></channel>"
            )),
            4555,
        ),
        (argument("user,id=nic0,hostfwd=tcp::4555-:22"), 4555),
        (argument("user,id=nic0,hostfwd=tcp:0.0.0.0:4555-:22"), 4555),
        (argument(json), 4555),
    ] {
        let error = refused(&rig, &text, "", 3);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("opens a port on every address of this host"), "{message}");
        assert!(message.contains("(line "), "{message}");
        assert!(error["hint"].as_str().unwrap().contains("--fix-template"), "{error}");
        with_template(&rig, "new", "t.xml", " --fix-template --name open").item();
        let listening =
            rig.shell(&format!("ss -Htln 'sport = {port}' | tr -s ' ' | cut -d' ' -f4"));
        assert_eq!(listening.text(), format!("127.0.0.1:{port}\n"), "{text}");
        td(&rig, "delete open --yes --timeout 0").item();
    }
    // Arguments that cannot be rewritten are refused even with --fix-template.
    let raw =
        good.replace("'-netdev'/>", "'-vnc'/><qemu:arg value=':7'/><qemu:arg value='-netdev'/>");
    for flag in ["", " --fix-template"] {
        let message = refused(&rig, &raw, flag, 3)["message"].to_string();
        assert!(message.contains("-vnc :7"), "{message}");
    }
    assert_eq!(rig.state(), before);
}

/// A port in a JSON argument of QEMU is treated like one in other arguments.
#[test]
#[ignore = "needs root"]
fn a_port_in_a_json_argument_is_listed_and_assigned_once() {
    let rig = rig_with_base();
    let netdev = r#"{"type":"user","id":"nic0","hostfwd":[{"str":"tcp:127.0.0.1:2201-:22"}]}"#;
    let forward = "user,id=nic0,hostfwd=tcp:127.0.0.1:0-:22";
    let text = emulated().replace(forward, &netdev.replace('"', "&quot;"));
    rig.template("t.xml", &text);
    with_template(&rig, "new", "t.xml", " --name json").item();
    let ssh = json!({"host": "127.0.0.1", "port": 2201});
    assert_eq!(td(&rig, "show json").item()["ssh"], ssh);
    td(&rig, "stop json --force --yes").item();
    assert_eq!(listed(&rig, "json")["ssh"], ssh);
    assert_eq!(new(&rig, "--name b --ssh-port auto").item()["ssh"]["port"], 2202);
}

#[test]
#[ignore = "needs root"]
fn new_refuses_a_template_that_can_write_to_the_base_image() {
    let rig = rig_with_base();
    let before = rig.state();
    let good = emulated();
    rig.shell(&format!("ln -s {IMAGES}/guest.qcow2 link")).text();
    let link = rig.scratch().join("link").display().to_string();
    let disk = |attributes: &str, source: &str| {
        let driver = "<driver name='qemu' type='qcow2'/><target dev='vdb' bus='virtio'/>";
        let disk = format!("<disk {attributes}>{driver}<source {source}/></disk>");
        good.replace("</devices>", &format!("{disk}</devices>"))
    };
    let base = format!("{IMAGES}/guest.qcow2");
    for text in [
        disk("type='file'", "file='BASE_IMG_PATH'"),
        disk("type='block'", "dev='BASE_IMG_PATH'"),
        disk("type='file'", &format!("file='{base}'")),
        disk("type='file'", &format!("file='{IMAGES}/../images/guest.qcow2'")),
        disk("type='file'", &format!("file='{link}'")),
        disk("type='volume'", "pool='tdvirsh-pool' volume='guest.qcow2'"),
        good.replace(
            "</devices>",
            "<serial type='file'><source path='BASE_IMG_PATH'/><target port='0'/></serial></devices>",
        ),
        good.replace(
            "'-netdev'/>",
            "'-drive'/><qemu:arg value='file=BASE_IMG_PATH,if=virtio'/><qemu:arg value='-netdev'/>",
        ),
        good.replace(
            "</devices>",
            &format!(
                "<filesystem type='mount'><source dir='{IMAGES}'/><target dir='x'/></filesystem>\
                 </devices>"
            ),
        ),
    ] {
        for flag in ["", " --fix-template"] {
            rig.template("t.xml", &text);
            for verb in ["new", "render"] {
                let line = format!("{verb} -i guest.qcow2 -t t.xml --memory 256M --vcpus 1{flag}");
                let error = td(&rig, &line).error(3);
                let message = error["message"].as_str().unwrap();
                assert!(message.contains("allows the guest to write to the base image"), "{message}");
            }
        }
    }
    let missing = disk("type='volume'", "pool='tdvirsh-pool' volume='absent'");
    rig.template("t.xml", &missing);
    td(&rig, "new -i guest.qcow2 -t t.xml --memory 256M --vcpus 1").error(4);
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn a_read_only_disk_with_the_base_image_keeps_the_owner_of_the_image() {
    let rig = rig_with_base();
    let owner = format!("stat -c '%a %U %G' {IMAGES}/guest.qcow2");
    let before = rig.shell(&owner).text().to_owned();
    for source in [
        "type='file'><source file='BASE_IMG_PATH'/>",
        "type='volume'><source pool='tdvirsh-pool' volume='guest.qcow2'/>",
    ] {
        let disk = format!(
            "<disk {source}<driver name='qemu' type='qcow2'/><target dev='vdb' bus='virtio'/>\
             <readonly/></disk></devices>"
        );
        rig.template("t.xml", &emulated().replace("</devices>", &disk));
        td(&rig, "new -i guest.qcow2 -t t.xml --memory 256M --vcpus 1 --name ro").item();
        assert_eq!(rig.shell(&owner).text(), before, "{source}");
        td(&rig, "delete ro --yes --timeout 0").item();
        assert_eq!(rig.shell(&owner).text(), before, "{source}");
    }
}

#[test]
#[ignore = "needs root"]
fn new_without_the_schema_still_names_the_refused_part_and_its_line() {
    let rig = Rig::start();
    let before = rig.state();
    // As on a remote connection: libvirt has its schema, but the tool cannot read it.
    let text = without(&emulated_original("regular_vm"), "allowReboot")
        .replace("tcp::0", "tcp:127.0.0.1:0");
    let text = text.replacen(" enable=", " enabled=", 1);
    rig.template("t.xml", &text);
    let image = guest_image(false);
    let root = rig.scratch().join("empty");
    std::fs::create_dir(&root).unwrap();
    let line = format!(
        "--sysroot {} render -i {} -t t.xml --memory 256M --vcpus 1 --fix-template",
        root.display(),
        image.display()
    );
    let message = td(&rig, &line).error(3)["message"].to_string();
    let part = format!(
        "attribute enable of domain/pm/suspend-to-mem (line {})",
        line_of(&text, "<suspend-to-mem")
    );
    assert!(message.contains(&part), "{part} is not in {message}");
    assert_eq!(rig.state(), before);
}
