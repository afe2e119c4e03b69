//! The firmware that a real libvirt gives to a guest, and the firmware that `tdx-td firmware` predicts.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;

use common::xml::Document;
use serde_json::Value;

use super::rig::Rig;

/// A guest's request for firmware.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// Features as `-f` takes them.
    pub(crate) features: &'a [&'a str],
    /// Whether the guest requests firmware without variables.
    pub(crate) stateless: Option<bool>,
    pub(crate) interface: &'a str,
    pub(crate) machine: &'a str,
    /// The element of launch security, if the features need it.
    pub(crate) more: &'a str,
}

/// A guest with UEFI on a q35 machine.
pub(crate) const PLAIN: Request<'_> =
    Request { features: &[], stateless: None, interface: "uefi", machine: "q35", more: "" };

impl Request<'_> {
    /// The arguments of `tdx-td firmware`.
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["firmware".to_owned()];
        let mut flag = |flag: &str, value: &str| arguments.extend([flag.into(), value.into()]);
        flag("-i", self.interface);
        flag("-m", self.machine);
        if !self.features.is_empty() {
            flag("-f", &self.features.join(","));
        }
        if let Some(stateless) = self.stateless {
            flag("--stateless", if stateless { "yes" } else { "no" });
        }
        arguments
    }

    /// The definition of a domain that requests such firmware from libvirt.
    fn xml(&self) -> String {
        let split = |feature: &&str| match feature.strip_prefix("no-") {
            Some(name) => (name.to_owned(), "no"),
            None => ((*feature).to_owned(), "yes"),
        };
        let features: Vec<_> = self.features.iter().map(split).collect();
        // The features that libvirt's <firmware> knows; <pm> and launch security express the others.
        let known =
            features.iter().filter(|(name, _)| matches!(&**name, "secure-boot" | "enrolled-keys"));
        let known: String =
            known.map(|(name, on)| format!("<feature enabled='{on}' name='{name}'/>")).collect();
        let firmware =
            if known.is_empty() { known } else { format!("<firmware>{known}</firmware>") };
        let sleeps = features.iter().any(|(name, on)| name == "acpi-s3" && *on == "yes");
        let pm = if sleeps { "<pm><suspend-to-mem enabled='yes'/></pm>" } else { "" };
        let loader = self.stateless.map(|stateless| if stateless { "yes" } else { "no" });
        let loader = loader.map(|stateless| format!("<loader stateless='{stateless}'/>"));
        let (kind, cpu) = match self.more.contains("launchSecurity") {
            true => ("kvm", "<cpu mode='host-passthrough'/>"),
            false => ("qemu", ""),
        };
        let interface = if self.interface == "uefi" { "efi" } else { self.interface };
        format!(
            "<domain type='{kind}'><name>choice</name><memory unit='MiB'>64</memory>\
             <os firmware='{interface}'><type arch='x86_64' machine='{}'>hvm</type>{firmware}{}</os>\
             <features><acpi/><apic/></features>{cpu}{pm}{}</domain>",
            self.machine,
            loader.unwrap_or_default(),
            self.more,
        )
    }
}

/// Fails unless libvirt gives a domain the firmware that the tool predicts. The domain is defined, and
/// started if libvirt chooses only then. Returns the firmware.
#[track_caller]
pub(crate) fn compare(rig: &Rig, request: &Request<'_>) -> Option<String> {
    let ours = chosen(&rig.tool("tdx-td", request.arguments()).document());
    assert_eq!(ours, given(rig, request), "{request:?}");
    ours
}

/// Like [`compare`], unless the file of the build is missing, which libvirt does not notice.
#[track_caller]
pub(crate) fn compare_started(rig: &Rig, request: &Request<'_>) {
    let ours = chosen(&rig.tool("tdx-td", request.arguments()).document());
    if ours.is_none_or(|path| rig.path(&path).exists()) {
        compare(rig, request);
    }
}

/// The path of the build that the document predicts.
fn chosen(document: &Value) -> Option<String> {
    let mut items = document["items"].as_array().unwrap().iter();
    let item = items.find(|item| item["chosen"] == true)?;
    Some(item["executable"]["path"].as_str().unwrap().to_owned())
}

/// The firmware in the definition that libvirt completes; none if libvirt refuses the domain.
fn given(rig: &Rig, request: &Request<'_>) -> Option<String> {
    fs::write(rig.scratch().join("choice.xml"), request.xml()).unwrap();
    // Newer versions of libvirt choose when the domain is defined, older ones when it starts.
    let choose = "virsh -q define choice.xml && \
        { virsh dumpxml --inactive choice | grep '</loader>' >/dev/null || \
        virsh -q start --paused choice; } && virsh dumpxml choice";
    let choice = rig.shell(choose);
    rig.shell("virsh destroy choice; virsh undefine --nvram choice");
    if choice.status != Some(0) {
        return None;
    }
    let document = Document::parse(choice.stdout).unwrap();
    let given = ["os/loader", "os/kernel"].into_iter().find_map(|at| document.root().text_at(at));
    Some(given.unwrap_or_else(|| panic!("no firmware: {}", document.text())))
}

/// Compares the predictions with the firmware in the QEMU arguments that libvirt would use for each of these
/// requests, without starting a guest.
///
/// Returns how often libvirt gave firmware.
#[track_caller]
pub(crate) fn compare_arguments(rig: &Rig, requests: &[Request<'_>]) -> usize {
    let folder = rig.scratch().join("requests");
    fs::create_dir_all(&folder).unwrap();
    for (number, request) in requests.iter().enumerate() {
        fs::write(folder.join(format!("{number}.xml")), request.xml()).unwrap();
        fs::write(folder.join(format!("{number}.args")), request.arguments().join("\n")).unwrap();
    }
    let ask = "for xml in requests/*.xml; do request=${xml%.xml}; \
        virsh -q domxml-to-native qemu-argv $xml >$request.argv 2>$request.error; \
        xargs tdx-td <$request.args >$request.json || exit; done";
    rig.shell(ask).text();
    let mut given = 0;
    for (number, request) in requests.iter().enumerate() {
        let read = |kind| fs::read_to_string(folder.join(format!("{number}.{kind}"))).unwrap();
        let document: Value = serde_json::from_str(&read("json")).unwrap();
        let (ours, theirs) = (chosen(&document), in_arguments(&read("argv")));
        let error = read("error");
        assert_eq!(ours, theirs, "{request:?}\n{error}{:#}", document["warnings"]);
        // If no build fits, the document says why.
        let warnings = document["warnings"].to_string();
        assert!(
            ours.is_some()
                || warnings.contains("libvirt chooses")
                || warnings.contains("libvirt refuses to choose firmware")
                || warnings.contains("have no descriptor of"),
            "{document}"
        );
        given += usize::from(ours.is_some());
    }
    fs::remove_dir_all(&folder).unwrap();
    given
}

/// The firmware among QEMU's arguments.
fn in_arguments(argv: &str) -> Option<String> {
    let after = |word: &str| argv.split_once(word).map(|(_, rest)| rest);
    let word = |rest: &str| rest.split_whitespace().next().map(str::to_owned);
    let flash =
        argv.split_whitespace().find(|word| word.contains("\"libvirt-pflash0-storage\",\""));
    let file = flash.and_then(|flash| flash.split_once("\"filename\":\""));
    file.and_then(|(_, rest)| rest.split_once('"'))
        .map(|(path, _)| path.to_owned())
        .or_else(|| after(" -bios ").and_then(word))
        .or_else(|| after(" -kernel ").and_then(word))
}

/// The loaders that libvirt lists for a machine type; none if libvirt refuses to list them.
pub(crate) fn listed(rig: &Rig, machine: &str) -> Option<Vec<String>> {
    let asked = rig.shell(&format!("virsh domcapabilities --machine {machine} --virttype qemu"));
    let document = (asked.status == Some(0)).then(|| Document::parse(asked.stdout).unwrap())?;
    let values = document.root().find_all("os/loader/value").map(|value| value.text());
    let mut values: Vec<String> = values.collect();
    values.sort_unstable();
    Some(values)
}

/// The loaders that libvirt should list, according to the descriptors that the tool reads.
pub(crate) fn expected(rig: &Rig, machine: &str) -> Vec<String> {
    let document = rig.tool("tdx-td", ["firmware", "-a", "x86_64", "-m", machine]).document();
    let items = document["items"].as_array().unwrap().iter();
    let loader = |item: &&Value| item["device"] == "flash" || item["device"] == "memory";
    let paths = items.filter(loader).map(|item| item["executable"]["path"].as_str().unwrap());
    let mut paths: Vec<String> =
        paths.filter(|path| rig.path(path).exists()).map(str::to_owned).collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}
