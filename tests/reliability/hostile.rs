//! Two simultaneous commands that change one object: they must leave what one of the two orders leaves, or
//! what one command leaves if the other is refused.
//!
//! `TDX_ROUNDS` sets the rounds of each pair; `make test-full` runs 30.

use std::fs;

use crate::support::file_race::FileRace;
use crate::support::pool::raw_image;
use crate::support::race::{self, Race};
use crate::support::rig::Rig;
use crate::support::td::foreign;
use crate::support::tree::Tree;
use crate::support::tuned;
use crate::support::world::rig_with_images;

/// Creates a guest from a disk of random bytes, which cannot boot.
const NEW: &str =
    "tdx-td new -i idle.raw --name x --security none --memory 64M --vcpus 1 --hotplug-ports 2";
const OTHER: &str =
    "tdx-td new -i idle.raw --name x --security none --memory 80M --vcpus 1 --hotplug-ports 2";
const DELETE: &str = "tdx-td delete x --yes --timeout 0";

/// Devices of a domain without a boot disk: the guest stays in its firmware and answers no request.
const PORTS: &str = "<controller type='pci' model='pcie-root'/>\
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>";

/// A rig with images; `idle.raw` is in the pool.
fn rig_with_idle_base() -> Rig {
    let rig = rig_with_images();
    raw_image(rig.scratch().join("third.raw"), 6 << 20, 3);
    rig.shell("tdx-pool import image.raw --name idle.raw").document();
    rig
}

/// Runs every pair of commands in one rig.
fn run_all(rig: &Rig, before: &str, undo: &str, pairs: &[[&str; 2]]) {
    let races = pairs.iter().map(|&commands| {
        let makes_orphans = commands.concat().contains("overlay");
        Race { commands, before, undo, makes_orphans }
    });
    race::run_all(rig, &races.collect::<Vec<_>>());
}

#[test]
#[ignore = "needs root"]
fn commands_on_one_base_image_leave_the_result_of_one_order() {
    let rig = rig_with_idle_base();
    let import = "tdx-pool import image.raw --name v.raw";
    let replace = "tdx-pool import other.raw --name v.raw --replace --yes";
    let third = "tdx-pool import third.raw --name v.raw --replace --yes";
    let delete = "tdx-pool delete v.raw --yes";
    let new = NEW.replace("idle.raw", "v.raw");
    let overlay = "tdx-td overlay -i v.raw";
    let undo = format!("{DELETE} && tdx-pool cleanup --yes && {delete}");
    let pairs = [
        [replace, &new],
        [replace, overlay],
        [replace, third],
        [replace, delete],
        [import, delete],
        [delete, &new],
        [delete, overlay],
        [delete, delete],
    ];
    run_all(&rig, import, &undo, &pairs);
}

#[test]
#[ignore = "needs root"]
fn commands_that_make_one_volume_or_pool_leave_the_result_of_one_order() {
    let rig = rig_with_idle_base();
    let import = "tdx-pool import image.raw --name v.raw";
    let other = "tdx-pool import other.raw --name v.raw";
    let delete = "tdx-pool delete v.raw image.raw --yes";
    run_all(&rig, "true", delete, &[[import, import], [import, other], [import, delete]]);
    let new = |name: &str| NEW.replace("idle.raw", "./image.raw").replace("--name x", name);
    let undo = format!("tdx-td delete x y --yes --timeout 0 && {delete}");
    run_all(&rig, "true", &undo, &[[&new("--name x"), &new("--name y")]]);

    let no_pool = "virsh pool-destroy tdvirsh-pool; virsh pool-undefine tdvirsh-pool";
    let undo = format!("tdx-pool ensure && {delete}");
    run_all(&rig, no_pool, &undo, &[[import, other], ["tdx-pool ensure", import]]);

    let ensure = "tdx-pool ensure --pool more --path /var/lib/libvirt/images/more";
    let same_path = ensure.replace("--pool more", "--pool same");
    let other_path = ensure.replace("images/more", "images/other");
    let undo = "for pool in more same; do ! virsh pool-info $pool || \
                { virsh pool-destroy $pool; virsh pool-undefine $pool; }; done; \
                rm -rf /var/lib/libvirt/images/{more,other}";
    run_all(&rig, "true", undo, &[[ensure, ensure], [ensure, &same_path], [ensure, &other_path]]);
}

#[test]
#[ignore = "needs root"]
fn a_cleanup_beside_another_command_leaves_the_result_of_one_order() {
    let rig = rig_with_idle_base();
    let cleanup = "tdx-pool cleanup --yes";
    let orphans =
        "tdx-td overlay -i idle.raw; touch /var/lib/libvirt/images/import.000000000000000.part";
    let overlay = "tdx-td overlay -i idle.raw";
    let import = "tdx-pool import other.raw --name v.raw";
    let undo = format!("{DELETE} && {cleanup} && tdx-pool delete v.raw --yes");
    run_all(
        &rig,
        orphans,
        &undo,
        &[[cleanup, NEW], [cleanup, overlay], [cleanup, import], [cleanup, cleanup]],
    );
    run_all(&rig, NEW, &undo, &[[cleanup, DELETE]]);
}

#[test]
#[ignore = "needs root"]
fn commands_that_create_one_domain_leave_the_result_of_one_order() {
    let rig = rig_with_idle_base();
    let overwrite = format!("{OTHER} --overwrite --yes");
    let stop = "tdx-td stop x --force";
    run_all(&rig, "true", DELETE, &[[NEW, NEW], [NEW, OTHER], [NEW, DELETE]]);
    run_all(
        &rig,
        NEW,
        DELETE,
        &[[&overwrite, DELETE], [&overwrite, stop], [&overwrite, &overwrite]],
    );
    let off = format!("{NEW} && {stop}");
    run_all(&rig, &off, DELETE, &[[&overwrite, "tdx-td start x"]]);
}

#[test]
#[ignore = "needs root"]
fn commands_on_one_domain_leave_the_result_of_one_order() {
    let rig = rig_with_idle_base();
    let (start, stop) = ("tdx-td start x", "tdx-td stop x --force");
    run_all(&rig, NEW, DELETE, &[[stop, DELETE], [stop, stop], [stop, start], [DELETE, DELETE]]);
    let off = format!("{NEW} && {stop}");
    run_all(&rig, &off, DELETE, &[[start, DELETE], [start, start], [start, stop]]);
}

#[test]
#[ignore = "needs root"]
fn commands_on_the_devices_of_one_domain_leave_the_result_of_one_order() {
    let rig = rig_with_images();
    let host = Tree::with_two_cards(rig.scratch());
    let config = |name: &str, cards: &[u8]| {
        let card = |index: &u8| format!("      - match: {{driver: igb, select_index: {index}}}\n");
        let cards: String = cards.iter().map(card).collect();
        let list = if cards.is_empty() { " []\n".to_owned() } else { format!("\n{cards}") };
        let text = format!("vms:\n  a:\n    passthrough_devices:{list}");
        fs::write(rig.scratch().join(name), text).unwrap();
        format!("tdx-td hostdevs --config {name} --yes --sysroot {}", host.path("").display())
    };
    let (one, both, none) =
        (config("one.yaml", &[0]), config("both.yaml", &[0, 1]), config("none.yaml", &[]));
    fs::write(rig.scratch().join("a.xml"), foreign("a", PORTS)).unwrap();
    let undo = "! virsh dominfo a || virsh undefine a";
    let delete = "tdx-td delete a --foreign --yes";
    run_all(&rig, "virsh define a.xml", undo, &[[&one, &one], [&one, &both], [&one, delete]]);
    // Another tool adds a disk to the definition meanwhile.
    rig.disk("disk");
    let attach = "tdx-disk attach a ./disk --persistent";
    run_all(&rig, "virsh define a.xml", undo, &[[&one, attach]]);
    let before = format!("virsh define a.xml && {both}");
    run_all(&rig, &before, undo, &[[&one, &none], [&none, delete]]);
}

#[test]
#[ignore = "needs root"]
fn commands_on_one_disk_leave_the_result_of_one_order() {
    let rig = rig_with_idle_base();
    rig.disk("disk");
    rig.disk("other");
    for name in ["x", "y"] {
        fs::write(rig.scratch().join(format!("{name}.xml")), foreign(name, PORTS)).unwrap();
    }
    let define = "virsh define x.xml && virsh define y.xml";
    let undo = "for name in x y; do virsh destroy $name; virsh undefine $name; done; \
                virsh list --all --name | grep . && exit 1 || true";
    let attach = "tdx-disk attach x ./disk --persistent";
    let second = "tdx-disk attach y ./disk --persistent";
    let detach = "tdx-disk detach x ./disk";
    let another = "tdx-disk attach x ./other --persistent";
    let delete = "tdx-td delete x --yes --timeout 0 --foreign";
    run_all(
        &rig,
        define,
        undo,
        &[
            [attach, attach],
            [attach, second],
            [attach, another],
            [attach, delete],
            [attach, detach],
        ],
    );
    let given = format!("{define} && {attach}");
    run_all(&rig, &given, undo, &[[detach, detach], [detach, delete], [detach, second]]);

    // Guests that run, and stay in their firmware.
    let running = format!("{define} && virsh start x && virsh start y");
    let (attach, second) = ("tdx-disk attach x ./disk", "tdx-disk attach y ./disk");
    run_all(
        &rig,
        &running,
        undo,
        &[[attach, attach], [attach, second], [attach, delete], [attach, "tdx-td stop x --force"]],
    );
}

#[test]
#[ignore = "needs root"]
fn commands_on_the_settings_of_one_host_leave_the_result_of_one_order() {
    let tree = tuned::plain();
    let root = tree.path("");
    let state = || tuned::files(&root);
    let line = |words: &str| format!("tdx-td host {words} --yes --sysroot {}", root.display());
    let tune = line("tune --scenario securevm");
    let lasting = line("tune --scenario securevm --persist");
    let other = line("tune --scenario computation");
    let instead = line("tune --scenario computation --replace");
    let restore = line("restore");
    for (before, commands) in [
        (&[][..], [&tune, &restore]),
        (&[], [&tune, &tune]),
        (&[], [&tune, &other]),
        (&[], [&lasting, &restore]),
        (&[tune.as_str()], [&restore, &restore]),
        (&[&tune], [&instead, &restore]),
    ] {
        let commands = commands.map(String::as_str);
        FileRace { commands, before, undo: &restore, state: &state }.run();
    }
}
