//! `tdx-td firmware` on machines made of files, and compared with the choice of a real libvirt.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::firmware::{PLAIN, Request, compare};
use crate::support::odd_firmware::{Loaders, OddDirectories, compare_choices};
use crate::support::rig::{Rig, guest_image};
use crate::support::tools::{Run, bin};
use crate::support::tree::Tree;

const SYSTEM: &str = "usr/share/qemu/firmware";
const ADMIN: &str = "etc/qemu/firmware";

type Targets<'a> = &'a [(&'a str, &'a [&'a str])];

const Q35: Targets<'_> = &[("x86_64", &["pc-q35-*"])];

/// A descriptor of a build at `/fw/NAME`, with its features in one line.
fn descriptor(name: &str, mapping: &str, targets: Targets<'_>, features: &str) -> String {
    let executable = json!({"filename": format!("/fw/{name}"), "format": "raw"});
    let vars = json!({"filename": "/fw/vars", "format": "raw"});
    let mapping = match mapping {
        "split" => json!({"device": "flash", "executable": executable, "nvram-template": vars}),
        "combined" | "stateless" => {
            json!({"device": "flash", "mode": mapping, "executable": executable})
        }
        device => json!({"device": device, "filename": format!("/fw/{name}")}),
    };
    let target = |(architecture, machines): &(&str, &[&str])| json!({"architecture": architecture, "machines": machines});
    let targets: Vec<Value> = targets.iter().map(target).collect();
    let interface = if name.ends_with("bios") { "bios" } else { "uefi" };
    let features: Vec<&str> = features.split_whitespace().collect();
    json!({
        "description": name, "interface-types": [interface], "mapping": mapping,
        "targets": targets, "features": features, "tags": ["-D X"],
    })
    .to_string()
}

/// Builds of every kind.
fn host() -> Tree {
    let tree = Tree::new();
    let pc: &[&str] = &["pc-i440fx-*", "pc-q35-*"];
    for (file, mapping, targets, features) in [
        ("30-bios", "memory", &[("i386", pc), ("x86_64", pc)][..], "acpi-s3 acpi-s4"),
        ("40-enrolled", "split", Q35, "enrolled-keys requires-smm secure-boot amd-sev"),
        ("45-keyless", "split", Q35, "requires-smm secure-boot amd-sev"),
        ("50-combined", "combined", Q35, ""),
        ("55-sev", "stateless", Q35, "amd-sev amd-sev-es"),
        ("60-plain", "split", &[("x86_64", &["pc-q35-*", "pc-i440fx-2.?"])], "acpi-s3"),
        ("70-snp", "igvm", Q35, "amd-sev-snp"),
        ("75-tdx", "memory", Q35, "intel-tdx"),
        ("80-micro", "kernel", &[("x86_64", &["microvm"])], ""),
    ] {
        let text = descriptor(file, mapping, targets, features);
        tree.file(&format!("{SYSTEM}/{file}.json"), text);
        tree.file(&format!("fw/{file}"), "code");
    }
    tree.file("fw/vars", "variables");
    tree
}

/// The first two characters of the name of each build, in the order of the document.
fn builds(run: &Run) -> String {
    let document = run.document();
    let items = document["items"].as_array().unwrap().iter();
    let number = |item: &Value| item["name"].as_str().unwrap()[..2].to_owned();
    items.map(number).collect::<Vec<_>>().join(" ")
}

#[test]
fn firmware_lists_only_builds_that_match_every_flag() {
    let host = host();
    for (line, wanted) in [
        ("", "30 40 45 50 55 60 70 75 80"),
        ("-f secure-boot", "40 45"),
        ("-f secure-boot -f enrolled-keys", "40"),
        ("-f secure-boot,no-enrolled-keys", "45"),
        ("-f no-secure-boot -f no-requires-smm", "30 50 55 60 70 75 80"),
        ("-f amd-sev", "40 45 55"),
        ("-f amd-sev-es -f amd-sev", "55"),
        ("-f intel-tdx", "75"),
        ("-f intel-tdx -m pc", ""),
        ("-f intel-tdx -a i386", ""),
        ("-i bios", "30"),
        ("-i bios -m pc-i440fx-10.1", "30"),
        ("-a i386 -m q35", "30"),
        ("-i uefi -m pc", "60"),
        ("-i uefi -m pc-i440fx-2.9", "60"),
        ("-i uefi -m pc-i440fx-2.12", ""),
        ("-m pc-q35-10.1 -f acpi-s3", "30 60"),
        ("-m microvm", "80"),
        ("-a aarch64", ""),
        ("-i uboot", ""),
    ] {
        assert_eq!(builds(&host.run("tdx-td", &format!("firmware {line}"))), wanted, "{line:?}");
    }
}

#[test]
fn an_item_has_every_property_of_its_descriptor() {
    let host = host();
    let item = host.run("tdx-td", "firmware -f enrolled-keys").item();
    assert_eq!(
        item,
        json!({
            "name": "40-enrolled.json", "descriptor": "/usr/share/qemu/firmware/40-enrolled.json",
            "description": "40-enrolled", "interface_types": ["uefi"],
            "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
            "features": ["enrolled-keys", "requires-smm", "secure-boot", "amd-sev"],
            "device": "flash", "mode": "split",
            "executable": {"path": "/fw/40-enrolled", "format": "raw"},
            "nvram_template": {"path": "/fw/vars", "format": "raw"},
            "tags": ["-D X"], "usable": true, "offered": null, "chosen": null, "host": null,
        })
    );
    std::fs::remove_file(host.path("fw/vars")).unwrap();
    assert_eq!(host.run("tdx-td", "firmware -f enrolled-keys").item()["usable"], false);
    let memory = host.run("tdx-td", "firmware -f intel-tdx").item();
    assert_eq!((&memory["device"], &memory["mode"]), (&json!("memory"), &json!("stateless")));
    assert_eq!((&memory["nvram_template"], &memory["usable"]), (&Value::Null, &json!(true)));

    let table = host.run("tdx-td", "firmware -f intel-tdx --format table");
    assert!(table.text().contains("75-tdx.json"), "{table:#?}");
    let raw = host.run("tdx-td", "firmware -f amd-sev-snp -c");
    assert_eq!(raw.text(), descriptor("70-snp", "igvm", Q35, "amd-sev-snp") + "\n");
}

#[test]
fn a_more_specific_directory_overrides_and_an_empty_file_hides_a_descriptor() {
    let host = host();
    let put = |folder: &str, name: &str, text: &str| host.file(&format!("{folder}/{name}"), text);
    let ours = descriptor("ours", "memory", Q35, "intel-tdx");
    put(ADMIN, "20-ours.json", &ours);
    put(ADMIN, "40-enrolled.json", "");
    put(ADMIN, "75-tdx.json", &descriptor("another", "memory", Q35, ""));
    // Files that libvirt skips: hidden files, directories and devices. They hide no file either.
    put(ADMIN, ".50-hidden.json", "{");
    std::fs::create_dir(host.path(&format!("{ADMIN}/45-keyless.json"))).unwrap();
    std::os::unix::fs::symlink("/dev/null", host.path(&format!("{ADMIN}/60-plain.json"))).unwrap();
    let all = || host.run("tdx-td", "firmware");
    assert_eq!(builds(&all()), "20 30 45 50 55 60 70 75 80");
    assert_eq!(builds(&host.run("tdx-td", "firmware -f intel-tdx")), "20");

    // The user's own directory: below $XDG_CONFIG_HOME, else below ~/.config.
    let user = |variable: &str, value: &str| {
        let mut command = Command::new(bin("tdx-td"));
        command.env_clear().env(variable, value).args(["firmware", "--sysroot"]);
        command.arg(host.path(""));
        Run::of(command, b"")
    };
    put("home/me/.config/qemu/firmware", "45-keyless.json", "");
    put("home/me/.config/qemu/firmware", "40-enrolled.json", &ours);
    assert_eq!(builds(&user("HOME", "/home/me")), "20 30 40 50 55 60 70 75 80");
    let xdg = user("XDG_CONFIG_HOME", "/home/me/.config");
    assert_eq!(xdg.stdout, user("HOME", "/home/me").stdout);
    assert_eq!(builds(&user("XDG_CONFIG_HOME", "relative")), builds(&all()));
}

#[test]
fn a_damaged_descriptor_is_a_warning_and_the_others_are_listed() {
    let host = host();
    for (name, text, says) in [
        ("01-cut.json", "{\"description\":", "EOF"),
        ("02-array.json", "[]", "not a JSON object"),
        (
            "03-device.json",
            "{\"interface-types\":[],\"mapping\":{\"device\":\"floppy\"}}",
            "floppy",
        ),
        ("04-space.json", "\n", "EOF"),
        ("README", "These descriptors are ours.", "expected value"),
    ] {
        host.file(&format!("{ADMIN}/{name}"), text);
        let document = host.run("tdx-td", "firmware -f intel-tdx").document();
        assert_eq!(document["items"].as_array().unwrap().len(), 1, "{document}");
        let warnings = document["warnings"].to_string();
        assert!(warnings.contains(name) && warnings.contains(says), "{name}: {warnings}");
    }
    let latin: &[u8] = b"{\"description\":\"\xe9\"}";
    host.file(&format!("{ADMIN}/05-latin.json"), latin);
    std::os::unix::fs::symlink("nowhere", host.path(&format!("{ADMIN}/07-link.json"))).unwrap();
    let document = host.run("tdx-td", "firmware").document();
    assert_eq!(document["warnings"].as_array().unwrap().len(), 7, "{document}");
    // Without a document the warnings go to standard error.
    let raw = host.run("tdx-td", "firmware -c --json");
    assert!(raw.stderr.contains("01-cut.json") && raw.text().contains("75-tdx"), "{raw:#?}");
}

/// A user in whose environment HOME names another user's directory, as with `sudo -u`.
#[test]
#[ignore = "needs root"]
fn a_directory_that_the_user_cannot_read_is_a_warning() {
    let host = host();
    let user = host.path("home/me/.config/qemu/firmware");
    std::fs::create_dir_all(&user).unwrap();
    let mode =
        |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(&host.path(""), 0o755);
    mode(&user, 0o700);
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).env_clear();
    command.env("HOME", "/home/me").arg(bin("tdx-td")).args(["firmware", "-f", "intel-tdx"]);
    command.arg("--sysroot").arg(host.path(""));
    let document = Run::of(command, b"").document();
    assert_eq!(document["items"].as_array().unwrap().len(), 1, "{document}");
    let warnings = document["warnings"].to_string();
    assert!(warnings.contains("home/me/.config/qemu/firmware"), "{warnings}");
}

#[test]
fn firmware_is_empty_on_a_host_without_descriptors() {
    let host = Tree::new();
    assert_eq!(host.run("tdx-td", "firmware").document()["items"], json!([]));
    assert_eq!(host.run("tdx-td", "firmware -c").text(), "");
    host.file(&format!("{ADMIN}/50-masked.json"), "");
    assert_eq!(host.run("tdx-td", "firmware").document()["items"], json!([]));
}

#[test]
fn an_unknown_feature_is_refused_with_the_nearest_name() {
    let host = host();
    for (given, nearest) in [("intel-tdz", "intel-tdx"), ("no-secureboot", "no-secure-boot")] {
        let error = host.run("tdx-td", &format!("firmware -f {given}")).error(2);
        assert!(error["hint"].as_str().unwrap().contains(nearest), "{error}");
    }
    host.run("tdx-td", "firmware -i efi").error(2);
    // -c takes no value here: the error hints at --connect.
    host.run("tdx-td", "firmware -c qemu:///system").error(2);
}

/// A libvirt without TDX gives an ordinary guest the build that the tool predicts.
#[test]
#[ignore = "needs root"]
fn libvirt_chooses_the_build_that_firmware_predicts() {
    let rig = Rig::start();
    let choose = |features, stateless, machine| {
        compare(&rig, &Request { features, stateless, machine, ..PLAIN })
    };
    let enrolled = choose(&[], None, "q35").unwrap();
    assert_eq!(choose(&["secure-boot"], None, "q35"), Some(enrolled.clone()));
    let keyless = choose(&["secure-boot", "no-enrolled-keys"], None, "q35").unwrap();
    let plain = choose(&["no-secure-boot"], None, "q35").unwrap();
    assert!(enrolled != keyless && keyless != plain);
    assert_eq!(choose(&[], None, "pc"), Some(plain));
    assert_eq!(choose(&["secure-boot"], None, "pc"), None);
    assert_eq!(choose(&[], Some(true), "q35"), None);

    let document = rig.tool("tdx-td", ["firmware", "-m", "q35"]).document();
    assert_eq!(document["warnings"], json!([]));
    let items = document["items"].as_array().unwrap();
    assert_eq!(items[0]["executable"]["path"], *enrolled);
    assert!(
        items.iter().all(|item| item["usable"] == true && item["offered"] == true),
        "{document}"
    );
    // One build is hidden, for this rig alone: both libvirt and the tool choose the next one.
    let hide = "cp -r /usr/share/qemu/firmware fw && : >fw/$1 && \
        mount --bind fw /usr/share/qemu/firmware";
    rig.shell(&hide.replace("$1", items[0]["name"].as_str().unwrap())).text();
    assert_eq!(choose(&[], None, "q35"), Some(keyless));
    rig.libvirtd("stop");
    let document = rig.tool("tdx-td", ["firmware"]).document();
    assert!(document["warnings"].to_string().contains("libvirt"), "{document}");
    assert!(document["items"].as_array().unwrap().iter().all(|item| item["offered"].is_null()));
}

/// Requests for firmware, in every way that libvirt can express without launch security.
const REQUESTS: [Request<'_>; 14] = [
    PLAIN,
    Request { stateless: Some(true), ..PLAIN },
    Request { stateless: Some(false), ..PLAIN },
    Request { features: &["secure-boot"], ..PLAIN },
    Request { features: &["no-secure-boot"], ..PLAIN },
    Request { features: &["secure-boot", "enrolled-keys"], ..PLAIN },
    Request { features: &["secure-boot", "no-enrolled-keys"], ..PLAIN },
    Request { features: &["no-secure-boot", "no-enrolled-keys"], stateless: Some(false), ..PLAIN },
    Request { features: &["secure-boot"], stateless: Some(true), ..PLAIN },
    Request { features: &["acpi-s3"], ..PLAIN },
    Request { machine: "pc", ..PLAIN },
    Request { machine: "pc", features: &["no-secure-boot"], ..PLAIN },
    Request { machine: "pc-q35-7.2", ..PLAIN },
    Request { interface: "bios", ..PLAIN },
];

/// The tool lists the loaders that libvirt lists, and chooses the build that libvirt gives.
#[test]
#[ignore = "needs root"]
fn the_choice_over_odd_directories_agrees_with_libvirt() {
    compare_choices(&Rig::start(), &REQUESTS, Loaders::BuiltIn);
}

/// RHEL 9.0 with the published workaround for its descriptor of SEV firmware.
#[test]
#[ignore = "needs root"]
fn the_choice_of_a_stateless_build_with_a_template_agrees_with_libvirt() {
    let rig = Rig::start();
    let directories = OddDirectories::mount(&rig);
    let put =
        |name: &str, text: &str| std::fs::write(directories.admin().join(name), text).unwrap();
    put("50-amdsev.json", &directories.flash("amdsev.fd", "stateless", &["amd-sev"]));
    let firmware = |line: &str| rig.shell(&format!("tdx-td firmware -f amd-sev {line}"));
    let item = firmware("--stateless yes").item();
    assert_eq!((&item["mode"], &item["nvram_template"]), (&json!("stateless"), &Value::Null));
    assert_eq!((&item["offered"], &item["chosen"]), (&json!(true), &json!(true)), "{item}");
    let stateless = Request { stateless: Some(true), ..PLAIN };
    assert_eq!(compare(&rig, &stateless).as_deref(), item["executable"]["path"].as_str());
    // This libvirt gives the build only to guests that request it, and the document says so.
    let document = firmware("").document();
    assert_eq!(document["items"][0]["chosen"], false, "{document}");
    let warnings = document["warnings"].to_string();
    let says = ["/etc/qemu/firmware", "50-amdsev.json", "mode stateless"];
    assert!(says.iter().all(|says| warnings.contains(says)), "{warnings}");
    assert_eq!(compare(&rig, &PLAIN), None);
}

/// One bad file makes an old libvirt ignore all firmware: `host check` and `new` must report that.
#[test]
#[ignore = "needs root"]
fn host_check_names_a_descriptor_that_stops_libvirt() {
    let rig = Rig::start();
    let directories = OddDirectories::mount(&rig);
    let put =
        |name: &str, text: &str| std::fs::write(directories.admin().join(name), text).unwrap();
    put("50-plain.json", &directories.flash("plain.fd", "split", &[]));
    let check = |status| {
        let document = rig.tool("tdx-td", ["host", "check", "--for", "none"]).answer(status);
        let items = document["items"].as_array().unwrap();
        items.iter().find(|item| item["code"] == "FIRMWARE").unwrap().clone()
    };
    assert_eq!(check(0)["status"], "ok");
    assert!(compare(&rig, &PLAIN).is_some());
    put("50-plain.json.rpmsave", "{");
    let item = check(10);
    assert!(item["found"].as_str().unwrap().contains("50-plain.json.rpmsave"), "{item}");
    assert_eq!(compare(&rig, &PLAIN), None);
    let document = rig.tool("tdx-td", ["firmware"]).document();
    assert_eq!(document["items"][0]["chosen"], false, "{document}");
}

#[test]
fn new_without_firmware_says_why_each_build_does_not_fit() {
    let host = host();
    let warnings = |line: &str| host.run("tdx-td", line).document()["warnings"].to_string();
    let told = warnings("firmware -f intel-tdx -m pc");
    for says in [
        "/usr/share/qemu/firmware and /etc/qemu/firmware",
        "uefi firmware for x86_64 pc with intel-tdx",
        "30-bios.json: the build does not offer uefi",
        "75-tdx.json: the build is not for x86_64 pc",
    ] {
        assert!(told.contains(says), "{says:?} is not in {told}");
    }
    assert!(
        warnings("firmware -f intel-tdx,secure-boot")
            .contains("75-tdx.json: the build lacks secure-boot")
    );
    assert_eq!(warnings("firmware -f intel-tdx"), "[]");
}

/// A guest gets sleep states only if the one build that fits it supports them, whatever other builds offer.
#[test]
#[ignore = "needs root"]
fn new_gives_a_guest_the_build_that_its_settings_request() {
    let rig = Rig::start();
    rig.tool("tdx-pool", ["import".as_ref(), guest_image(false).as_os_str()]).document();
    let directories = OddDirectories::mount(&rig);
    let put =
        |name: &str, text: &str| std::fs::write(directories.admin().join(name), text).unwrap();
    let all = ["acpi-s3", "acpi-s4", "secure-boot", "enrolled-keys", "requires-smm"];
    put("20-enrolled.json", &directories.flash("enrolled.fd", "split", &all));
    put("30-plain.json", &directories.flash("plain.fd", "split", &[]));
    for (more, build) in [
        ("", "plain.fd"),
        ("--set guest.secure_boot=off", "plain.fd"),
        ("--set guest.secure_boot=on", "enrolled.fd"),
        ("--scenario desktop", "plain.fd"),
        ("--scenario desktop --set guest.secure_boot=on", "enrolled.fd"),
    ] {
        let new = "tdx-td new -i guest.qcow2 --name web1 --security none --virt-type qemu \
            --memory 256M --vcpus 1";
        let warnings = rig.shell(&format!("{new} {more}")).document()["warnings"].to_string();
        let sleepless = warnings.contains("no firmware on this host has the feature acpi-s3");
        assert_eq!(sleepless, more == "--scenario desktop", "{more}: {warnings}");
        let xml = rig.virsh(["dumpxml", "web1"]);
        assert!(xml.contains(&format!("/{build}</loader>")), "{more}: {xml}");
        rig.tool("tdx-td", ["delete", "web1", "--yes", "--timeout", "0"]).document();
    }
}
