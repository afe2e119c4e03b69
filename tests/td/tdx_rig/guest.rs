//! Trust domains from creation to deletion, and hosts that cannot run them.

use super::*;

#[test]
#[ignore = "needs root"]
fn a_trust_domain_is_created_used_and_deleted_without_a_trace() {
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

    // The same command, run again, changes nothing. Other launch values are a conflict.
    let again = rig.tool("tdx-td", new(&flags)).document();
    assert_eq!(again["changed"], false);
    let other = rig.tool("tdx-td", new(&["--mr-owner", OWNER])).error(5);
    assert!(other["message"].as_str().unwrap().contains("td_policy"), "{other}");

    assert_eq!(rig.tool("tdx-td", ["list"]).item()["security"], "tdx");
    assert_eq!(rig.tool("tdx-td", ["stop", "td1"]).item()["action"], "stop");
    assert_eq!(rig.tool("tdx-td", ["start", "td1"]).item()["action"], "start");
    // The trust domain is deleted while it boots: delete presses the power button until the guest reacts.
    assert_eq!(rig.tool("tdx-td", ["delete", "td1", "--yes"]).item()["forced"], false);
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn an_ordinary_guest_on_a_tdx_host_gets_ordinary_firmware() {
    let rig = rig_with_image();
    let flags = ["--security", "none", "--virt-type", "qemu", "--wait", "ip"];
    assert_eq!(rig.tool("tdx-td", new(&flags)).item()["security"], "none");
    let xml = rig.virsh(["dumpxml", "td1"]);
    assert!(xml.contains("<nvram"), "no firmware variables of its own: {xml}");
    assert!(!xml.contains("amdsev"), "{xml}");
    rig.tool("tdx-td", ["delete", "td1", "--yes"]).document();
}

/// The emulated host has every part of TDX support, and loses one part after another.
#[test]
#[ignore = "needs root"]
fn host_check_reports_each_part_of_tdx_support_that_is_lost() {
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

#[test]
#[ignore = "needs root"]
fn a_gpu_is_assigned_by_iommufd_if_the_kernel_has_it() {
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
    // Protection is the default for a GPU, and needs NVIDIA's program.
    assert!(render(&[]).error(6)["message"].as_str().unwrap().contains("nvidia_gpu_tools"));
    let xml = |run: &tools::Run| run.item()["xml"].as_str().unwrap().to_owned();
    let by_group = xml(&render(&["--cc", "leave"]));
    assert!(!by_group.contains("iommufd"), "{by_group}");
    host.file("dev/iommu", "");
    let rendered = render(&["--cc", "leave"]);
    let by_iommufd = xml(&rendered);
    assert!(by_iommufd.contains("<driver iommufd='yes'/>"), "{by_iommufd}");
    assert!(by_iommufd.contains("<pcihole64 unit='KiB'>268435456</pcihole64>"), "{by_iommufd}");
    assert!(
        rendered.document()["warnings"].to_string().contains("256 GiB of 64-bit address space")
    );
    for xml in [by_group, by_iommufd] {
        fs::write(rig.scratch().join("gpu.xml"), xml).unwrap();
        rig.shell("virsh define --validate gpu.xml && virsh undefine gpu --nvram").text();
    }
}

#[test]
#[ignore = "needs root"]
fn new_names_each_missing_part_of_tdx_support() {
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
    // A trust domain that runs already needs no further key.
    fs::write(rig.path("/sys/fs/cgroup/misc.current"), "tdx 15\n").unwrap();
    assert_eq!(rig.tool("tdx-td", new(&[])).document()["changed"], false);
    rig.tool("tdx-td", ["delete", "td1", "--yes", "--timeout", "0"]).document();

    let look_again = || {
        rig.shell("rm -f /var/cache/libvirt/qemu/capabilities/*").text();
        rig.libvirtd("restart");
    };
    fs::write(rig.path("/run/rig/host/no-tdx-guest"), "").unwrap();
    look_again();
    refused("QEMU does not support TDX");
    fs::remove_file(rig.path("/run/rig/host/no-tdx-guest")).unwrap();
    fs::write(rig.path("/sys/module/kvm_intel/parameters/tdx"), "N\n").unwrap();
    look_again();
    refused("kvm_intel.tdx is off");
    let cpuinfo = fs::read_to_string(rig.path("/proc/cpuinfo")).unwrap();
    fs::write(rig.path("/proc/cpuinfo"), cpuinfo.replace(" tdx_host_platform", "")).unwrap();
    refused("the processor or the BIOS does not offer TDX");
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
    // The memory of a trust domain must fit the host, but render still shows the definition.
    let much = ["-i", "guest.qcow2", "--memory", "9999G", "--vcpus", "1"];
    let error = rig.tool("tdx-td", [&["new"][..], &much].concat()).error(6);
    assert!(
        error["message"].as_str().unwrap().contains("memory is 9.76 TiB, but the host has only"),
        "{error}"
    );
    let shown = rig.tool("tdx-td", [&["render"][..], &much].concat()).document();
    assert!(
        shown["warnings"].to_string().contains("memory is 9.76 TiB, but the host has only"),
        "{shown}"
    );
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn ssh_port_forwards_a_port_of_the_host_to_the_guests_ssh_server() {
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
