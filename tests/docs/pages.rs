//! Every command that the README, the guide and the reference show is run, and its output compared.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::support::hosts;
use crate::support::page::{self, Page, Shell};
use crate::support::quote_samples::CURRENT;
use crate::support::rig::{Rig, guest_image};
use crate::support::tools::{Run, on_path, repository};
use crate::support::vectors::vector;

/// A test for each page that shows commands.
macro_rules! pages {
    ($($test:ident: $page:literal,)+) => {
        const PAGES: &[&str] = &[$($page),+];
        $(
            #[test]
            #[ignore = "needs root"]
            fn $test() {
                run($page);
            }
        )+
    };
}

pages! {
    readme_shows_what_its_commands_print: "README.md",
    attest_page_shows_what_its_commands_print: "docs/guide/attest.md",
    automation_page_shows_what_its_commands_print: "docs/guide/automation.md",
    configuration_page_shows_what_its_commands_print: "docs/reference/configuration.md",
    disks_page_shows_what_its_commands_print: "docs/guide/disks.md",
    exit_codes_page_shows_what_its_commands_print: "docs/reference/exit-codes.md",
    first_guest_page_shows_what_its_commands_print: "docs/guide/first-guest.md",
    gpu_page_shows_what_its_commands_print: "docs/guide/gpu.md",
    json_page_shows_what_its_commands_print: "docs/reference/json.md",
    migrating_page_shows_what_its_commands_print: "docs/guide/migrating.md",
    passthrough_page_shows_what_its_commands_print: "docs/guide/passthrough.md",
    scenarios_page_shows_what_its_commands_print: "docs/guide/scenarios.md",
    trust_domain_page_shows_what_its_commands_print: "docs/guide/trust-domain.md",
}

/// Runs the page's commands on a host with a private libvirtd, those marked `server` on an emulated server
/// with eight GPUs and those marked `vectors` beside the event log and quote of a real trust domain. Fails when the page
/// leaves anything behind.
fn run(page: &str) {
    let rig = Rig::start_for_booted_guests();
    std::fs::copy(guest_image(false), rig.scratch().join("guest.qcow2")).unwrap();
    std::os::unix::fs::symlink(repository().join("examples"), rig.scratch().join("examples"))
        .unwrap();
    rig.tool("tdx-pool", ["ensure"]).document();
    rig.shell("truncate -s 64M disk").text();
    let disk = rig.loop_device("disk");
    for (from, to) in [(CURRENT.quote(), "quote.bin"), (CURRENT.collateral(), "collateral.json")] {
        std::fs::copy(from, rig.scratch().join(to)).unwrap();
    }
    let server = hosts::server();
    let before = rig.state();
    let settings =
        format!("export HOME=$PWD TDX_VIRT_TYPE=qemu TDX_MEMORY=256M TDX_VCPUS=1 DISK={disk}");
    let root = server.path("").display().to_string();
    let on_server: String = ["tdx-iommu", "tdx-gpu", "tdx-disk", "tdx-td"]
        .map(|tool| format!("{tool}() {{ command {tool} --sysroot '{root}' \"$@\"; }}; "))
        .concat();
    let in_rig = |line: &str| -> Run { rig.shell(line) };
    let here = |line: &str| -> Run {
        let mut command = on_path("bash");
        command.current_dir(rig.scratch()).args(["-o", "pipefail", "-c", line]);
        Run::of(command, b"")
    };
    let on_server = format!("{on_server}:");
    let mut places: Vec<(&str, &str, Shell<'_>)> =
        vec![("", &settings, &in_rig), ("server", &on_server, &here)];
    let (log, quote) = (vector("cos113-ccel.bin"), vector("cos113-quote.bin"));
    let replayed = rig.scratch().join("vectors");
    let of_vectors = format!("cd '{}'", replayed.display());
    if let (Some(log), Some(quote)) = (log, quote) {
        std::fs::create_dir(&replayed).unwrap();
        std::fs::copy(log, replayed.join("ccel.bin")).unwrap();
        std::fs::copy(quote, replayed.join("quote.bin")).unwrap();
        places.push(("vectors", &of_vectors, &in_rig));
    }
    Page::read(page).run(&places);
    assert_eq!(rig.state(), before, "{page} leaves something");
}

#[test]
fn every_page_with_commands_has_a_test() {
    for name in page::all() {
        let page = Page::read(&name);
        assert_eq!(PAGES.contains(&&*name), page.has_commands_at(&["", "server"]), "{name}");
        for block in page.languages() {
            assert_ne!(block, "bash", "{name}: commands are in sh or console blocks");
        }
    }
}
