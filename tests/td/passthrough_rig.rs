//! Host devices in guests, on a real kernel with a real IOMMU (rig 2) and a real libvirtd in it.

use serde_json::{Value, json};

use crate::support::kernel::{Kernel, SharedKernel};
use crate::support::rig::guest_image;
use crate::support::stand_in_gpu;
use crate::support::tools::{Run, repository};

const SMALL: &str = "-i guest.qcow2 --security none --virt-type qemu --memory 64M --vcpus 1";

/// Prints drivers, driver overrides, the limit on mappings, the records, domains, and the pool.
const LOOK: &str = "find /sys/bus/pci/devices/*/ -maxdepth 1 -name driver -printf '%p %l\\n'; \
    grep . /sys/bus/pci/devices/*/driver_override; \
    echo $(</sys/module/vfio_iommu_type1/parameters/dma_entry_limit); \
    find /run/tdx /run/tdx-pool /run/lock/tdx /var/lib/tdx -type f 2>/dev/null; \
    virsh list --all; echo /var/lib/libvirt/images/*";

fn state(kernel: &Kernel) -> String {
    kernel.sorted(LOOK)
}

/// The kernel for all tests but the one that changes the identity of devices.
static KERNEL: SharedKernel = SharedKernel::new(kernel_with_image);

fn kernel_with_image() -> Kernel {
    let kernel = Kernel::start_with_libvirt();
    kernel.tool("tdx-pool", ["import".as_ref(), guest_image(false).as_os_str()]).document();
    kernel
}

/// The network cards with drivers of their own; the last one is the rig's own.
fn nics(kernel: &Kernel) -> Vec<String> {
    let names = kernel.shell("tdx-iommu scan --driver e1000e --format name");
    names.text().lines().rev().map(str::to_owned).collect()
}

fn driver(kernel: &Kernel, bdf: &str) -> String {
    let link = kernel.shell(&format!("basename $(readlink /sys/bus/pci/devices/{bdf}/driver)"));
    link.text().trim().to_owned()
}

fn new(kernel: &Kernel, more: &str) -> Run {
    kernel.shell(&format!("tdx-td new {SMALL} {more}"))
}

fn delete(kernel: &Kernel, name: &str) -> Value {
    kernel.shell(&format!("tdx-td delete {name} --yes --timeout 0")).item()
}

#[test]
#[ignore = "needs root"]
fn new_gives_a_device_to_the_guest_and_delete_returns_it() {
    let kernel = KERNEL.lock();
    let before = state(&kernel);
    let nics = nics(&kernel);
    let nic = nics[0].as_str();

    // A dry run changes nothing.
    let flags = format!("--name x -g {nic}");
    let plan = new(&kernel, &format!("{flags} --dry-run")).item();
    assert_eq!(plan["hostdevs"], json!([nic]));
    let xml = kernel.shell(&format!("tdx-td render {SMALL} {flags} --xml"));
    assert!(xml.text().contains("<hostdev mode='subsystem' type='pci' managed='no'>"), "{xml:?}");
    assert_eq!(state(&kernel), before);

    let made = new(&kernel, &flags).item();
    assert_eq!((&made["action"], &made["hostdevs"]), (&json!("create"), &json!([nic])));
    assert_eq!(driver(&kernel, nic), "vfio-pci");
    let running = state(&kernel);
    // The guest's 64 MiB and QEMU's own mappings fit the default limit, which is not changed.
    assert!(running.lines().any(|line| line == "65535"), "{running}");
    let seen = kernel.shell(&format!("tdx-gpu list | jq '.items[] | select(.bdf == \"{nic}\")'"));
    let seen: Value = serde_json::from_str(seen.text()).unwrap();
    assert_eq!((&seen["domain"], &seen["previous_driver"]), (&made["uuid"], &json!("e1000e")));

    // The domain is found as requested, and no other domain gets the device.
    let again = new(&kernel, &flags).document();
    assert_eq!(again["changed"], false, "{again:#}");
    new(&kernel, "--name x").error(5);
    new(&kernel, &format!("--name x -g {nic},{}", nics[1])).error(5);
    let error = new(&kernel, &format!("--name y -g {nic}")).error(5);
    assert_eq!(error["code"], "IN_USE_BY_VM", "{error}");
    for verb in ["unbind", "bind"] {
        let error = kernel.tool("tdx-gpu", [verb, nic]).error(5);
        assert_eq!(error["code"], "IN_USE_BY_VM", "{error}");
    }
    kernel.shell("tdx-td stop x --force").document();
    let error = new(&kernel, &format!("--name y -g {nic}")).error(5);
    assert_eq!(error["code"], "RESERVED", "{error}");
    assert_eq!(driver(&kernel, nic), "vfio-pci");

    // The host reboots: no device is bound any more, and no record of it exists.
    let reboot = format!(
        "rm -r /run/tdx && cd /sys/bus/pci/devices/{nic} && echo >driver_override && \
         echo {nic} >driver/unbind && echo {nic} >/sys/bus/pci/drivers_probe"
    );
    kernel.shell(&reboot).text();
    assert_eq!(driver(&kernel, nic), "e1000e");
    let started = kernel.shell("tdx-td start x").item();
    assert_eq!(
        (&started["action"], driver(&kernel, nic)),
        (&json!("start"), "vfio-pci".to_owned())
    );

    let plan = kernel.shell("tdx-td delete x --yes --dry-run").item();
    assert_eq!(plan["released"], json!([nic]));
    let deleted = delete(&kernel, "x");
    assert_eq!(deleted["released"], json!([nic]));
    assert_eq!(state(&kernel), before);

    // A template needs a placeholder for the devices, or new refuses the template.
    let template = repository().join("examples/templates/trust_domain.xml");
    // An ordinary guest, because TDX is absent here.
    let plain = format!(
        "sed '/<launchSecurity/,/<.launchSecurity>/d; s/kvm/qemu/; s/host-passthrough/maximum/' {} \
         >plain.xml && sed '/HOSTDEV_DEVICES/d' plain.xml >without.xml",
        template.display()
    );
    kernel.shell(&plain).text();
    let line = |file: &str, verb: &str| {
        format!("tdx-td {verb} -i guest.qcow2 -t {file} --memory 64M --vcpus 1 --name t -g {nic}")
    };
    let error = kernel.shell(&line("without.xml", "new")).error(3);
    assert!(error["message"].as_str().unwrap().contains("HOSTDEV_DEVICES"), "{error}");
    assert_eq!(state(&kernel), before);
    let xml = kernel.shell(&line("plain.xml", "render")).item()["xml"].clone();
    assert_eq!(xml.as_str().unwrap().matches("<hostdev ").count(), 1, "{xml}");
    let made = kernel.shell(&line("plain.xml", "new")).item();
    assert_eq!(made["hostdevs"], json!([nic]));
    assert_eq!(delete(&kernel, "t")["released"], json!([nic]));
    assert_eq!(state(&kernel), before);
}

#[test]
#[ignore = "needs root"]
fn piped_tools_give_bound_devices_to_guests() {
    let kernel = KERNEL.lock();
    let before = state(&kernel);
    let nic = nics(&kernel)[0].clone();
    let disks: Vec<String> = (0..2).map(|n| kernel.nvme(&format!("rig-{n}"))).collect();

    // A device that was bound before the domain was created stays bound after its deletion.
    let all = format!("{nic} {}", disks.join(" "));
    let line = format!("tdx-iommu scan {all} | tdx-gpu bind - --memory 1G | tdx-td new {SMALL}");
    let made = kernel.shell(&format!("{line} --name x --devices -")).item();
    assert_eq!(made["hostdevs"].as_array().unwrap().len(), 3, "{made:#}");
    assert_eq!(delete(&kernel, "x")["released"], json!([]));
    assert_eq!(driver(&kernel, &disks[1]), "vfio-pci");

    // A running guest gets the device as an XML element.
    new(&kernel, "--name y").item();
    let attach = format!("tdx-gpu hostdev {nic} --xml | virsh attach-device y /dev/stdin");
    assert!(kernel.shell(&attach).text().contains("attached"));
    assert_eq!(kernel.shell("tdx-td show y").item()["hostdevs"], json!([nic]));
    // hostdevs --live gives the running guest another device, which libvirt binds; the guest keeps the first
    // one.
    let wishes = |devices: &[&str]| {
        let devices: Vec<String> =
            devices.iter().map(|bdf| format!("{{match: {{bdf: '{bdf}'}}}}")).collect();
        let text = format!("vms: {{y: {{passthrough_devices: [{}]}}}}", devices.join(", "));
        kernel.shell(&format!("echo \"{text}\" >y.yaml")).text();
        kernel
            .shell("tdx-iommu resolve --config y.yaml | tdx-td hostdevs - --live --timeout 3 --yes")
    };
    let third = kernel.nvme("rig-2");
    let live = wishes(&[&nic, &third]).item();
    assert_eq!((&live["live"], &live["added"]), (&json!([third]), &json!([nic, third])));
    assert_eq!(driver(&kernel, &third), "vfio-pci");
    assert_eq!(wishes(&[&nic, &third]).document()["changed"], false);
    new(&kernel, "--name z").item();
    kernel.shell("sed s/y:/z:/ y.yaml >z.yaml").text();
    let shared = kernel.shell("tdx-td hostdevs --config z.yaml --yes").document();
    let warnings = shared["warnings"].to_string();
    let warning = format!("domain 'y' is running and uses {nic}: only one of 'y' and 'z' can run");
    assert!(warnings.contains(&warning), "{warnings}");
    // A guest that has not booted releases no device: the definition is restored.
    let error = wishes(&[&nic]).error(5);
    assert!(error["message"].as_str().unwrap().contains(&format!("still has {third}")), "{error}");
    let defined = kernel.shell("virsh dumpxml --inactive y | grep -c '<hostdev '");
    assert_eq!(defined.text(), "2\n");
    kernel.shell("tdx-td delete y z --yes --timeout 0").document();
    kernel.shell("tdx-gpu unbind --all").document();
    assert_eq!(state(&kernel), before);

    for (line, status) in [
        (format!("tdx-td new {SMALL} --devices - --base -"), 2),
        (format!("tdx-td new {SMALL} --devices - </dev/null"), 3),
        (format!("echo '[]' | tdx-td new {SMALL} --devices -"), 3),
        (format!("tdx-pool volumes | tdx-td new {SMALL} --devices -"), 3),
        (format!("tdx-td new {SMALL} --gpus 17:00"), 2),
        (format!("tdx-td new {SMALL} --gpus 0000:ff:1f.7"), 4),
        (format!("tdx-td new {SMALL} --gpus {}", kernel.nvme("rig-data")), 5),
        (format!("tdx-td new {SMALL} --cc on"), 2),
    ] {
        kernel.shell(&line).error(status);
    }
    assert_eq!(state(&kernel), before);
}

#[test]
#[ignore = "needs root"]
fn a_failed_or_killed_command_returns_its_devices() {
    let kernel = KERNEL.lock();
    let before = state(&kernel);
    let nic = nics(&kernel)[0].clone();
    let flags = format!("--name x -g {nic}");

    // The domain is defined and its devices are bound, but the domain cannot start.
    kernel.shell("mv /dev/net/tun /dev/net/away").text();
    let error = new(&kernel, &flags).error(1);
    assert_eq!(error["left_behind"], json!([]), "{error}");
    kernel.shell("mv /dev/net/away /dev/net/tun").text();
    assert_eq!(state(&kernel), before);

    // new is killed after different delays: the next commands complete or remove what it leaves.
    let repair = "tdx-gpu unbind --stale && tdx-pool cleanup --yes";
    for after in [400, 700, 1100, 1600, 2200] {
        let killed = format!(
            "timeout -s KILL {}.{:03} tdx-td new {SMALL} {flags}; true",
            after / 1000,
            after % 1000
        );
        kernel.shell(&killed);
        match kernel.shell("tdx-td list --format name").text().is_empty() {
            true => drop(kernel.shell(repair)),
            false => {
                new(&kernel, &flags).item();
                delete(&kernel, "x");
                kernel.shell(repair);
            }
        }
        assert_eq!(state(&kernel), before, "killed after {after} ms");
    }
    // delete is killed.
    for after in [350, 700] {
        new(&kernel, &flags).item();
        let killed = format!("timeout -s KILL 0.{after} tdx-td delete x --yes --timeout 0; true");
        kernel.shell(&killed);
        kernel.shell("tdx-td delete x --yes --timeout 0").document();
        kernel.shell("tdx-pool cleanup --yes").document();
        assert_eq!(state(&kernel), before, "killed after {after} ms");
    }
}

#[test]
#[ignore = "needs root"]
fn example_pipelines_run_on_real_devices() {
    let kernel = KERNEL.lock();
    let before = state(&kernel);
    let nic = nics(&kernel)[0].clone();
    let script = repository().join("examples/pipelines.sh");
    let settings = "TDX_SECURITY=none TDX_VIRT_TYPE=qemu TDX_MEMORY=64M TDX_VCPUS=1";
    let pipeline = |variables: &str, name: &str| {
        kernel.shell(&format!("{settings} {variables} {} {name}", script.display()))
    };
    let made = pipeline(&format!("SCAN={nic}"), "devices_to_guest").item();
    assert_eq!((&made["name"], &made["hostdevs"]), (&json!("web1"), &json!([nic])));
    assert_eq!(driver(&kernel, &nic), "vfio-pci");

    // One group is free; another group has the disk with the rig's root.
    let free = kernel.nvme("rig-1");
    for (bdf, status) in [(free.clone(), 0), (kernel.nvme("rig-data"), 10)] {
        let group =
            kernel.shell(&format!("basename $(readlink /sys/bus/pci/devices/{bdf}/iommu_group)"));
        let answer = pipeline(&format!("GROUP={}", group.text().trim()), "check_group");
        assert_eq!(answer.status, Some(status), "{answer:#?}");
    }

    // The file is only planned; the piped device is attached.
    let wishes = format!(
        "vms: {{web1: {{passthrough_devices: [{{match: {{bdf: '{nic}'}}}}, {{match: {{bdf: '{free}'}}}}]}}}}"
    );
    kernel.shell(&format!("echo \"{wishes}\" >wishes.yaml")).text();
    let plan = pipeline("CONFIG=wishes.yaml", "plan_of_devices").document();
    assert_eq!((&plan["changed"], &plan["dry_run"]), (&json!(true), &json!(true)));
    assert_eq!(plan["items"][0]["added"], json!([free]));
    kernel.shell(&format!("tdx-gpu bind {free}")).document();
    assert!(
        pipeline(&format!("BDF={free}"), "device_to_running_guest").text().contains("attached")
    );
    let has = kernel.shell("tdx-td show web1").item()["hostdevs"].clone();
    assert_eq!(has.as_array().map(Vec::len), Some(2), "{has}");
    let given =
        pipeline("DISKS='.available and .serial == \"rig-2\"'", "disks_to_running_guest").item();
    assert_eq!(given["action"], "attach", "{given:#}");
    let attached = kernel.tool("tdx-disk", ["attached", "web1"]).item();
    assert_eq!(attached["device"], given["device"]);

    kernel.shell("tdx-td delete web1 --yes --timeout 0").document();
    kernel.shell("tdx-gpu unbind --all").document();
    assert_eq!(state(&kernel), before);
}

#[test]
#[ignore = "needs root"]
fn new_sets_the_mode_of_gpus_and_delete_restores_it() {
    let kernel = kernel_with_image();
    let nics = nics(&kernel);
    let (gpu, switch) = (nics[0].as_str(), nics[1].as_str());
    stand_in_gpu::install(&kernel, gpu, switch);
    let log = || kernel.shell("cat modes/log 2>/dev/null; rm -f modes/log").text().to_owned();
    let before = state(&kernel);

    // An ordinary guest gets the GPU in its present mode, or with --cc on in confidential-computing mode.
    new(&kernel, &format!("--name x -g {gpu}")).item();
    delete(&kernel, "x");
    assert_eq!(log(), "");
    new(&kernel, &format!("--name x -g {gpu} --cc on")).item();
    assert_eq!(log(), format!("{gpu} cc on\n"));
    assert_eq!(driver(&kernel, gpu), "vfio-pci");
    delete(&kernel, "x");
    assert_eq!(log(), format!("{gpu} cc off\n"));
    assert_eq!(state(&kernel), before);

    // ppcie needs the whole baseboard.
    let error = new(&kernel, &format!("--name x -g {gpu} --cc ppcie")).error(5);
    assert_eq!(error["causes"], json!([format!("missing: {switch}")]));
    let both = format!("--name x -g {gpu},{switch} --cc ppcie");
    new(&kernel, &both).item();
    let set = format!("{switch} ppcie on\n{gpu} ppcie on\n");
    assert_eq!(log(), set);
    // The devices were bound before a reboot; only the record of the modes survives it.
    kernel.shell("tdx-td stop x --force && rm -r /run/tdx").text();
    delete(&kernel, "x");
    let back = format!("{gpu} ppcie off\n{switch} ppcie off\n");
    assert_eq!(log(), back);
    kernel.shell(&format!("tdx-gpu unbind {gpu} {switch}")).document();
    assert_eq!(state(&kernel), before);

    // The GPU fails after the switch was set: the switch is restored.
    kernel.shell(&format!("echo '{gpu} ppcie on' >modes/fail")).text();
    let error = new(&kernel, &both).error(1);
    assert!(error["message"].as_str().unwrap().contains("nvidia_gpu_tools"), "{error}");
    assert_eq!(error["left_behind"], json!([]), "{error}");
    kernel.shell("rm modes/fail; grep -h . modes/0* | sort -u | grep -x off").text();
    assert_eq!(state(&kernel), before);
    log();

    // A mode that cannot be restored is reported, and its record is kept for the next attempt.
    new(&kernel, &both).item();
    kernel.shell(&format!("echo '{gpu} ppcie off' >modes/fail")).text();
    let error = kernel.shell("tdx-td delete x --yes --timeout 0").error(1);
    let unset = format!("the confidential-computing mode of {gpu}");
    assert_eq!(error["left_behind"], json!([unset]), "{error}");
    assert_eq!(
        (driver(&kernel, gpu).as_str(), driver(&kernel, switch).as_str()),
        ("vfio-pci", "e1000e")
    );
    kernel.shell("rm modes/fail").text();
    assert_eq!(delete(&kernel, "x")["released"], json!([gpu]));
    assert_eq!(state(&kernel), before);

    // The command line of the original.
    let settings = "TDX_SECURITY=none TDX_VIRT_TYPE=qemu TDX_MEMORY=64M TDX_VCPUS=1";
    let tdvirsh = repository().join("examples/tdvirsh");
    let made =
        kernel.shell(&format!("{settings} {} new -i guest.qcow2 -g {gpu}", tdvirsh.display()));
    assert!(made.text().contains("State:          running"), "{made:#?}");
    kernel.shell("tdx-td delete --all --yes --timeout 0").document();
    assert_eq!(state(&kernel), before);

    // Without NVIDIA's program nothing is changed.
    kernel.shell("mv /usr/local/bin/nvidia_gpu_tools.py away").text();
    new(&kernel, &both).error(6);
    new(&kernel, &format!("--name x -g {gpu} --cc leave")).item();
    delete(&kernel, "x");
    assert_eq!(state(&kernel), before);
}
