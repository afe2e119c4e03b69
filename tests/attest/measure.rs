//! `tdx-attest measure`: on a synthetic image, and on the firmware of this machine and of the TDX rig.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha384};

use crate::support::mrtd::{expected_mrtd, hex};
use crate::support::tdvf::{CFV, GLOBAL, Parts, SIZE};
use crate::support::tools::{self, Run, repository};

/// A directory with a synthetic image.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.file("f.fd", Parts::new().build());
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// Measures the domain, whose definition names the image.
    fn measure(&self, domain: &Domain<'_>, flags: &str) -> Run {
        let xml = domain.xml(&self.path("f.fd"));
        measure(&xml, &format!("- {flags}"))
    }

    /// The MRTD of a domain with this firmware.
    fn mrtd(&self, image: &[u8]) -> String {
        let image = self.file("other.fd", image);
        let run = self.measure(&Domain::default(), &format!("--firmware {}", image.display()));
        value(&run.document(), "mrtd")
    }
}

/// A domain with one of its parts changed.
struct Domain<'a> {
    memory: &'a str,
    vcpus: &'a str,
    launch: &'a str,
    more: &'a str,
}

impl Default for Domain<'_> {
    fn default() -> Self {
        let launch = "<launchSecurity type='tdx'><policy>0x10000000</policy></launchSecurity>";
        Self { memory: "64", vcpus: "16", launch, more: "" }
    }
}

impl Domain<'_> {
    fn xml(&self, firmware: &Path) -> String {
        let Self { memory, vcpus, launch, more } = self;
        format!(
            "<domain type='kvm'>\n  <name>td1</name>\n  <memory unit='GiB'>{memory}</memory>\n  \
             <vcpu>{vcpus}</vcpu>\n  <os><type arch='x86_64' machine='pc-q35-10.1'>hvm</type>\
             <loader type='rom'>{}</loader></os>\n  {launch}{more}\n</domain>\n",
            firmware.display()
        )
    }
}

/// Runs the verb with this text on standard input.
fn measure(input: &str, flags: &str) -> Run {
    let words = ["measure"].into_iter().chain(flags.split_whitespace());
    tools::tool_with_input("tdx-attest", words, input)
}

fn item(document: &Value, register: &str) -> Value {
    let mut items = document["items"].as_array().unwrap().iter();
    items.find(|item| item["register"] == register).unwrap().clone()
}

fn value(document: &Value, register: &str) -> String {
    item(document, register)["value"].as_str().unwrap().to_owned()
}

#[test]
fn mrtd_of_a_synthetic_image_is_that_of_an_independent_implementation() {
    let folder = Folder::new();
    let image = fs::read(folder.path("f.fd")).unwrap();
    for (flags, by_section) in
        [("", false), ("--page-order page", false), ("--page-order section", true)]
    {
        let document = folder.measure(&Domain::default(), flags).document();
        assert_eq!(value(&document, "mrtd"), expected_mrtd(&image, by_section), "{flags}");
        let [page, section] = [false, true].map(|by_section| expected_mrtd(&image, by_section));
        let both = json!({"page": page, "section": section});
        assert_eq!(item(&document, "mrtd")["value_by_page_order"], both, "{flags}");
        assert_eq!(item(&document, "mrowner")["value_by_page_order"], Value::Null);
        assert_eq!((&document["host"], &document["changed"]), (&Value::Null, &json!(false)));
        let mrtd = item(&document, "mrtd");
        assert_eq!((&mrtd["certainty"], &mrtd["host"]), (&json!("exact"), &Value::Null));
        let assumes = mrtd["assumes"].to_string();
        assert!(assumes.contains(&hex(Sha256::digest(&image))), "{assumes}");
    }
}

/// Debian's builds with their SHA-256 and, where it is known, their MRTD: in page order, and how that in section order
/// begins.
const KNOWN: [(&str, &str, &str); 2] = [
    (
        "a265075b4147a096", // OVMF.inteltdx.ms.fd of ovmf-inteltdx 2026.08+ds-2
        "a7a1f751abc454f9cbab198ca8d2edb2821935df525c74182b5e776cb0929e8c59aefecce725b0d08a5e9d3d3183bd08",
        "b90b236113eb4c0d",
    ),
    (
        "14954040cc754ade", // OVMF.fd of ovmf 2025.02-8+deb13u1
        "bdc6fb145880f06f30c8b346b8dce2a99d9351b56892df22f80fcf6574caa9f9c31df8e8576d53b4d0cd1c3f28910e11",
        "456f07902150d008",
    ),
];

/// The builds of OVMF for TDX on this machine, in the TDX rig's root, and in the directory `TDX_FIRMWARE`.
fn installed() -> Vec<PathBuf> {
    let cache = std::env::var_os("TDX_RIG_CACHE").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| repository().join("target/rig"));
    let rig = cache.join("tdx-root/debian/usr/share/ovmf");
    let named = std::env::var_os("TDX_FIRMWARE").map(PathBuf::from);
    let folders = [Some("/usr/share/ovmf".into()), Some(rig), named].into_iter().flatten();
    let files = folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    let files = files.map(|file| file.unwrap().path());
    let is_build = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name == "OVMF.fd" || name.contains("inteltdx")
    };
    files.filter(is_build).collect()
}

#[test]
fn mrtd_of_installed_firmware_is_that_of_an_independent_implementation() {
    let builds = installed();
    let mut known = 0;
    for path in &builds {
        let image = fs::read(path).unwrap();
        let sha256 = hex(Sha256::digest(&image));
        for order in ["page", "section"] {
            let xml = Domain::default().xml(path);
            let document = measure(&xml, &format!("- --page-order {order}")).document();
            let mrtd = value(&document, "mrtd");
            assert_eq!(mrtd, expected_mrtd(&image, order == "section"), "{}", path.display());
            for (_, page, section) in KNOWN.iter().filter(|(build, ..)| sha256.starts_with(build)) {
                let start = if order == "page" { page } else { section };
                assert!(mrtd.starts_with(start), "{}: {mrtd}", path.display());
                known += 1;
            }
        }
    }
    println!(
        "{} builds of OVMF measured, {} of them with a known MRTD: {builds:?}",
        builds.len(),
        known / 2
    );
}

#[test]
fn mrtd_changes_with_every_byte_of_the_code_and_with_none_of_the_variables() {
    let folder = Folder::new();
    let image = fs::read(folder.path("f.fd")).unwrap();
    let original = folder.mrtd(&image);
    let changed = |at: usize| {
        let mut image = image.clone();
        image[at] ^= 1;
        folder.mrtd(&image)
    };
    // The first and last byte of a chunk, of a page and of the volume, and bytes between.
    let code =
        [CFV, CFV + 255, CFV + 256, CFV + 4095, CFV + 4096, 0x8123, 0xbfff, SIZE - 0x500, SIZE - 1];
    for at in code {
        assert_ne!(changed(at), original, "{at:#x}");
    }
    for at in [0, 0x28, 0x64, 0x1000, CFV / 2, CFV - 1] {
        assert_eq!(changed(at), original, "{at:#x}");
    }
}

#[test]
fn mrtd_is_the_same_for_domains_of_any_memory_vcpus_and_disks() {
    let folder = Folder::new();
    let predicted = |domain: &Domain<'_>| folder.measure(domain, "--events").document();
    let first = predicted(&Domain::default());
    let disk = "<devices><disk type='file' device='disk'><source file='/a'/><target dev='vda'/></disk></devices>";
    for (domain, same_hob) in [
        (Domain { memory: "2", ..Domain::default() }, false),
        (Domain { vcpus: "1", ..Domain::default() }, true),
        (Domain { more: disk, ..Domain::default() }, true),
    ] {
        let other = predicted(&domain);
        assert_eq!(value(&first, "mrtd"), value(&other, "mrtd"));
        let hob = |document: &Value| item(document, "rtmr0")["events"][0]["digest"].clone();
        assert_eq!(hob(&first) == hob(&other), same_hob);
    }
}

#[test]
fn values_of_the_owner_and_attributes_are_those_of_the_definition() {
    let folder = Folder::new();
    let ones = "/".repeat(64);
    let launch = format!(
        "<launchSecurity type='tdx'><policy>0x10000001</policy><mrOwner>{ones}</mrOwner></launchSecurity>"
    );
    let document = folder.measure(&Domain { launch: &launch, ..Domain::default() }, "").document();
    assert_eq!(value(&document, "mrowner"), "ff".repeat(48));
    assert_eq!(value(&document, "mrconfigid"), "00".repeat(48));
    assert_eq!(value(&document, "mrownerconfig"), "00".repeat(48));
    assert_eq!(value(&document, "attributes"), "0100001000000000");
    assert!(document["warnings"][0].as_str().unwrap().contains("DEBUG"), "{document}");
    for register in ["rtmr0", "rtmr1", "rtmr2", "rtmr3"] {
        let rtmr = item(&document, register);
        assert_eq!((&rtmr["value"], &rtmr["certainty"]), (&Value::Null, &json!("unknown")));
        assert_eq!(rtmr["events"], json!([]));
    }
    let order: Vec<Value> =
        document["items"].as_array().unwrap().iter().map(|item| item["register"].clone()).collect();
    let names = [
        "mrtd",
        "rtmr0",
        "rtmr1",
        "rtmr2",
        "rtmr3",
        "mrconfigid",
        "mrowner",
        "mrownerconfig",
        "attributes",
    ];
    assert_eq!(order, names);
}

/// The event logs of real trust domains, as far as their events do not depend on firmware that is not here.
#[test]
fn first_events_are_those_of_a_real_log() {
    let vectors = std::env::var_os("TDX_VECTORS").map(PathBuf::from);
    let vectors = vectors.unwrap_or_else(|| repository().join("../shared/vectors"));
    let Ok(report) = fs::read_to_string(vectors.join("dstack-quote-report.json")) else {
        println!("not run: {} has no vectors", vectors.display());
        return;
    };
    let report: Value = serde_json::from_str(&report).unwrap();
    let log: Vec<Value> = serde_json::from_str(report["event_log"].as_str().unwrap()).unwrap();
    let config: Value = serde_json::from_str(report["vm_config"].as_str().unwrap()).unwrap();
    assert_eq!(config["memory_size"], 64u64 << 30);
    let digest = |event: &Value| event["digest"].as_str().map(str::to_owned);
    let logged: Vec<Option<String>> = log.iter().map(digest).collect();
    let folder = Folder::new();
    let document = folder.measure(&Domain::default(), "--events").document();
    let events = item(&document, "rtmr0")["events"].clone();
    let predicted: Vec<Option<String>> = events.as_array().unwrap().iter().map(digest).collect();
    // TD HOB; then PK, KEK, db and dbx, which are absent there and here.
    assert_eq!(predicted[0], logged[0], "{events:#}");
    assert_eq!(predicted[3..7], logged[3..7], "{events:#}");
}

#[test]
fn events_of_a_store_with_keys_are_all_predicted() {
    let folder = Folder::new();
    let variables = vec![(GLOBAL, "PK", 0x3f, vec![1, 2, 3]), (GLOBAL, "KEK", 0x3f, vec![4])];
    let image = Parts { variables, ..Parts::new() }.build();
    folder.file("f.fd", &image);
    let document = folder.measure(&Domain::default(), "--events").document();
    let events = item(&document, "rtmr0")["events"].clone();
    let events = events.as_array().unwrap();
    let names: Vec<&str> =
        events.iter().map(|event| event["description"].as_str().unwrap()).collect();
    let variables = ["SecureBoot", "PK", "KEK", "db", "dbx"].map(|name| format!("variable {name}"));
    assert_eq!(names[0..2], ["TD HOB", "configuration firmware volume (CFV)"]);
    assert_eq!(names[2..], variables);
    assert_eq!((&events[0]["variable"], &events[3]["variable"]), (&Value::Null, &json!("PK")));
    for event in events {
        assert_eq!(
            (&event["certainty"], &event["reason"]),
            (&json!("exact"), &Value::Null),
            "{event}"
        );
    }
    assert_eq!(events[1]["digest"], hex(Sha384::digest(&image[..CFV])));
    let pk =
        [&GLOBAL[..], &[2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0], b"P\0K\0", &[1, 2, 3]]
            .concat();
    assert_eq!(events[3]["digest"], hex(Sha384::digest(pk)));
    let table = folder.measure(&Domain::default(), "--events --format table");
    assert!(table.text().contains("variable PK"), "{table:?}");
}

#[test]
fn the_documents_of_other_tools_name_the_firmware() {
    let folder = Folder::new();
    let xml = Domain::default().xml(Path::new("/absent.fd"));
    let firmware = folder.path("f.fd");
    let domain = json!({"name": "td1", "xml": xml, "firmware": firmware});
    let document =
        |kind: &str| json!({"schema_version": "1.1", "kind": kind, "items": [domain]}).to_string();
    let expected = value(&folder.measure(&Domain::default(), "").document(), "mrtd");
    for input in [document("tdx.td.render"), document("tdx.td.domains"), domain.to_string()] {
        assert_eq!(value(&measure(&input, "-").document(), "mrtd"), expected, "{input}");
    }
    // The file that is named on the command line comes first, then that of the document.
    let other = folder.file("other.fd", [&vec![0; 4096][..], &Parts::new().build()].concat());
    let other = format!("- --firmware {}", other.display());
    assert_ne!(value(&measure(&document("tdx.td.render"), &other).document(), "mrtd"), expected);
    let path = folder.file("td1.xml", Domain::default().xml(&firmware));
    let file = measure("", &format!("--xml {}", path.display()));
    assert_eq!(value(&file.document(), "mrtd"), expected);

    let mut unnamed = domain.clone();
    unnamed["firmware"] = Value::Null;
    let absent = measure(&unnamed.to_string(), "-").error(4);
    assert!(absent["hint"].as_str().unwrap().contains("--firmware"), "{absent}");
    unnamed["xml"] = json!(xml.replace("<loader type='rom'>/absent.fd</loader>", ""));
    let none = measure(&unnamed.to_string(), "-").error(3);
    assert_eq!(none["message"], "the definition of domain 'td1' names no firmware");
    unnamed["xml"] = Value::Null;
    let listed = measure(&unnamed.to_string(), "-").error(3);
    assert_eq!(listed["hint"], "run tdx-td show td1 | tdx-attest measure -");
}

#[test]
fn files_that_are_no_firmware_are_refused() {
    let folder = Folder::new();
    let sparse = folder.file("sparse", "");
    fs::File::options().write(true).open(&sparse).unwrap().set_len(1 << 30).unwrap();
    let mut outside = Parts::new();
    outside.distance = 1 << 20;
    let files = [
        (folder.file("empty", ""), "is empty"),
        (sparse, "is larger than 64 MiB"),
        (folder.file("text", "not firmware"), "is not a TDVF image: the table of GUIDs is missing"),
        (folder.file("outside", outside.build()), "the TDX metadata is outside of the file"),
        (folder.0.path().to_owned(), "is not a regular file"),
        ("/dev/zero".into(), "is not a regular file"),
    ];
    for (path, says) in files {
        let refused =
            folder.measure(&Domain::default(), &format!("--firmware {}", path.display())).error(3);
        assert!(refused["message"].as_str().unwrap().contains(says), "{refused}");
    }
    let pipe = folder.path("pipe");
    make_pipe(&pipe);
    let refused =
        folder.measure(&Domain::default(), &format!("--firmware {}", pipe.display())).error(3);
    assert!(refused["message"].as_str().unwrap().ends_with("is not a regular file"), "{refused}");
    folder.measure(&Domain::default(), "--firmware /absent").error(4);
}

fn make_pipe(path: &Path) {
    let made = tools::on_path("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

#[test]
fn definitions_of_other_domains_and_wrong_command_lines_are_refused() {
    let folder = Folder::new();
    for launch in ["", "<launchSecurity type='sev'><policy>0x3</policy></launchSecurity>"] {
        let refused = folder.measure(&Domain { launch, ..Domain::default() }, "").error(3);
        let expected =
            "domain 'td1' is not a trust domain: its definition has no <launchSecurity type='tdx'>";
        assert_eq!(refused["message"], expected);
    }
    for (input, says) in [
        ("", "standard input is empty"),
        ("<network/>", "the XML describes a <network>, not a domain"),
        ("<domain", "malformed XML"),
        ("{}", "item 1 on standard input is invalid"),
        ("[]", "standard input contains 0 domains"),
    ] {
        let refused = measure(input, "-").error(3);
        assert!(refused["message"].as_str().unwrap().starts_with(says), "{refused}");
    }
    assert!(measure("", "-").error(3)["hint"].as_str().unwrap().contains("pipefail"));
    for line in ["", "- --xml a.xml", "- -", "- --firmware -", "file.xml", "- --page-order chunk"] {
        measure("<domain/>", line).error(2);
    }
}
