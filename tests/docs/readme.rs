//! Every command that the README and the pages in docs show is run, in order, on one host.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use serde_json::Value;

use crate::support::hosts;
use crate::support::rig::{Rig, guest_image};
use crate::support::tools::{self, Run, repository};
use crate::support::tree::Tree;
use crate::support::wait::wait_for;

/// The pages with commands.
const PAGES: [&str; 2] = ["README.md", "docs/json.md"];

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
        wait_for("an address for every guest", || {
            let domains = rig.tool("tdx-td", ["list"]).document();
            let mut items = domains["items"].as_array().unwrap().iter();
            let is_up = |item: &Value| item["ip"].is_string() || item["base"].is_null();
            items.all(|item| item["state"] != "running" || is_up(item)).then_some(())
        });
    }
    rig.shell("tdx-pool delete guest.qcow2 --yes").document();
    assert_eq!(rig.state(), before);
}

/// What a command of a `console` block prints: here, in the rig, or of a server made of files.
fn screen(rig: &Rig, server: &Tree, command: &str) -> String {
    let (tool, line) = command.split_once(' ').unwrap();
    let run = match tool {
        "tdx-td" | "tdx-pool" => rig.shell(&format!("{command} --format table")),
        _ => server.run(tool, &format!("{line} --format table -q")),
    };
    run.text().to_owned()
}

/// Without what differs from run to run: random names, addresses, sizes, and how wide they make a column.
fn stable(screen: &str) -> Vec<String> {
    let plain = |word: &str| {
        let random = word.contains("overlay.") || word.starts_with("192.168.122.");
        let size = word.parse::<f64>().is_ok() || word.ends_with("iB");
        if random || size { "*".to_owned() } else { word.to_owned() }
    };
    let words = |line: &str| line.split_whitespace().map(plain).collect::<Vec<_>>().join(" ");
    screen.lines().map(words).collect()
}

/// `TDX_UPDATE=1` writes the screens anew.
#[test]
#[ignore = "needs root"]
fn the_screens_of_the_readme_are_true() {
    let rig = Rig::start();
    let guest = guest_image(false).display().to_string();
    rig.shell(&format!(
        "tdx-td new -i '{guest}' --name web1 --security none --virt-type qemu --memory 256M \
         --vcpus 1 --wait ip"
    ))
    .document();
    let server = hosts::server();
    let path = repository().join("README.md");
    let mut readme = std::fs::read_to_string(&path).unwrap();
    let blocks: Vec<String> = readme
        .split("```console\n$ ")
        .skip(1)
        .map(|block| block.split("```").next().unwrap().to_owned())
        .collect();
    assert_eq!(blocks.len(), 5);
    for block in blocks {
        let (command, shown) = block.split_once('\n').unwrap();
        let there = screen(&rig, &server, command);
        if std::env::var_os("TDX_UPDATE").is_some() {
            let fresh = format!("$ {command}\n{there}```");
            readme = readme.replace(&format!("$ {block}```"), &fresh);
        } else {
            assert_eq!(stable(&there), stable(shown), "{command}");
        }
    }
    if std::env::var_os("TDX_UPDATE").is_some() {
        std::fs::write(path, readme).unwrap();
    }
    rig.shell("tdx-td delete web1 --yes --timeout 0").document();
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
    let run = Run::of(tools::on_path(repository().join("examples/demo")), b"");
    assert!(run.text().contains("Nothing is left"), "{run:#?}");
}
