//! Typical hosts of guests, as far as `tdx-td host check` examines them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use serde_json::json;

use super::tree::Tree;

/// The relevant processor flags of a Xeon of the 5th generation with TDX turned on in the BIOS.
const XEON: &str =
    "fpu vme de pse tsc msr pae mce cx8 pse36 nx pdpe1gb rdtscp lm vmx tme tdx_host_platform";
/// The relevant processor flags of an EPYC 7003, as in <https://github.com/AMDESE/AMDSEV/issues/137>.
const EPYC: &str =
    "fpu vme de pse tsc msr pae mce cx8 pse36 nx pdpe1gb rdtscp lm svm sme sev sev_es";

/// A host: its processor's vendor and flags, its kernel, and the kernel command line.
fn host(vendor: &str, flags: &str, release: &str, command_line: &str) -> Tree {
    let tree = Tree::new();
    let cpu = format!(
        "processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\nbugs\t\t: spectre_v1\n"
    );
    tree.file("proc/cpuinfo", cpu);
    tree.file("proc/cmdline", format!("{command_line}\n"));
    tree.file("proc/sys/kernel/osrelease", format!("{release}\n"));
    let memory =
        "MemTotal:       263848136 kB\nHugePages_Total:       0\nHugepagesize:       2048 kB\n";
    tree.file("proc/meminfo", memory);
    tree.file("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
    tree.file("sys/kernel/mm/ksm/run", "0\n");
    for node in ["kvm", "iommu", "vhost-vsock"] {
        tree.file(&format!("dev/{node}"), "");
    }
    let modules = format!("lib/modules/{release}");
    tree.file(&format!("{modules}/modules.dep"), "kernel/drivers/vfio/pci/vfio-pci.ko.zst: \n");
    tree
}

/// Firmware as a package installs it.
fn firmware(tree: &Tree, name: &str, file: &str, features: &[&str]) {
    let vars = "/usr/share/OVMF/OVMF_VARS_4M.fd";
    let mapping = match file.contains("CODE") {
        true => json!({
            "device": "flash", "executable": {"filename": file, "format": "raw"},
            "nvram-template": {"filename": vars, "format": "raw"},
        }),
        false => json!({"device": "memory", "filename": file}),
    };
    tree.file(vars, "variables");
    let descriptor = json!({
        "description": name, "interface-types": ["uefi"], "mapping": mapping,
        "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
        "features": features, "tags": [],
    });
    tree.file(&format!("usr/share/qemu/firmware/{name}.json"), descriptor.to_string());
    tree.file(file, "code");
}

/// libvirt's domain capabilities: kinds of launch security, and its words about SEV.
///
/// Shape: <https://libvirt.org/formatdomaincaps.html#launch-security>.
fn capabilities(tree: &Tree, kinds: &[&str], sev: &str) {
    let values: String = kinds.iter().map(|kind| format!("<value>{kind}</value>")).collect();
    let tdx = if kinds.contains(&"tdx") { "yes" } else { "no" };
    let launch = if kinds.is_empty() { "no" } else { "yes" };
    let sev = if sev.is_empty() { "<sev supported='no'/>" } else { sev };
    tree.file(
        "capabilities.xml",
        format!(
            "<domainCapabilities><path>/usr/bin/qemu-system-x86_64</path><domain>kvm</domain>\
             <features><tdx supported='{tdx}'/>{sev}<launchSecurity supported='{launch}'>\
             <enum name='sectype'>{values}</enum></launchSecurity></features></domainCapabilities>"
        ),
    );
}

fn log(tree: &Tree, lines: &[&str]) {
    tree.file("var/log/dmesg", lines.join("\n") + "\n");
}

/// An Intel host that is configured completely; the kernel shows this value of KVM's parameter.
fn intel(release: &str, parameter: &str) -> Tree {
    let words =
        "BOOT_IMAGE=/boot/vmlinuz root=UUID=5ff9422f ro kvm_intel.tdx=1 nohibernate intel_iommu=on";
    let tree = host("GenuineIntel", XEON, release, words);
    tree.file("sys/module/kvm_intel/parameters/tdx", format!("{parameter}\n"));
    let features = &["intel-tdx", "secure-boot", "enrolled-keys", "verbose-dynamic"];
    firmware(&tree, "60-edk2-x86_64-inteltdx", "/usr/share/ovmf/OVMF.inteltdx.ms.fd", features);
    firmware(
        &tree,
        "60-edk2-x86_64",
        "/usr/share/OVMF/OVMF_CODE_4M.fd",
        &["acpi-s3", "verbose-dynamic"],
    );
    tree.file("run/tdx-qgs/qgs.socket", "");
    let kinds: &[&str] = if parameter == "Y" { &["tdx"] } else { &[] };
    capabilities(&tree, kinds, "");
    tree
}

/// Ubuntu 25.10 with everything turned on.
///
/// Log: <https://github.com/canonical/tdx/issues/385>, and Linux 6.17 `arch/x86/virt/vmx/tdx/tdx.c`, which
/// says the same; firmware: Ubuntu's package ovmf-inteltdx.
pub(crate) fn ubuntu() -> Tree {
    let tree = intel("6.17.0-5-generic", "Y");
    tree.file("sys/fs/cgroup/misc.capacity", "tdx 63\n");
    tree.file("sys/fs/cgroup/misc.current", "tdx 2\n");
    log(
        &tree,
        &[
            "[    9.360001] virt/tdx: BIOS enabled: private KeyID range [64, 128)",
            "[    9.360003] virt/tdx: Disable ACPI S3. Turn off TDX in the BIOS to use ACPI S3.",
            "[   36.379127] virt/tdx: 8396820 KB allocated for PAMT",
            "[   36.379132] virt/tdx: module initialized",
        ],
    );
    tree
}

/// A kernel that initialises the TDX module at boot, whether or not KVM is to use it.
///
/// Source: <https://docs.kernel.org/arch/x86/tdx.html>, "TDX boot-time detection and initialization"; the
/// version: Linux `Documentation/ABI/testing/sysfs-devices-faux-tdx-host`.
pub(crate) fn initialised_and_not_used() -> Tree {
    let tree = intel("7.1.0-8-generic", "N");
    tree.file("proc/cmdline", "BOOT_IMAGE=/boot/vmlinuz root=UUID=5ff9422f ro nohibernate\n");
    tree.file("sys/devices/faux/tdx_host/version", "1.5.24\n");
    log(
        &tree,
        &[
            "[    0.9] virt/tdx: BIOS enabled: private KeyID range [16, 64)",
            "[    2.1] virt/tdx: 262668 KBs allocated for PAMT",
            "[    2.2] virt/tdx: TDX-Module initialized",
        ],
    );
    tree
}

/// Such a host with one trust domain for each key id.
///
/// Source: <https://docs.kernel.org/admin-guide/cgroup-v2.html#misc>; QEMU then says what
/// <https://github.com/torvalds/linux/blob/v6.17/arch/x86/kvm/vmx/tdx.c> makes of it, ENOSPC.
pub(crate) fn out_of_keys() -> Tree {
    let tree = ubuntu();
    tree.file("sys/fs/cgroup/misc.current", "tdx 63\n");
    tree
}

/// TDX turned off in the BIOS: no key ids, no flag, and KVM's parameter drops back.
///
/// Source: <https://github.com/torvalds/linux/blob/v6.17/arch/x86/kvm/vmx/tdx.c>, `tdx_bringup`, whose
/// words the log has; <https://github.com/canonical/tdx/issues/102> is such a host.
pub(crate) fn off_in_bios() -> Tree {
    let tree = intel("6.17.0-5-generic", "N");
    tree.file(
        "proc/cpuinfo",
        format!(
            "vendor_id\t: GenuineIntel\nflags\t\t: {}\n",
            XEON.replace(" tdx_host_platform", "")
        ),
    );
    log(&tree, &["[   14.036739] kvm_intel: tdx: no TDX private KeyIDs available"]);
    tree
}

/// A host on which nobody has turned on KVM's parameter, whose default is off.
///
/// Source: <https://docs.kernel.org/admin-guide/kernel-parameters.html>, `kvm-intel.tdx=`; log as in
/// <https://docs.kernel.org/arch/x86/tdx.html>, "TDX boot-time detection".
pub(crate) fn parameter_off() -> Tree {
    let tree = intel("6.17.0-5-generic", "N");
    tree.file("proc/cmdline", "BOOT_IMAGE=/boot/vmlinuz root=UUID=5ff9422f ro nohibernate\n");
    log(&tree, &["[    1.387218] virt/tdx: BIOS enabled: private KeyID range [16, 64)"]);
    tree
}

/// A Dell R760 whose BIOS offers TDX and loads no module.
///
/// Source: <https://github.com/canonical/tdx/issues/425>.
pub(crate) fn module_not_loaded() -> Tree {
    let tree = intel("6.8.0-1028-intel", "N");
    log(
        &tree,
        &[
            "virt/tdx: BIOS enabled: private KeyID range [1, 64)",
            "virt/tdx: Disable ACPI S3.",
            "virt/tdx: module not loaded",
        ],
    );
    tree
}

/// A module that is too old for the kernel.
///
/// Source: <https://github.com/canonical/tdx/issues/83>.
pub(crate) fn old_module() -> Tree {
    let tree = intel("6.8.0-1001-intel", "N");
    log(
        &tree,
        &[
            "[    5.118752] virt/tdx: BIOS enabled: private KeyID range [1, 128)",
            "[    5.118754] virt/tdx: Disable ACPI S3. Turn off TDX in the BIOS to use ACPI S3.",
            "[   14.036730] virt/tdx: SEAMCALL (0x0000000000000022) failed: 0xc000050500000000",
            "[   14.036738] virt/tdx: module initialization failed (-5)",
            "[   14.036739] kvm_intel: Failed to initialize TDX module.",
        ],
    );
    tree
}

/// A kernel with hibernation, which therefore disables TDX.
///
/// Source: <https://github.com/torvalds/linux/blob/v6.17/arch/x86/virt/vmx/tdx/tdx.c>, `tdx_init`.
pub(crate) fn can_hibernate() -> Tree {
    let tree = intel("6.17.0-5-generic", "N");
    tree.file("proc/cmdline", "BOOT_IMAGE=/boot/vmlinuz root=UUID=5ff9422f ro kvm_intel.tdx=1\n");
    log(&tree, &["[    1.3] virt/tdx: initialization failed: Hibernation support is enabled"]);
    tree
}

/// Debian 13's own userspace, libvirt 11.3 and no firmware for TDX, on a kernel that has it.
///
/// Source: <https://packages.debian.org/trixie/libvirt-daemon>, <https://libvirt.org/news.html>, 11.6.0;
/// <https://packages.debian.org/trixie/all/ovmf/filelist>.
pub(crate) fn old_libvirt() -> Tree {
    let tree = ubuntu();
    std::fs::remove_dir_all(tree.path("usr/share/qemu/firmware")).unwrap();
    let features = &["acpi-s3", "amd-sev", "verbose-dynamic"];
    firmware(&tree, "60-edk2-x86_64", "/usr/share/OVMF/OVMF_CODE_4M.fd", features);
    capabilities(&tree, &[], "");
    tree
}

/// Debian 13's kernel, 6.12, which does not support trust domains, with a libvirt that does.
///
/// Source: <https://packages.debian.org/trixie/linux-image-amd64>; merged in 6.16,
/// <https://kernelnewbies.org/Linux_6.16>.
pub(crate) fn old_kernel() -> Tree {
    let tree = intel("6.12.48+deb13-amd64", "N");
    std::fs::remove_file(tree.path("sys/module/kvm_intel/parameters/tdx")).unwrap();
    tree
}

/// An Intel machine with VT-d in the BIOS, whose kernel command line does not turn on the IOMMU.
///
/// Source: the log of <https://github.com/strongtz/i915-sriov-dkms/issues/339>.
pub(crate) fn no_iommu() -> Tree {
    let tree = host(
        "GenuineIntel",
        XEON,
        "6.8.12-10-pve",
        "BOOT_IMAGE=/boot/vmlinuz root=/dev/mapper/pve-root ro quiet",
    );
    firmware(&tree, "60-edk2-x86_64", "/usr/share/OVMF/OVMF_CODE_4M.fd", &["acpi-s3"]);
    log(
        &tree,
        &["[    0.231386] DMAR: Host address width 39", "[    0.600335] DMAR: No ATSR found"],
    );
    tree
}

/// An EPYC host with SEV-SNP.
///
/// Log and flags: <https://github.com/AMDESE/AMDSEV/issues/271>, whose `sevctl ok` has C-bit 51, five
/// address bits and 509 guests, of which ids below 256 are for SEV-ES; libvirt's shape as documented.
pub(crate) fn snp() -> Tree {
    let tree = host(
        "AuthenticAMD",
        &format!("{EPYC} sev_snp"),
        "6.14.0-15-generic",
        "root=/dev/nvme0n1p2 ro",
    );
    for (name, value) in [("sev", "Y"), ("sev_es", "Y"), ("sev_snp", "Y")] {
        tree.file(&format!("sys/module/kvm_amd/parameters/{name}"), format!("{value}\n"));
    }
    tree.file("dev/sev", "");
    tree.file("sys/fs/cgroup/misc.capacity", "sev 254\nsev_es 255\n");
    tree.file("sys/fs/cgroup/misc.current", "sev 0\nsev_es 3\n");
    let features = &["amd-sev", "amd-sev-es", "amd-sev-snp", "verbose-dynamic"];
    firmware(&tree, "60-edk2-x86_64-amdsev", "/usr/share/ovmf/OVMF.amdsev.fd", features);
    let sev = "<sev supported='yes'><cbitpos>51</cbitpos><reducedPhysBits>5</reducedPhysBits>\
        <maxGuests>254</maxGuests><maxESGuests>255</maxESGuests></sev>";
    capabilities(&tree, &["sev", "sev-snp"], sev);
    log(
        &tree,
        &[
            "[   11.925159] ccp 0000:26:00.1: SEV-SNP API:1.55 build:21",
            "[   12.005457] kvm_amd: SEV enabled (ASIDs 256 - 509)",
            "[   12.005458] kvm_amd: SEV-ES enabled (ASIDs 1 - 255)",
            "[   12.005459] kvm_amd: SEV-SNP enabled (ASIDs 1 - 255)",
        ],
    );
    tree
}

/// An EPYC host whose firmware has SEV-SNP and whose KVM lacks it.
///
/// Source: <https://github.com/AMDESE/AMDSEV/issues/137>, log and parameter.
pub(crate) fn snp_off_in_kvm() -> Tree {
    let tree = snp();
    tree.file("sys/module/kvm_amd/parameters/sev_snp", "N\n");
    capabilities(
        &tree,
        &["sev"],
        "<sev supported='yes'><cbitpos>51</cbitpos><reducedPhysBits>5</reducedPhysBits></sev>",
    );
    log(
        &tree,
        &[
            "[    1.343383] SEV-SNP: RMP table physical address 0x0000000015e00000 - 0x00000000566fffff",
            "[   11.925149] ccp 0000:26:00.1: SEV API:1.52 build:4",
            "[   11.925159] ccp 0000:26:00.1: SEV-SNP API:1.52 build:4",
            "[   12.005457] SEV supported: 509 ASIDs",
        ],
    );
    tree
}

/// An EPYC host whose IOMMU passes the DMA of the host's devices through, which excludes SEV-SNP.
///
/// Source: <https://github.com/torvalds/linux/blob/v6.14/drivers/iommu/amd/init.c>, `iommu_snp_enable`, which
/// turns SEV-SNP off with these words.
pub(crate) fn snp_without_iommu() -> Tree {
    let tree = snp();
    tree.file("proc/cmdline", "root=/dev/nvme0n1p2 ro iommu=pt\n");
    tree.file("sys/module/kvm_amd/parameters/sev_snp", "N\n");
    let told =
        "AMD-Vi: SNP: IOMMU disabled or configured in passthrough mode, SNP cannot be supported.";
    log(
        &tree,
        &[&format!("[    1.343383] {told}"), "[   11.9] ccp 0000:26:00.1: SEV API:1.55 build:21"],
    );
    tree
}

/// An EPYC 8024P whose secure processor does not answer, although every KVM parameter is on.
///
/// Source: <https://github.com/AMDESE/AMDSEV/issues/246>.
pub(crate) fn secure_processor_silent() -> Tree {
    let tree = snp();
    std::fs::remove_file(tree.path("dev/sev")).unwrap();
    log(
        &tree,
        &[
            "ccp 0000:02:00.5: sev enabled",
            "ccp 0000:02:00.5: psp enabled",
            "ccp 0000:02:00.5: SEV: failed to get status. Error: 0x8003",
            "kvm_amd: SEV enabled (ASIDs 256 - 1006)",
            "kvm_amd: SEV-SNP enabled (ASIDs 1 - 255)",
        ],
    );
    capabilities(&tree, &[], "");
    tree
}

/// A container on a good host that gives it no devices.
///
/// Source: <https://systemd.io/CONTAINER_INTERFACE>; Docker makes `/.dockerenv` and a `/dev` of its own,
/// <https://docs.docker.com/engine/containers/run/#runtime-privilege-and-linux-capabilities>.
pub(crate) fn container() -> Tree {
    let tree = ubuntu();
    std::fs::remove_dir_all(tree.path("dev")).unwrap();
    tree.file("dev/null", "");
    tree.file(".dockerenv", "");
    tree.file("proc/1/environ", "PATH=/usr/bin\0container=docker\0HOME=/root\0");
    tree
}

/// A trust domain in which the check runs.
///
/// Source: <https://github.com/canonical/tdx/issues/172>, log of the guest; flag `tdx_guest`.
pub(crate) fn inside_a_trust_domain() -> Tree {
    let tree = host(
        "GenuineIntel",
        "fpu pse pdpe1gb tdx_guest hypervisor",
        "6.8.0-39-generic",
        "root=/dev/vda1",
    );
    std::fs::remove_file(tree.path("dev/kvm")).unwrap();
    log(
        &tree,
        &[
            "[    0.000000] tdx: Guest detected",
            "[    1.776700] Memory Encryption Features active: Intel TDX",
        ],
    );
    tree
}
