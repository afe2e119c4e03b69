//! Trust domains on a libvirt that knows them (rig 3): everything real but the encryption.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;

use serde_json::{Value, json};
use tdx_td::capability::{Security, VirtType};

use crate::support::firmware::{PLAIN, Request, compare};
use crate::support::odd_firmware::{Loaders, OddDirectories, compare_choices};
use crate::support::plain_guest;
use crate::support::rig::{Rig, guest_image};
use crate::support::template::{CANONICAL, canonical, without};
use crate::support::tools::{self, repository};
use crate::support::tree::{Spec, Tree};

const OWNER: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\
    202122232425262728292a2b2c2d2e2f";
const OWNER_BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v";

fn rig_with_image() -> Rig {
    let rig = Rig::start_tdx();
    rig.tool("tdx-pool", ["import".as_ref(), guest_image(false).as_os_str()]).document();
    rig
}

fn new<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let basic = ["new", "-i", "guest.qcow2", "--memory", "512M", "--vcpus", "1", "--name", "td1"];
    [&basic, more].concat()
}

/// The arguments that libvirt gave QEMU.
fn argv(rig: &Rig) -> Vec<String> {
    argv_of(rig, "td1")
}

fn argv_of(rig: &Rig, domain: &str) -> Vec<String> {
    let text =
        fs::read_to_string(rig.path(&format!("/var/log/libvirt/qemu-argv/{domain}"))).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn launch_object(argv: &[String]) -> Value {
    let mut objects = argv.iter().filter_map(|a| serde_json::from_str::<Value>(a).ok());
    objects.find(|object| object["qom-type"] == "tdx-guest").unwrap()
}

#[test]
#[ignore = "needs root"]
fn a_trust_domain_lives_and_leaves_no_trace() {
    let rig = rig_with_image();
    let before = rig.state();
    let flags =
        ["--mr-owner", OWNER, "--td-debug", "--qgs", "/run/qgs.socket", "--wait", "ip", "--json"];
    let made = rig.tool("tdx-td", new(&flags)).document();
    let item = &made["items"][0];
    assert_eq!((&item["security"], &item["state"]), (&"tdx".into(), &"running".into()));
    assert!(item["ip"].as_str().unwrap().starts_with("192.168.122."), "{item}");
    let warnings = made["warnings"].to_string();
    assert!(warnings.contains("--td-debug") && warnings.contains("/run/qgs.socket"), "{warnings}");

    let argv = argv(&rig);
    let object = launch_object(&argv);
    assert_eq!(object["attributes"], 0x1000_0001);
    assert_eq!(object["mrowner"], OWNER_BASE64);
    assert_eq!(object["quote-generation-socket"]["path"], "/run/qgs.socket");
    assert_eq!(object.get("mrconfigid"), None);
    let machine = argv.iter().find(|a| a.contains("confidential-guest-support=lsec0")).unwrap();
    assert!(machine.contains("kernel_irqchip=split"), "{machine}");
    assert!(argv.iter().any(|a| a.contains("inteltdx")), "no TDX firmware: {argv:?}");
    assert!(!argv.iter().any(|a| a.contains("balloon")), "a balloon: {argv:?}");

    // The same again is nothing to do; other launch values are another domain.
    let again = rig.tool("tdx-td", new(&flags)).document();
    assert_eq!(again["changed"], false);
    let other = rig.tool("tdx-td", new(&["--mr-owner", OWNER])).error(5);
    assert!(other["message"].as_str().unwrap().contains("td_policy"), "{other}");

    assert_eq!(rig.tool("tdx-td", ["list"]).item()["security"], "tdx");
    assert_eq!(rig.tool("tdx-td", ["stop", "td1"]).item()["action"], "stop");
    assert_eq!(rig.tool("tdx-td", ["start", "td1"]).item()["action"], "start");
    // Deleted while it boots: the power button is pressed until the guest hears it.
    assert_eq!(rig.tool("tdx-td", ["delete", "td1", "--yes"]).item()["forced"], false);
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn an_ordinary_guest_gets_ordinary_firmware() {
    let rig = rig_with_image();
    let flags = ["--security", "none", "--virt-type", "qemu", "--wait", "ip"];
    assert_eq!(rig.tool("tdx-td", new(&flags)).item()["security"], "none");
    let xml = rig.virsh(["dumpxml", "td1"]);
    assert!(xml.contains("<nvram"), "no firmware variables of its own: {xml}");
    assert!(!xml.contains("amdsev"), "{xml}");
    rig.tool("tdx-td", ["delete", "td1", "--yes"]).document();
}

/// The host that looks as if it had TDX has it to the end of the chain, and loses it link by link.
#[test]
#[ignore = "needs root"]
fn the_host_is_judged_as_it_is() {
    let rig = Rig::start_tdx();
    let failures = |status| {
        let document = rig.tool("tdx-td", ["host", "check", "--for", "tdx"]).answer(status);
        let items = document["items"].as_array().unwrap().iter();
        let failed = items.filter(|item| item["status"] == "fail");
        failed.map(|item| item["code"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(failures(0), [""; 0]);
    fs::write(rig.path("/sys/fs/cgroup/misc.current"), "tdx 15\n").unwrap();
    assert_eq!(failures(10), ["TDX_KEYS"]);
    fs::write(rig.path("/sys/fs/cgroup/misc.current"), "tdx 0\n").unwrap();
    fs::write(rig.path("/sys/module/kvm_intel/parameters/tdx"), "N\n").unwrap();
    rig.shell("rm -f /var/cache/libvirt/qemu/capabilities/*").text();
    rig.libvirtd("restart");
    assert_eq!(failures(10), ["KVM_INTEL_TDX"]);
    let cpuinfo = fs::read_to_string(rig.path("/proc/cpuinfo")).unwrap();
    fs::write(rig.path("/proc/cpuinfo"), cpuinfo.replace(" tdx_host_platform", "")).unwrap();
    assert_eq!(failures(10), ["CPU_TDX", "KVM_INTEL_TDX"]);
    rig.libvirtd("stop");
    assert_eq!(failures(10), ["CPU_TDX", "KVM_INTEL_TDX", "LIBVIRT"]);
}

/// A libvirt that knows trust domains takes the firmware that we say it takes.
#[test]
#[ignore = "needs root"]
fn libvirt_chooses_the_firmware_that_we_choose() {
    let rig = Rig::start_tdx();
    let choose =
        |features, stateless, more| compare(&rig, &Request { features, stateless, more, ..PLAIN });
    let plain = choose(&[], None, "").unwrap();
    assert_eq!(choose(&["secure-boot"], None, ""), Some(plain));
    let keyless = choose(&["secure-boot", "no-enrolled-keys"], None, "");
    let insecure = choose(&["no-secure-boot"], Some(false), "");
    assert!(keyless.is_some() && insecure.is_some() && keyless != insecure);
    choose(&["no-secure-boot"], None, "");
    choose(&["no-secure-boot"], Some(true), "");
    let tdx = choose(&["intel-tdx"], None, "<launchSecurity type='tdx'/>").unwrap();
    assert!(tdx.contains("inteltdx"), "{tdx}");

    let item = rig.tool("tdx-td", ["firmware", "-f", "intel-tdx"]).item();
    assert_eq!((&item["executable"]["path"], &item["offered"]), (&json!(tdx), &json!(true)));
    assert_eq!((&item["device"], &item["usable"]), (&json!("memory"), &json!(true)));
    // The administrator replaces it by one of the same name, and libvirt has to follow.
    let replace = "mkdir -p /etc/qemu/firmware && cp /usr/share/ovmf/OVMF.inteltdx*.fd /srv/ours.fd && \
        sed 's|/usr/share/ovmf/[^\"]*|/srv/ours.fd|' /usr/share/qemu/firmware/$1 >/etc/qemu/firmware/$1";
    rig.shell(&replace.replace("$1", item["name"].as_str().unwrap())).text();
    let ours = choose(&["intel-tdx"], None, "<launchSecurity type='tdx'/>");
    assert_eq!(ours.as_deref(), Some("/srv/ours.fd"));
    // It masks it, and there is none.
    rig.shell(&format!(": >/etc/qemu/firmware/{}", item["name"])).text();
    assert_eq!(choose(&["intel-tdx"], None, "<launchSecurity type='tdx'/>"), None);
}

/// What guests ask of firmware, trust domains among them.
const REQUESTS: [Request<'_>; 14] = [
    PLAIN,
    Request { stateless: Some(true), ..PLAIN },
    Request { stateless: Some(false), ..PLAIN },
    Request { features: &["secure-boot"], ..PLAIN },
    Request { features: &["no-secure-boot"], ..PLAIN },
    Request { features: &["secure-boot", "no-enrolled-keys"], ..PLAIN },
    Request { features: &["no-secure-boot", "no-enrolled-keys"], stateless: Some(false), ..PLAIN },
    Request { features: &["acpi-s3"], ..PLAIN },
    Request { machine: "pc", ..PLAIN },
    Request { interface: "bios", ..PLAIN },
    Request { interface: "bios", stateless: Some(true), ..PLAIN },
    Request { features: &["intel-tdx"], more: TDX, ..PLAIN },
    Request { features: &["intel-tdx"], stateless: Some(true), more: TDX, ..PLAIN },
    Request { features: &["intel-tdx", "no-secure-boot"], more: TDX, ..PLAIN },
];

const TDX: &str = "<launchSecurity type='tdx'/>";

/// Over odd directories we list the loaders that a new libvirt lists, and choose the build that it gives.
#[test]
#[ignore = "needs root"]
fn the_choice_over_odd_directories_is_libvirts() {
    compare_choices(&Rig::start_tdx(), &REQUESTS, Loaders::Described);
}

#[test]
#[ignore = "needs root"]
fn a_stateless_build_with_an_nvram_template_is_the_one_libvirt_takes() {
    let rig = Rig::start_tdx();
    let directories = OddDirectories::mount(&rig);
    let text = directories.flash("amdsev.fd", "stateless", &["amd-sev"]);
    fs::write(directories.admin().join("50-amdsev.json"), text).unwrap();
    let item = rig.tool("tdx-td", ["firmware", "-f", "amd-sev"]).item();
    assert_eq!((&item["offered"], &item["chosen"]), (&json!(true), &json!(true)), "{item}");
    for stateless in [None, Some(true)] {
        let given = compare(&rig, &Request { stateless, ..PLAIN });
        assert_eq!(given.as_deref(), item["executable"]["path"].as_str());
    }
    assert_eq!(compare(&rig, &Request { stateless: Some(false), ..PLAIN }), None);
}

#[test]
#[ignore = "needs root"]
fn a_gpu_comes_by_iommufd_where_the_kernel_has_it() {
    let rig = rig_with_image();
    let mut host = Tree::below(rig.scratch());
    let resource = "0x0000204000000000 0x0000204000ffffff 0x000000000014220c\n\
        0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
        0x0000200000000000 0x0000201fffffffff 0x000000000014220c";
    let more = [("resource", resource), ("reset_method", "flr bus")];
    let (ids, class) = ("10de:2330:10de:16c1", "030200");
    host.device(
        "0000:17",
        "0000:17:00.0",
        Spec { ids, class, driver: "nvidia", group: Some(7), more: &more },
    );
    let root = host.path("");
    let render = |more: &[&str]| {
        let words = [
            "--sysroot",
            root.to_str().unwrap(),
            "render",
            "-i",
            "guest.qcow2",
            "--memory",
            "512M",
        ];
        let device = ["--vcpus", "1", "--name", "gpu", "--gpus", "17:00.0"];
        rig.tool("tdx-td", [&words[..], &device, more].concat())
    };
    // Whoever does not say otherwise wants it protected, which takes NVIDIA's program.
    assert!(render(&[]).error(6)["message"].as_str().unwrap().contains("nvidia_gpu_tools"));
    let xml = |run: &tools::Run| run.item()["xml"].as_str().unwrap().to_owned();
    let by_group = xml(&render(&["--cc", "leave"]));
    assert!(!by_group.contains("iommufd"), "{by_group}");
    host.file("dev/iommu", "");
    let rendered = render(&["--cc", "leave"]);
    let by_iommufd = xml(&rendered);
    assert!(by_iommufd.contains("<driver iommufd='yes'/>"), "{by_iommufd}");
    assert!(by_iommufd.contains("<pcihole64 unit='KiB'>268435456</pcihole64>"), "{by_iommufd}");
    assert!(rendered.document()["warnings"].to_string().contains("256 GiB of addresses"));
    for xml in [by_group, by_iommufd] {
        fs::write(rig.scratch().join("gpu.xml"), xml).unwrap();
        rig.shell("virsh define --validate gpu.xml && virsh undefine gpu --nvram").text();
    }
}

#[test]
#[ignore = "needs root"]
fn every_missing_link_has_its_own_words() {
    let rig = rig_with_image();
    let before = rig.state();
    let refused = |says: &str| {
        let error = rig.tool("tdx-td", new(&[])).error(6);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(says), "{message:?} lacks {says:?}");
        assert!(!error["hint"].is_null(), "{error}");
    };
    fs::write(rig.path("/sys/fs/cgroup/misc.current"), "tdx 15\n").unwrap();
    refused("all 15 TDX key ids of this host are in use");
    fs::write(rig.path("/sys/fs/cgroup/misc.current"), "tdx 14\n").unwrap();
    rig.tool("tdx-td", new(&[])).document();
    // One that is there needs no other.
    fs::write(rig.path("/sys/fs/cgroup/misc.current"), "tdx 15\n").unwrap();
    assert_eq!(rig.tool("tdx-td", new(&[])).document()["changed"], false);
    rig.tool("tdx-td", ["delete", "td1", "--yes", "--timeout", "0"]).document();

    let look_again = || {
        rig.shell("rm -f /var/cache/libvirt/qemu/capabilities/*").text();
        rig.libvirtd("restart");
    };
    fs::write(rig.path("/run/rig/host/no-tdx-guest"), "").unwrap();
    look_again();
    refused("QEMU has none");
    fs::remove_file(rig.path("/run/rig/host/no-tdx-guest")).unwrap();
    fs::write(rig.path("/sys/module/kvm_intel/parameters/tdx"), "N\n").unwrap();
    look_again();
    refused("kvm_intel.tdx is off");
    let cpuinfo = fs::read_to_string(rig.path("/proc/cpuinfo")).unwrap();
    fs::write(rig.path("/proc/cpuinfo"), cpuinfo.replace(" tdx_host_platform", "")).unwrap();
    refused("the BIOS or the processor does not offer it");
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn wrong_launch_values_are_refused_before_libvirt_sees_them() {
    let rig = rig_with_image();
    let before = rig.state();
    for (flags, status) in [
        (&["--mr-config-id", "00"][..], 3),
        (&["--mr-owner", &OWNER[2..]], 3),
        (&["--mr-owner-config", "not hex!"], 3),
        (&["--qgs", "relative.socket"], 2),
        (&["--sept-ve-disable", "maybe"], 2),
        (&["--virt-type", "qemu"], 2),
        (&["--security", "none", "--td-debug"], 2),
    ] {
        rig.tool("tdx-td", new(flags)).error(status);
    }
    // A trust domain's memory cannot be more than the host's; what it would be is still shown.
    let much = ["-i", "guest.qcow2", "--memory", "9999G", "--vcpus", "1"];
    let error = rig.tool("tdx-td", [&["new"][..], &much].concat()).error(6);
    assert!(error["message"].as_str().unwrap().ends_with("9.76 TiB were asked for"), "{error}");
    let shown = rig.tool("tdx-td", [&["render"][..], &much].concat()).document();
    assert!(shown["warnings"].to_string().contains("9.76 TiB were asked for"), "{shown}");
    assert_eq!(rig.state(), before);
}

/// `tdx-td new -t TEMPLATE` for a small guest.
fn from_template<'a>(template: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let basic = ["new", "-i", "guest.qcow2", "-t", template, "--memory", "512M", "--vcpus", "1"];
    [&basic, more].concat()
}

#[test]
#[ignore = "needs root"]
fn original_starts_with_fix_template_and_is_refused_without() {
    let rig = rig_with_image();
    let before = rig.state();
    for name in CANONICAL {
        let file = format!("{name}.xml.template");
        rig.template(&file, &canonical(name));
        let refused = rig.tool("tdx-td", from_template(&file, &[])).error(3);
        let message = refused["message"].as_str().unwrap();
        assert!(message.contains("element domain/allowReboot (line 2)"), "{message}");
        assert!(message.contains("attribute enable of domain/pm/suspend-to-mem"), "{message}");
        assert_eq!(message.contains("SocketAddress"), name != "regular_vm", "{message}");
        let render =
            ["render", "-i", "guest.qcow2", "-t", &file, "--memory", "512M", "--vcpus", "1"];
        assert_eq!(rig.tool("tdx-td", render).error(3), refused);
        assert!(refused["hint"].as_str().unwrap().contains("--fix-template"), "{refused}");
    }
    if !std::path::Path::new("/dev/vhost-vsock").exists() {
        let file = "trust_domain.xml.template";
        let refused = rig.tool("tdx-td", from_template(file, &["--fix-template"])).error(6);
        assert_eq!(refused["hint"], "modprobe vhost_vsock");
    }

    // This machine may have no vhost-vsock; all else is as it was.
    for name in CANONICAL {
        let file = format!("{name}.xml.template");
        rig.template(&file, &without(&canonical(name), "vsock"));
        let made = rig.tool("tdx-td", from_template(&file, &["--fix-template"])).document();
        let item = &made["items"][0];
        let domain = item["name"].as_str().unwrap();
        let uuid = item["uuid"].as_str().unwrap();
        assert_eq!(domain, format!("tdvirsh-{name}-{uuid}"));
        assert_eq!((&item["memory_bytes"], &item["vcpus"]), (&json!(512 << 20), &json!(1)));
        assert_eq!(item["ssh"], json!({"host": "127.0.0.1", "port": 2201}));
        let warnings = made["warnings"].to_string();
        assert!(warnings.contains("element domain/allowReboot (line 2) was removed"), "{warnings}");
        assert_eq!(warnings.matches("became enabled").count(), 2, "{warnings}");
        assert!(warnings.contains("hostfwd=tcp:127.0.0.1:2201-:22"), "{warnings}");

        let argv = argv_of(&rig, domain);
        let secure = name != "regular_vm";
        assert_eq!(item["security"], if secure { "tdx" } else { "none" });
        if secure {
            assert_eq!(launch_object(&argv)["attributes"], 0x1000_0000);
            let socket = &launch_object(&argv)["quote-generation-socket"];
            assert_eq!(socket["path"], "/var/run/tdx-qgs/qgs.socket");
            assert!(argv.iter().any(|a| a.contains("inteltdx")), "no TDX firmware: {argv:?}");
            assert!(!argv.iter().any(|a| a.contains("balloon")), "a balloon: {argv:?}");
        }
        // The port is the definition's: it is the same after a restart, and nobody else's.
        rig.tool("tdx-td", ["stop", domain, "--force", "--yes"]).document();
        let other = rig.tool("tdx-td", from_template(&file, &["--fix-template"])).item();
        assert_eq!(other["ssh"]["port"], 2202);
        assert_eq!(rig.tool("tdx-td", ["start", domain]).item()["action"], "start");
        assert_eq!(rig.tool("tdx-td", ["show", domain]).item()["ssh"], item["ssh"]);
        rig.tool("tdx-td", ["delete", "--all", "--yes", "--timeout", "0"]).document();
        assert_eq!(rig.state(), before);
    }
    // A guest of such a template boots, is found and shut down.
    let flags = ["--fix-template", "--name", "td1", "--wait", "ip"];
    rig.tool("tdx-td", from_template("trust_domain-sb.xml.template", &flags)).document();
    assert_eq!(rig.tool("tdx-td", ["delete", "td1", "--yes"]).item()["forced"], false);
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn an_upstream_template_is_taken_as_it_is() {
    let rig = rig_with_image();
    let before = rig.state();
    let template = repository().join("examples/templates/trust_domain.xml");
    let template = template.to_str().unwrap();
    let owner = "stat -c '%a %U' /var/lib/libvirt/images/guest.qcow2";
    let base = rig.shell(owner).text().to_owned();
    let named = ["--name", "td1"];
    let made = rig.tool("tdx-td", from_template(template, &named)).document();
    assert_eq!(made["items"][0]["security"], "tdx");
    assert_eq!(rig.shell(owner).text(), base, "the base image changed hands");
    let again = rig.tool("tdx-td", from_template(template, &named)).document();
    assert_eq!(again["changed"], false);
    let other = ["--name", "td1", "--disk-size", "8G"];
    let other = rig.tool("tdx-td", from_template(template, &other)).error(5);
    assert!(other["message"].as_str().unwrap().contains("disk_size_bytes"), "{other}");

    let text = fs::read_to_string(template).unwrap();
    let changed = rig.template("changed.xml", &text.replace("utc", "localtime"));
    let changed = rig.tool("tdx-td", from_template(changed.to_str().unwrap(), &named)).error(5);
    assert!(changed["message"].as_str().unwrap().contains("text is another now"), "{changed}");
    rig.tool("tdx-td", ["delete", "td1", "--yes", "--timeout", "0"]).document();
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn what_a_trust_domain_cannot_have_is_refused() {
    let rig = rig_with_image();
    let before = rig.state();
    let text =
        fs::read_to_string(repository().join("examples/templates/trust_domain.xml")).unwrap();
    let acpi = "<acpi/>";
    for (from, to, says) in [
        ("<boot dev='hd'/>", "<loader type='pflash'>/x.fd</loader>", "pflash"),
        (acpi, "<acpi/><smm state='on'/>", "smm"),
        (acpi, "<acpi/><pmu state='on'/>", "pmu"),
        ("driver='qemu'", "driver='kvm'", "ioapic"),
        ("host-passthrough", "host-model", "CPU"),
        ("<devices>", "<memoryBacking><hugepages/></memoryBacking><devices>", "hugepages"),
        ("model='none'", "model='virtio'", "balloon"),
        ("<cpu mode='host-passthrough'/>", "", "CPU"),
        (acpi, "<acpi/><smm/>", "smm"),
        ("<devices>", "<devices><iommu model='intel'/>", "IOMMU"),
        ("0x10000000", "0x10000002", "policy"),
    ] {
        assert!(text.contains(from), "{from}");
        rig.template("bad.xml", &text.replace(from, to));
        let refused = rig.tool("tdx-td", from_template("bad.xml", &[])).error(3);
        assert!(refused["message"].as_str().unwrap().contains(says), "{says}: {refused}");
    }
    // Firmware of one's own stays, also where other things are translated.
    let own = text.replace(" firmware='efi'", "");
    rig.template("own.xml", &own.replace("<boot dev='hd'/>", "<loader type='rom'>/my.fd</loader>"));
    let line = ["render", "-i", "guest.qcow2", "-t", "own.xml", "--memory", "512M", "--xml"];
    let kept = rig.tool("tdx-td", [&line[..], &["--fix-template"]].concat());
    assert!(kept.text().contains("/my.fd"), "{kept:#?}");
    // What only libvirt knows comes from its validation, and leaves nothing either.
    rig.template("bad.xml", &text.replace("<acpi/>", "<acpi/><nonsense/>"));
    rig.tool("tdx-td", from_template("bad.xml", &[])).error(3);
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn a_port_of_the_host_leads_to_ssh() {
    let rig = rig_with_image();
    let before = rig.state();
    let made = rig.tool("tdx-td", new(&["--ssh-port", "auto"])).item();
    assert_eq!(made["ssh"], json!({"host": "127.0.0.1", "port": 2201}));
    let xml = rig.virsh(["dumpxml", "td1"]);
    assert!(xml.contains("type='passt'") && !xml.contains("qemu:"), "{xml}");
    rig.shell("exec 3<>/dev/tcp/127.0.0.1/2201").text();
    let again = rig.tool("tdx-td", new(&["--ssh-port", "auto"])).document();
    assert_eq!(again["changed"], false);

    let taken = "tdx-td new -i guest.qcow2 --name td2 --memory 512M --vcpus 1 --ssh-port 2201";
    let refused = rig.shell(taken).error(5);
    assert!(refused["message"].as_str().unwrap().contains("domain 'td1'"), "{refused}");
    rig.tool("tdx-td", ["delete", "td1", "--yes", "--timeout", "0"]).document();
    assert_eq!(rig.state(), before);
}

/// Every subset of the optional values, in `values`' order.
fn subsets<T: Copy>(values: &[T]) -> impl Iterator<Item = Vec<T>> {
    (0..1u32 << values.len()).map(|chosen| {
        let taken = values.iter().enumerate().filter(|(i, _)| chosen >> i & 1 == 1);
        taken.map(|(_, value)| *value).collect()
    })
}

#[test]
#[ignore = "needs root"]
fn every_combination_of_launch_values_is_valid() {
    let rig = rig_with_image();
    let before = rig.state();
    let mut count = 0;
    let optional = [
        &["--td-debug"][..],
        &["--sept-ve-disable", "off"],
        &["--mr-config-id", OWNER],
        &["--mr-owner", OWNER],
        &["--mr-owner-config", OWNER],
    ];
    for (index, flags) in subsets(&optional).enumerate() {
        let qgs = [&["--qgs", "none"][..], &["--qgs", "/run/q.sock"], &[]][index % 3];
        let line = [&["render", "-i", "guest.qcow2", "--xml"][..], &flags.concat(), qgs].concat();
        let xml = rig.tool("tdx-td", line).text().to_owned();
        fs::write(rig.scratch().join(format!("tdx{index}.xml")), xml).unwrap();
        count += 1;
    }
    assert_eq!(count, 32);
    // libvirt's own answer, for each: defined, and what it made of it holds what was asked for.
    let define = "for x in tdx*.xml; do virsh -q define --validate $x >/dev/null || echo bad $x; \
        name=$(sed -n 's|.*<name>\\(.*\\)</name>.*|\\1|p' $x); \
        for value in policy mrConfigId mrOwner mrOwnerConfig quoteGenerationService; do \
        [ \"$(grep -c \"<$value\" $x)\" = \"$(virsh dumpxml $name | grep -c \"<$value\")\" ] || \
        echo lost $value in $x; done; virsh -q undefine --nvram $name; done";
    assert_eq!(rig.shell(define).text(), "");
    assert_eq!(rig.state(), before);
}

/// The definitions of AMD SEV guests, which this host cannot even plan, by the schema alone.
#[test]
#[ignore = "needs root"]
fn sev_definitions_are_valid() {
    let rig = rig_with_image();
    let host_data = "00".repeat(32);
    let (block, auth) = ("00".repeat(96), "00".repeat(4096));
    fs::write(rig.scratch().join("cert"), "certificate").unwrap();
    let cert = rig.scratch().join("cert");
    let cert = cert.to_str().unwrap();
    let early = [&["--sev-dh-cert", cert][..], &["--sev-session", cert]];
    let snp = [
        &["--snp-host-data", &host_data][..],
        &["--snp-id-block", &block, "--snp-id-auth", &auth],
        &["--snp-vcek", "off"],
    ];
    let policies =
        [("sev", "0x1", &early[..]), ("sev-es", "0x5", &early), ("sev-snp", "0x30000", &snp)];
    let mut count = 0;
    for (security, policy, optional) in policies {
        for flags in subsets(optional) {
            for policy in [&[][..], &["--sev-policy", policy]] {
                let xml = sev_xml(security, &[&flags.concat(), policy].concat());
                fs::write(rig.scratch().join(format!("sev{count}.xml")), xml).unwrap();
                count += 1;
            }
        }
    }
    assert_eq!(count, 32);
    let define = "for x in sev*.xml; do \
        virsh -q -c test:///default define --validate $x >/dev/null || echo bad $x; done";
    assert_eq!(rig.shell(define).text(), "");
    let refused = rig.tool("tdx-td", new(&["--security", "sev-snp"])).error(6);
    let message = refused["message"].to_string();
    assert!(message.contains("runs no SEV-SNP guests: kvm_amd"), "{message}");
}

/// Every scenario under every protection, by the newest schema.
#[test]
#[ignore = "needs root"]
fn definitions_of_every_scenario_are_valid() {
    use clap::ValueEnum;

    let rig = Rig::start_tdx();
    let mut count = 0;
    for scenario in ["default", "td", "securevm", "computation", "desktop"] {
        for &security in Security::value_variants() {
            // What a desktop shares and a computation's memory is no trust domain's.
            if security == Security::Tdx && matches!(scenario, "computation" | "desktop") {
                continue;
            }
            let choice = plain_guest::choice(scenario, security);
            let xml = plain_guest::xml(choice, security, VirtType::Kvm, &[]);
            fs::write(rig.scratch().join(format!("{scenario}-{security}.xml")), xml).unwrap();
            count += 1;
        }
    }
    assert_eq!(count, 23);
    let define = "for x in *.xml; do \
        virsh -q -c test:///default define --validate $x >/dev/null || echo bad $x; done";
    assert_eq!(rig.shell(define).text(), "");
}

#[test]
#[ignore = "needs root"]
fn scenarios_make_trust_domains() {
    let rig = rig_with_image();
    let before = rig.state();
    for scenario in ["td", "securevm"] {
        let made = rig.tool("tdx-td", new(&["--scenario", scenario])).document();
        let item = &made["items"][0];
        assert_eq!((&item["security"], &item["state"]), (&"tdx".into(), &"running".into()));
        let argv = argv(&rig);
        launch_object(&argv);
        assert!(!argv.iter().any(|a| a.contains("VGA") || a.contains("qxl") || a.contains("vnc")));
        rig.tool("tdx-td", ["delete", "td1", "--yes", "--timeout", "0"]).item();
        assert_eq!(rig.state(), before);
    }
    let refused = rig.tool("tdx-td", new(&["--scenario", "desktop", "--security", "tdx"])).error(2);
    assert!(refused["message"].as_str().unwrap().contains("host_filesystem"), "{refused}");
}

/// What the builder makes of the flags, without a host that could run it.
fn sev_xml(security: &str, flags: &[&str]) -> String {
    let security = security.parse().unwrap();
    plain_guest::xml(plain_guest::choice("default", security), security, VirtType::Kvm, flags)
}
