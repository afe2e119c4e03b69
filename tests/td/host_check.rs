//! `tdx-td host check` on hosts made of files, on a real libvirt, and with damaged input.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

use serde_json::Value;
use tdx_td::host::check::code::HostCode;

use crate::support::kvm_hosts;
use crate::support::rig::Rig;
use crate::support::tools::{self, Run, repository};
use crate::support::tree::Tree;

/// The codes of the items with this status.
fn codes<'a>(document: &'a Value, status: &str) -> Vec<&'a str> {
    let items = document["items"].as_array().unwrap().iter();
    items.filter(|item| item["status"] == status).map(|i| i["code"].as_str().unwrap()).collect()
}

fn item<'a>(document: &'a Value, code: &str) -> &'a Value {
    let mut items = document["items"].as_array().unwrap().iter();
    items.find(|item| item["code"] == code).unwrap_or_else(|| panic!("no {code}: {document:#}"))
}

/// Runs the check on a host, with the capabilities of its libvirt if the host has them.
fn check(host: &Tree, kinds: &str) -> Run {
    let capabilities = host.path("capabilities.xml");
    let mut line = format!("host check {kinds}");
    if capabilities.exists() {
        line.push_str(&format!(" --capabilities {}", capabilities.display()));
    }
    host.run("tdx-td", &line)
}

/// Expects exactly these failures, each with a fix.
#[track_caller]
fn expect(host: &Tree, kinds: &str, failures: &[&str]) -> Value {
    let run = check(host, kinds);
    let document = run.answer(if failures.is_empty() { 0 } else { 10 });
    assert_eq!(codes(&document, "fail"), failures, "{document:#}");
    for item in document["items"].as_array().unwrap() {
        let told = matches!(item["status"].as_str().unwrap(), "warn" | "fail");
        assert_eq!(item["fix"].is_string(), told, "{item}");
        assert!(!item["found"].as_str().unwrap().is_empty(), "{item}");
    }
    document
}

#[test]
fn check_reports_exactly_the_failures_of_each_host() {
    for (host, kinds, failures, fix) in [
        (kvm_hosts::ubuntu(), "", &[][..], ""),
        (kvm_hosts::ubuntu(), "--for tdx --for none", &[], ""),
        (kvm_hosts::off_in_bios(), "", &["CPU_TDX"], "in the BIOS"),
        (kvm_hosts::parameter_off(), "", &["KVM_INTEL_TDX"], "kvm_intel.tdx=1"),
        (kvm_hosts::initialised_and_not_used(), "", &["KVM_INTEL_TDX"], "kvm_intel.tdx=1"),
        (kvm_hosts::module_not_loaded(), "", &["TDX_MODULE"], "SEAM loader"),
        (kvm_hosts::old_module(), "", &["TDX_MODULE"], "update the BIOS"),
        (kvm_hosts::can_hibernate(), "", &["TDX_MODULE"], "nohibernate"),
        (kvm_hosts::out_of_keys(), "", &["TDX_KEYS"], "tdx-td list"),
        (kvm_hosts::old_libvirt(), "", &["FIRMWARE", "LIBVIRT_TDX"], "ovmf-inteltdx"),
        (kvm_hosts::old_kernel(), "", &["KERNEL_TDX"], "6.16"),
        (kvm_hosts::no_iommu(), "--for vfio", &["IOMMU"], "intel_iommu=on"),
        (kvm_hosts::no_iommu(), "--for none", &[], ""),
        (kvm_hosts::snp(), "", &[], ""),
        (kvm_hosts::snp(), "--for sev --for sev-es --for sev-snp", &[], ""),
        (kvm_hosts::snp_off_in_kvm(), "", &["KVM_AMD_SEV"], "sev_snp=1"),
        (kvm_hosts::snp_off_in_kvm(), "--for sev-es", &[], ""),
        (kvm_hosts::snp_without_iommu(), "--for sev-snp", &["SEV_FIRMWARE"], "iommu=pt"),
        (kvm_hosts::snp_without_iommu(), "--for sev-es", &[], ""),
        (kvm_hosts::secure_processor_silent(), "", &["SEV_FIRMWARE"], "update the BIOS"),
        (kvm_hosts::container(), "", &["KVM"], "/dev/kvm"),
        (
            kvm_hosts::inside_a_trust_domain(),
            "",
            &["CPU_TDX", "CPU_VIRTUALIZATION", "KERNEL_TDX"],
            "on the host",
        ),
        (kvm_hosts::inside_a_trust_domain(), "--for none", &[], ""),
        (kvm_hosts::ubuntu(), "--for sev", &["CPU_SEV", "FIRMWARE"], "EPYC"),
    ] {
        let document = expect(&host, kinds, failures);
        if let Some(code) = failures.first() {
            let told = item(&document, code)["fix"].as_str().unwrap();
            assert!(told.contains(fix), "{code}: {told:?} lacks {fix:?}");
        }
    }
}

#[test]
fn settings_that_could_be_better_are_warnings() {
    let host = kvm_hosts::ubuntu();
    assert_eq!(codes(&expect(&host, "", &[]), "warn"), [""; 0]);
    host.file("sys/kernel/mm/ksm/run", "1\n");
    host.file("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
    host.file(
        "proc/meminfo",
        "MemTotal: 1048576 kB\nHugePages_Total: 64\nHugepagesize: 1048576 kB\n",
    );
    std::fs::remove_file(host.path("run/tdx-qgs/qgs.socket")).unwrap();
    std::fs::remove_file(host.path("dev/vhost-vsock")).unwrap();
    let document = expect(&host, "", &[]);
    assert_eq!(codes(&document, "warn"), ["HUGEPAGES", "KSM", "QGS", "THP", "VHOST_VSOCK"]);
    // Huge pages and merged pages, which protected guests cannot use, are fine for ordinary guests.
    let document = expect(&host, "--for vfio", &["IOMMU"]);
    assert_eq!(codes(&document, "warn"), ["THP", "VHOST_VSOCK"]);

    host.file("sys/kernel/iommu_groups/0/type", "DMA-FQ\n");
    let limit = "sys/module/vfio_iommu_type1/parameters/dma_entry_limit";
    host.file(limit, "65535\n");
    std::fs::remove_file(host.path("dev/iommu")).unwrap();
    let document = expect(&host, "--for vfio", &[]);
    let warnings = ["DMA_ENTRY_LIMIT", "IOMMUFD", "THP", "VHOST_VSOCK"];
    assert_eq!(codes(&document, "warn"), warnings);
    // The pages of 1 GiB with 4 KiB each, and QEMU's own mappings.
    let found = item(&document, "DMA_ENTRY_LIMIT")["found"].to_string();
    assert!(found.contains(&((1 << 18) + 32764).to_string()), "{found}");
    host.file(limit, "294908\n");
    assert_eq!(codes(&expect(&host, "--for vfio", &[]), "warn"), warnings[1..]);

    let contained = expect(&kvm_hosts::container(), "", &["KVM"]);
    assert!(codes(&contained, "warn").contains(&"CONTAINER"), "{contained:#}");
}

#[test]
fn options_in_modprobe_d_count_like_those_of_the_kernel_command_line() {
    let host = kvm_hosts::parameter_off();
    host.file("etc/modprobe.d/tdx.conf", "# comment\noptions kvm-intel nested=1 tdx=1\n");
    let document = expect(&host, "", &["KVM_INTEL_TDX"]);
    let found = item(&document, "KVM_INTEL_TDX");
    assert!(found["found"].as_str().unwrap().contains("is configured"), "{found}");
    // The kernel command line takes precedence.
    host.file("proc/cmdline", "nohibernate kvm_intel.tdx=0\n");
    let document = expect(&host, "", &["KVM_INTEL_TDX"]);
    assert!(item(&document, "KVM_INTEL_TDX")["fix"].to_string().contains("kvm_intel.tdx=1"));
}

#[test]
fn capabilities_of_a_real_libvirt_are_understood() {
    let host = kvm_hosts::ubuntu();
    let real = repository().join("tests/fixtures/domcapabilities/libvirt-12.8-tdx.xml");
    std::fs::copy(&real, host.path("capabilities.xml")).unwrap();
    assert_eq!(item(&expect(&host, "", &[]), "LIBVIRT_TDX")["status"], "ok");
    let text = std::fs::read_to_string(&real).unwrap();
    let without = text.replace("<value>tdx</value>", "").replace("<tdx supported='yes'/>", "");
    assert_ne!(text, without);
    host.file("capabilities.xml", without);
    expect(&host, "", &["LIBVIRT_TDX"]);
}

#[test]
fn facts_that_cannot_be_read_are_unknown_and_not_failures() {
    let host = kvm_hosts::ubuntu();
    for (text, says) in [
        ("<domainCapabilities>", "is not XML"),
        ("", "is not XML"),
        ("<domain type='kvm'/>", "<domain>"),
        ("\u{0}\u{1}", "is not XML"),
    ] {
        host.file("capabilities.xml", text);
        let document = expect(&host, "", &[]);
        let libvirt = item(&document, "LIBVIRT_TDX");
        assert_eq!(libvirt["status"], "unknown", "{libvirt}");
        assert!(libvirt["found"].as_str().unwrap().contains(says), "{libvirt}");
    }
    std::fs::remove_file(host.path("capabilities.xml")).unwrap();
    let document = expect(&host, "", &[]);
    let libvirt = ["LIBVIRT", "LIBVIRT_TDX", "LIBVIRT_VERSION", "NETWORK", "QEMU_VERSION"];
    let unknown = codes(&document, "unknown");
    assert!(libvirt.iter().all(|code| unknown.contains(code)), "{unknown:?}");

    // Files that cannot be read: directories stand in for files that only root can read.
    for path in ["proc/cpuinfo", "proc/cmdline", "sys/module/kvm_intel/parameters/tdx"] {
        std::fs::remove_file(host.path(path)).unwrap();
        std::fs::create_dir(host.path(path)).unwrap();
    }
    std::fs::write(host.path("proc/meminfo"), b"\xff\xfe").unwrap();
    let document = expect(&host, "--for tdx --for vfio", &[]);
    for code in [
        "CPU_TDX",
        "CPU_VIRTUALIZATION",
        "KERNEL_TDX",
        "KVM_INTEL_TDX",
        "HUGEPAGES",
        "DMA_ENTRY_LIMIT",
        "IOMMU",
    ] {
        assert_eq!(item(&document, code)["status"], "unknown", "{document:#}");
    }
    let nothing = Tree::new();
    let document = expect(&nothing, "--for tdx --for sev-snp --for vfio", &["IOMMU"]);
    assert_eq!(codes(&document, "ok").len(), 1, "{document:#}");
}

/// Replaces the content of each file of a host in turn with unexpected content.
#[test]
fn check_answers_whatever_the_content_of_a_file() {
    for host in [kvm_hosts::ubuntu(), kvm_hosts::snp()] {
        let root = host.path("").canonicalize().unwrap();
        for file in files(&root) {
            let good = std::fs::read(&file).unwrap();
            let long = good.repeat(200);
            let odd: &[u8] = b"\0\xff: \xfe=[]\n::\n";
            let bad = [b"", &long[..], odd, b"tdx -1 99999999999999999999"];
            for text in bad {
                std::fs::write(&file, text).unwrap();
                let run = check(&host, "--for tdx --for sev-snp --for vfio --for none");
                let document = run.answer(10);
                let told = document["items"].as_array().unwrap().len();
                assert_eq!(told, HostCode::ALL.len(), "{file:?}: {document:#}");
            }
            std::fs::write(&file, good).unwrap();
        }
    }
}

/// All files below a directory.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    entries.flat_map(below).collect()
}

#[test]
fn a_missing_tdx_module_is_reported_in_the_kernels_words_with_a_fix() {
    let document = expect(&kvm_hosts::module_not_loaded(), "", &["TDX_MODULE"]);
    let failure = item(&document, "TDX_MODULE");
    let text = |key: &str| failure[key].as_str().unwrap();
    assert!(text("found").contains("module not loaded"), "{failure}");
    assert!(text("fix").starts_with("turn on the SEAM loader in the BIOS"), "{failure}");
}

#[test]
fn wrong_arguments_and_absent_files_are_errors() {
    let host = kvm_hosts::ubuntu();
    let error = host.run("tdx-td", "host check --for tdy").error(2);
    assert!(error["hint"].as_str().unwrap().contains("tdx"), "{error}");
    host.run("tdx-td", "host").error(2);
    host.run("tdx-td", "host check --capabilities /nowhere.xml").error(4);
    // A directory that is not the root of a machine is refused.
    let folder = tempfile::tempdir().unwrap();
    for line in ["host check --for none", "host tune --scenario td -n", "host restore --yes"] {
        let line = format!("{line} --sysroot {}", folder.path().display());
        let error = tools::tool("tdx-td", line.split(' ')).error(4);
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .contains("neither a directory sys nor a directory proc"),
            "{error}"
        );
    }
}

#[test]
fn the_table_fits_one_screen() {
    let table = kvm_hosts::off_in_bios().run("tdx-td", "host check --for tdx --format table");
    assert_eq!(table.status, Some(10), "{table:#?}");
    assert!(table.stdout.lines().count() < 45, "{}", table.stdout);
    let failed: Vec<&str> = table.stdout.lines().filter(|line| line.contains(" FAIL ")).collect();
    assert!(failed.len() == 1 && failed[0].starts_with("CPU_TDX"), "{}", table.stdout);
}

#[test]
#[ignore = "needs root"]
fn check_of_a_capture_agrees_with_check_of_its_host() {
    let rig = Rig::start();
    let script = repository().join("examples/capture-sysfs");
    rig.shell(&format!("{} captured", script.display())).text();
    let judge = |line: &str| {
        let run = rig.shell(&format!("tdx-td host check {line} || [ $? = 10 ]"));
        run.document()["items"].as_array().unwrap().clone()
    };
    for kind in ["tdx", "sev-snp", "vfio"] {
        let host = judge(&format!("--for {kind}"));
        for item in judge(&format!("--for {kind} --sysroot captured")) {
            let mut same_code = host.iter().filter(|other| other["code"] == item["code"]);
            let on_host = same_code.next().unwrap();
            match item["status"].as_str().unwrap() {
                "ok" | "warn" | "fail" => assert_eq!(item["found"], on_host["found"], "{item}"),
                "unknown" if on_host["status"] != "unknown" => {
                    let code = item["code"].as_str().unwrap();
                    let of_libvirt = ["LIBVIRT", "NETWORK", "QEMU"];
                    let only_there = code.starts_with("KVM")
                        || of_libvirt.iter().any(|start| code.starts_with(start));
                    assert!(only_there, "{item}");
                }
                _ => {}
            }
        }
    }
}

#[test]
#[ignore = "needs root"]
fn check_of_a_real_host_reports_its_state() {
    let rig = Rig::start();
    let document = rig.tool("tdx-td", ["host", "check", "--for", "none"]).document();
    for code in
        ["FIRMWARE", "LIBVIRT", "LIBVIRT_ACCESS", "LIBVIRT_VERSION", "NETWORK", "QEMU_VERSION"]
    {
        assert_eq!(item(&document, code)["status"], "ok", "{document:#}");
    }
    // Missing support for TDX is a failure only of the check for TDX.
    let document = rig.tool("tdx-td", ["host", "check", "--for", "tdx"]).answer(10);
    let failures = codes(&document, "fail");
    assert!(
        failures.contains(&"LIBVIRT_VERSION") && failures.contains(&"FIRMWARE"),
        "{failures:?}"
    );
    assert_eq!(item(&document, "LIBVIRT_TDX")["status"], "not_applicable", "{document:#}");

    rig.shell("virsh net-destroy default").text();
    let document = rig.tool("tdx-td", ["host", "check", "--for", "none"]).document();
    assert_eq!(item(&document, "NETWORK")["status"], "warn", "{document:#}");
    rig.libvirtd("stop");
    let document = rig.tool("tdx-td", ["host", "check", "--for", "none"]).answer(10);
    assert_eq!(codes(&document, "fail"), ["LIBVIRT"]);
    // An ordinary user is told which facts he cannot see.
    let user = "setpriv --reuid 65534 --regid 65534 --clear-groups tdx-td host check --for none";
    let document = rig.shell(user).answer(10);
    assert_eq!(item(&document, "LIBVIRT_ACCESS")["status"], "warn", "{document:#}");
}
