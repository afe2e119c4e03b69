//! `tdx-pool import` by libvirt's upload: for members of the group libvirt, and to other hosts.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::support::pool::{IMAGES, end, raw_image, signal};
use crate::support::rig::Rig;
use crate::support::tools::Run;
use crate::support::wait;

const REMOTE: &str = "-c qemu+tcp://127.0.0.1/system";

/// Runs a tool as an ordinary user in the group libvirt, who must name the system connection.
fn as_user(rig: &Rig, line: &str) -> Run {
    let drop = "setpriv --reuid 65534 --regid 65534 --groups $(getent group libvirt | cut -d: -f3)";
    rig.shell(&format!("{drop} env HOME=/tmp LIBVIRT_DEFAULT_URI=qemu:///system tdx-pool {line}"))
}

#[test]
#[ignore = "needs root"]
fn import_by_upload_creates_the_same_volume_as_import_by_root() {
    let rig = Rig::start();
    let image = rig.image("a.img", 1);
    fs::set_permissions(&image, fs::Permissions::from_mode(0o644)).unwrap();
    let sum = rig.shell("sha256sum a.img").text()[..64].to_owned();
    rig.pool("ensure").document();
    rig.shell("cp a.img mine.img; chown 65534 mine.img; cp a.img secret.img; chmod 600 secret.img")
        .text();

    let run = |how: &str, line: &str| match how {
        "user" => as_user(&rig, line),
        _ => rig.pool(&format!("{REMOTE} {line}")),
    };
    for how in ["user", "remote"] {
        let before = rig.state();
        let plan = run(how, "import a.img -n").item();
        assert_eq!(rig.state(), before, "{how}: a dry run changed something");
        let wrong = "0".repeat(64);
        for more in ["", "-n"] {
            run(how, &format!("import a.img --sha256 {wrong} {more}")).error(3);
            assert_eq!(rig.state(), before, "{how}");
        }
        let mut made = run(how, &format!("import a.img --sha256 {sum}")).item();
        assert_eq!(made["sha256"], sum);
        made["sha256"] = json!(null);
        assert_eq!(made, plan, "{how}: the plan was another");
        assert_eq!(rig.names(), ["a.img"]);
        assert_eq!(rig.owner("a.img"), (0, rig.qemu_group(), 0o640), "{how}");
        assert!(rig.shell(&format!("cmp a.img {IMAGES}/a.img")).text().is_empty());

        assert_eq!(run(how, "import a.img").document()["changed"], false, "{how}");
        run(how, &format!("import a.img --sha256 {wrong}")).error(3);
        assert_eq!(run(how, &format!("import a.img --sha256 {sum}")).item()["action"], "none");
        // Root finds the same image.
        assert_eq!(rig.pool("import a.img").document()["changed"], false);
        for other in [rig.image("other", 2), rig.image("other", 3)] {
            raw_image(&other, if how == "user" { 1 << 20 } else { 2 << 20 }, 5);
            fs::set_permissions(&other, fs::Permissions::from_mode(0o644)).unwrap();
            run(how, "import other --name a.img").error(5);
        }
        run(how, "import a.img --compress --name x").error(6);
        let needed = run(how, "info").item();
        assert_eq!((&needed["name"], &needed["volumes"]), (&json!("tdvirsh-pool"), &json!(1)));
        assert_eq!(run(how, "delete a.img --yes").item()["action"], "delete");
        assert_eq!(rig.names(), Vec::<String>::new());
    }
    as_user(&rig, "import secret.img").error(7);
    as_user(&rig, "cleanup").error(7);
    rig.pool(&format!("{REMOTE} cleanup")).error(6);
    // A pool that a user creates belongs to root.
    assert_eq!(
        as_user(&rig, "ensure --pool u --path /var/lib/libvirt/u").item()["action"],
        "create"
    );
    assert_eq!(as_user(&rig, "import mine.img --pool u").item()["action"], "import");
    // A volume that was created, and then removed, without libvirt.
    rig.shell(&format!("cp a.img {IMAGES}/b.img")).text();
    assert_eq!(as_user(&rig, "import a.img --name b.img").item()["action"], "none");
    rig.shell(&format!("rm {IMAGES}/b.img")).text();
    assert_eq!(as_user(&rig, "import a.img --name b.img").item()["action"], "import");
    assert_eq!(rig.shell("ls -A /run/lock/tdx").text(), "");
}

#[test]
#[ignore = "needs root"]
fn a_stopped_upload_leaves_nothing_or_a_volume_that_cleanup_deletes() {
    let rig = Rig::start();
    rig.pool("ensure").document();
    raw_image(rig.scratch().join("big.img"), 160 << 20, 1);
    let before = rig.state();
    let arguments = ["-c", "qemu+tcp://127.0.0.1/system", "import", "big.img"];
    for name in ["INT", "TERM"] {
        let import = rig.begin(&arguments);
        rig.halt(&import);
        signal(&import, name);
        let (run, by) = end(import);
        assert!(by.is_some(), "{run:#?}");
        assert!(run.stderr.contains("interrupted"), "{run:#?}");
        assert_eq!(rig.state(), before, "SIG{name} left something: {run:#?}");
    }
    let import = rig.begin(&arguments);
    rig.halt(&import);
    signal(&import, "KILL");
    end(import);
    // libvirtd may hold the volume open a moment longer.
    wait::wait_for("the cleanup", || {
        rig.pool("cleanup --yes").document();
        rig.names().is_empty().then_some(())
    });
    assert_eq!(rig.state(), before);

    let import = rig.begin(&arguments);
    rig.halt(&import);
    rig.libvirtd("kill");
    let error = end(import).0.error(6);
    assert!(error["left_behind"][0].as_str().unwrap().starts_with("volume 'import."), "{error:#}");
    rig.libvirtd("start");
    rig.pool("cleanup --yes").document();
    assert_eq!(rig.state(), before);

    // Two simultaneous uploads create one complete image.
    raw_image(rig.scratch().join("a.img"), 16 << 20, 2);
    let remote = ["-c", "qemu+tcp://127.0.0.1/system", "import", "a.img"];
    let runs = [rig.begin(&remote), rig.begin(&remote), rig.begin(&["import", "a.img"])];
    let runs = runs.map(|child| end(child).0);
    assert!(runs.iter().any(|run| run.status == Some(0)), "{runs:#?}");
    for run in runs.iter().filter(|run| run.status != Some(0)) {
        run.error(5);
    }
    assert_eq!(rig.names(), ["a.img"]);
    assert!(rig.shell(&format!("cmp a.img {IMAGES}/a.img")).text().is_empty());
}

/// A blank disk looks like an image whose upload ended with the death of libvirtd.
#[test]
#[ignore = "needs root"]
fn import_keeps_a_blank_disk_that_a_domain_needs() {
    let rig = Rig::start();
    rig.pool("ensure").document();
    let image = rig.image("a.img", 1);
    let size = fs::metadata(&image).unwrap().len();
    rig.shell(&format!("truncate -s {size} {IMAGES}/a.img && virsh pool-refresh tdvirsh-pool"))
        .text();
    rig.define("vm", &[format!("<source file='{IMAGES}/a.img'/>")]);
    let before = rig.state();
    let refused = rig.pool(&format!("{REMOTE} import a.img")).error(5);
    assert_eq!(refused["message"], "volume 'a.img' is needed by domain 'vm'");
    assert_eq!(rig.state(), before);
    rig.virsh(["undefine", "vm"]);
    rig.pool(&format!("{REMOTE} import a.img")).document();
    assert!(rig.shell(&format!("cmp a.img {IMAGES}/a.img")).text().is_empty());
}
