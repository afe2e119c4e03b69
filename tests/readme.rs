//! Every command that the README and the pages in docs show is run, in order, on one host.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::time::Duration;

use serde_json::Value;
use support::{Rig, Run, guest_image, repository, wait_for};

/// The pages with commands.
const PAGES: [&str; 4] = ["README.md", "docs/scenarios.md", "docs/json.md", "docs/recipes.md"];

/// The lines of a page's `sh` blocks.
fn commands(page: &str) -> Vec<String> {
    let page = std::fs::read_to_string(repository().join(page)).unwrap();
    let blocks = page.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
    blocks.flat_map(str::lines).map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root"]
fn the_pages_are_true() {
    let rig = Rig::start();
    std::fs::copy(guest_image(false), rig.scratch().join("guest.qcow2")).unwrap();
    rig.tool("tdx-pool", ["ensure"]).document();
    rig.shell("truncate -s 64M disk").text();
    let disk = rig.loop_device("disk");
    let before = rig.state();
    let commands = PAGES.map(commands);
    assert!(commands.iter().all(|commands| commands.len() > 2), "a page shows no commands");
    for line in commands.concat() {
        let settings = format!("TDX_VIRT_TYPE=qemu TDX_MEMORY=256M DISK={disk}");
        let run = rig.shell(&format!("export {settings}; {line}"));
        run.text();
        // Only a guest that has booted can be asked to power itself off.
        wait_for("an address for every guest", Duration::from_secs(120), || {
            let domains = rig.tool("tdx-td", ["list"]).document();
            let mut items = domains["items"].as_array().unwrap().iter();
            let is_up = |item: &Value| item["ip"].is_string() || item["base"].is_null();
            items.all(|item| item["state"] != "running" || is_up(item)).then_some(())
        });
    }
    rig.shell("tdx-pool delete guest.qcow2 --yes").document();
    assert_eq!(rig.state(), before);
}

#[test]
fn every_kind_of_document_is_on_its_page() {
    let page = std::fs::read_to_string(repository().join("docs/json.md")).unwrap();
    for schema in std::fs::read_dir(repository().join("docs/schema")).unwrap() {
        let name = schema.unwrap().file_name().into_string().unwrap();
        assert!(page.contains(&format!("](schema/{name})")), "docs/json.md lacks {name}");
    }
}

#[test]
#[ignore = "needs root"]
fn the_demo_runs() {
    let run = Run::of(support::on_path(repository().join("examples/demo")), b"");
    assert!(run.text().contains("Nothing is left"), "{run:#?}");
}
