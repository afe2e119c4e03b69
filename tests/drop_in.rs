//! `examples/tdvirsh`, with the command lines of the script it stands in for.

mod support;
#[path = "support/template.rs"]
mod template;

use support::{Rig, Run, guest_image, repository};

#[test]
#[ignore = "needs root"]
fn the_original_command_line_works() {
    let rig = Rig::start();
    let tdvirsh = |arguments: &str| -> Run {
        let script = repository().join("examples/tdvirsh");
        let settings = "TDX_SECURITY=none TDX_VIRT_TYPE=qemu TDX_MEMORY=256M TDX_VCPUS=1";
        rig.shell(&format!("{settings} {} {arguments}", script.display()))
    };
    let fails = |arguments: &str, status: i32, says: &str| {
        let run = tdvirsh(arguments);
        assert_eq!(run.status, Some(status), "{run:#?}");
        assert!(format!("{}{}", run.stdout, run.stderr).contains(says), "{run:#?}");
    };
    for usage in ["", "-h", "--help", "delete", "delete somebody-elses"] {
        assert!(tdvirsh(usage).text().contains("tdvirsh new [-i IMAGE]"), "{usage}");
    }
    fails("new --foo", 1, "tdvirsh: unrecognized option '--foo'. See 'tdvirsh -h'.");
    fails("new -i", 1, "option '-i' needs a value");
    fails("new -i /no/such.qcow2", 1, "TD image not found at path '/no/such.qcow2'.");
    fails("new -t /no/such.xml", 1, "guest XML template not found at path '/no/such.xml'.");
    fails("new -u tdx", 1, "ERROR: At least one authentication method required");
    fails("new -p secret", 1, "ERROR: --user is required to specify the guest username");
    fails("delete tdvirsh-gone", 1, "Problem trying to assess domain : tdvirsh-gone");

    let image = guest_image(false);
    let made = tdvirsh(&format!("new -i {} -u tdx -p secret", image.display()));
    assert!(made.text().contains("State:          running"), "{made:#?}");
    let name = rig.shell("tdx-td list --format name").text().trim().to_owned();
    assert!(name.starts_with("tdvirsh-regular_vm-"), "{name}");
    let list = tdvirsh("list");
    assert!(list.text().contains(&name) && list.stdout.contains("running (ip:"), "{list:#?}");
    assert!(tdvirsh("pool-info").text().contains("=== Available Volumes ==="));
    assert!(tdvirsh("pool-cleanup").text().contains("Removed 0 orphaned overlay volume(s)."));
    assert_eq!(tdvirsh(&format!("domstate {name}")).text().trim(), "running");
    rig.tool("tdx-td", ["stop", &name, "--force"]).document();
    let gone = tdvirsh(&format!("delete {name}"));
    assert!(gone.text().contains("Removing overlay volume: "), "{gone:#?}");
    assert!(gone.stdout.contains(&format!("Domain {name} destroyed successfully.")), "{gone:#?}");

    // A template of Canonical's, but for what this machine cannot run.
    let text = template::emulated_original("regular_vm");
    rig.template(
        "my.xml.template",
        &text.replace("unit=\"GiB\">2", "unit=\"MiB\">256").replace("16", "1"),
    );
    let made = tdvirsh(&format!("new -i {} -t my.xml.template", image.display()));
    assert!(made.text().contains("Name:           tdvirsh-my-"), "{made:#?}");
    assert!(tdvirsh("list").text().contains("hostfwd:2201,"), "{made:#?}");
    rig.shell("tdx-td list --format name | xargs tdx-td stop --force --yes").text();
    tdvirsh("delete all").text();
    assert_eq!(rig.shell("tdx-td list --format name").text(), "");
}
