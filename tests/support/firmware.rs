//! Which firmware a real libvirt takes, and which one we say it takes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use common::host::Host;
use common::xml::Document;
use tdx_td::firmware::select;
use tdx_td::firmware::selection::{Feature, Wanted};

use crate::support::Rig;

/// What is asked for: features as `-f` takes them, whether variables are kept, and more of the domain.
#[derive(Debug)]
pub(crate) struct Case<'a> {
    pub(crate) features: &'a [&'a str],
    pub(crate) stateless: Option<bool>,
    pub(crate) machine: &'a str,
    pub(crate) more: &'a str,
}

/// Defines a domain that asks for firmware, lets libvirt choose, and compares with our choice.
#[track_caller]
pub(crate) fn compare(rig: &Rig, case: &Case<'_>) -> Option<String> {
    let mut wanted = Wanted { stateless: case.stateless, ..Wanted::uefi() };
    wanted.machine = Some(case.machine.to_owned());
    wanted.features = case.features.iter().map(|feature| Feature::parse(feature)).collect();
    let host = Host::new(rig.path("/"));
    let ours = select(&host, &wanted).unwrap();
    let ours = ours.map(|descriptor| descriptor.executable.path.to_str().unwrap().to_owned());
    assert_eq!(ours, chosen(rig, case, &wanted), "{case:?}");
    ours
}

/// The loader that libvirt puts into a definition; none when it finds no firmware.
fn chosen(rig: &Rig, case: &Case<'_>, wanted: &Wanted) -> Option<String> {
    // What libvirt's <firmware> knows; launch security stands for the others.
    let known = |f: &&Feature| matches!(&*f.name, "secure-boot" | "enrolled-keys");
    let features = wanted.features.iter().filter(known).map(|feature| {
        let enabled = if feature.present { "yes" } else { "no" };
        format!("<feature enabled='{enabled}' name='{}'/>", feature.name)
    });
    let features: String = features.collect();
    let firmware = match features.is_empty() {
        true => String::new(),
        false => format!("<firmware>{features}</firmware>"),
    };
    let loader = case.stateless.map(|stateless| {
        let stateless = if stateless { "yes" } else { "no" };
        format!("<loader stateless='{stateless}'/>")
    });
    let kind = if case.more.contains("launchSecurity") { "kvm" } else { "qemu" };
    let xml = format!(
        "<domain type='{kind}'><name>choice</name><memory unit='MiB'>64</memory>\
         <os firmware='efi'><type arch='x86_64' machine='{}'>hvm</type>{firmware}{}</os>\
         <features><acpi/><apic/></features><cpu mode='host-passthrough'/>{}</domain>",
        case.machine,
        loader.unwrap_or_default(),
        case.more,
    )
    .replace(if kind == "qemu" { "<cpu mode='host-passthrough'/>" } else { "<none/>" }, "");
    std::fs::write(rig.scratch().join("choice.xml"), xml).unwrap();
    // Newer ones choose when the domain is defined, older ones when it starts.
    let choose = "virsh -q define choice.xml && \
        { virsh dumpxml --inactive choice | grep '</loader>' >/dev/null || \
        virsh -q start --paused choice; } && virsh dumpxml choice";
    let choice = rig.shell(choose);
    rig.shell("virsh destroy choice; virsh undefine --nvram choice");
    if choice.status != Some(0) {
        assert!(choice.stderr.contains("Unable to find"), "{choice:#?}");
        return None;
    }
    let document = Document::parse(choice.stdout).unwrap();
    let loader = document.root().text_at("os/loader");
    Some(loader.unwrap_or_else(|| panic!("no loader: {}", document.text())))
}
