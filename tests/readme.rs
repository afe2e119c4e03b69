//! Every command the README shows is run, in order, on one host.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::time::Duration;

use support::{Rig, Run, guest_image, repository, wait_for};

/// The lines of the README's `sh` blocks.
fn commands() -> Vec<String> {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let blocks = readme.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
    blocks.flat_map(str::lines).map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root"]
fn the_readme_is_true() {
    let rig = Rig::start();
    std::fs::copy(guest_image(false), rig.scratch().join("guest.qcow2")).unwrap();
    rig.tool("tdx-pool", ["ensure"]).document();
    let before = rig.state();
    let commands = commands();
    assert!(commands.len() > 10, "the README shows fewer commands than expected");
    for line in commands {
        let run = rig.shell(&format!("export TDX_VIRT_TYPE=qemu TDX_MEMORY=256M; {line}"));
        run.text();
        // Only a guest that has booted can be asked to power itself off.
        wait_for("an address for every guest", Duration::from_secs(120), || {
            let domains = rig.tool("tdx-td", ["list"]).document();
            let mut items = domains["items"].as_array().unwrap().iter();
            items.all(|item| item["state"] != "running" || item["ip"].is_string()).then_some(())
        });
    }
    assert_eq!(rig.state(), before);
}

#[test]
#[ignore = "needs root"]
fn the_demo_runs() {
    let run = Run::of(support::on_path(repository().join("examples/demo")), b"");
    assert!(run.text().contains("Nothing is left"), "{run:#?}");
}
