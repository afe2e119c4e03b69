//! `examples/tdvirsh`, with the command lines of the original script.

use crate::support::rig::{Rig, guest_image};
use crate::support::td;
use crate::support::template;
use crate::support::tools::{self, Run, repository};

#[test]
#[ignore = "needs root"]
fn tdvirsh_accepts_the_command_lines_of_the_original() {
    let rig = Rig::start_for_booted_guests();
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
    // The lines of virsh, each without its leading space and with a trailing space.
    td::define(&rig, &td::foreign("somebody-elses", ""));
    let list = tdvirsh("list");
    let lines: Vec<&str> = list.text().lines().collect();
    let width = name.len();
    assert_eq!(lines[0], format!("Id   {:width$}   State ", "Name"));
    assert_eq!(lines[1], format!("{} ", "-".repeat(width + 19)));
    assert!(lines[2].starts_with(&format!("1    {name}   running (ip:")), "{list:#?}");
    assert!(lines[2].ends_with(')'), "{list:#?}");
    assert_eq!(lines[3], format!("-    {:width$}   shut off ", "somebody-elses"));
    assert_eq!(lines[4..], [" "]);
    rig.virsh(["undefine", "somebody-elses"]);
    let info = tdvirsh("pool-info");
    let virsh = |line: &[&str]| rig.virsh(line);
    assert_eq!(
        info.text().trim_end(),
        format!(
            "=== Storage Pool Information ===\n{}\n\n=== Available Volumes ===\n {}",
            virsh(&["pool-info", "tdvirsh-pool"]),
            virsh(&["vol-list", "tdvirsh-pool"])
        )
    );
    assert!(tdvirsh("pool-cleanup").text().contains("Removed 0 orphaned overlay volume(s)."));
    assert_eq!(tdvirsh(&format!("domstate {name}")).text().trim(), "running");
    rig.tool("tdx-td", ["stop", &name, "--force"]).document();
    let gone = tdvirsh(&format!("delete {name}"));
    assert!(gone.text().contains("Removing overlay volume: "), "{gone:#?}");
    assert!(gone.stdout.contains(&format!("Domain {name} destroyed successfully.")), "{gone:#?}");

    // A template of Canonical's, without the parts that this machine cannot run.
    let text = template::emulated_original("regular_vm");
    rig.template(
        "my.xml.template",
        &text.replace("unit=\"GiB\">2", "unit=\"MiB\">256").replace("16", "1"),
    );
    let made = tdvirsh(&format!("new -i {} -t my.xml.template", image.display()));
    assert!(made.text().contains("Name:           tdvirsh-my-"), "{made:#?}");
    assert!(tdvirsh("list").text().contains("hostfwd:2201,"), "{made:#?}");
    let made = tdvirsh(&format!("new -i {} -t my.xml.template", image.display()));
    made.text();
    let names = rig.shell("tdx-td list --format name").text().to_owned();
    let gone = tdvirsh("delete all");
    let mut lines = gone.text().lines();
    for name in names.lines() {
        assert_eq!(lines.next(), Some(&*format!("Destroying domain {name}")), "{gone:#?}");
        assert_eq!(lines.next(), Some("Waiting for VM to shutdown ..."));
        let overlay = lines.next().unwrap();
        assert!(overlay.starts_with("Removing overlay volume: overlay."), "{gone:#?}");
        assert_eq!(lines.next(), Some(&*format!("Domain {name} destroyed successfully.")));
    }
    assert_eq!((lines.next(), lines.next()), (Some("Cleanup complete."), None), "{gone:#?}");
    assert_eq!(rig.shell("tdx-td list --format name").text(), "");
}

/// The image and the template lie beside the script, as in a checkout of the original.
#[test]
#[ignore = "needs root"]
fn tdvirsh_finds_image_and_template_beside_itself_and_waits_as_requested() {
    let rig = Rig::start_for_booted_guests();
    let text = template::emulated_original("trust_domain");
    let text = template::without(&text, "launchSecurity").replace('>', ">\n");
    let small = text.replace("16\n", "256\n").replace("unit=\"GiB\"", "unit=\"MiB\"");
    let small = small.replace("32", "1").replace(">\n", ">");
    rig.shell("mkdir -p tools/image").text();
    rig.template("tools/trust_domain.xml.template", &small);
    let image = guest_image(true);
    rig.shell(&format!(
        "cp {} tools/tdvirsh; . /etc/os-release; \
         cp {} tools/image/tdx-guest-ubuntu-$VERSION_ID-generic.qcow2",
        repository().join("examples/tdvirsh").display(),
        image.display()
    ))
    .text();
    let made = rig.shell("cd / && $OLDPWD/tools/tdvirsh new");
    assert!(made.text().contains("Name:           tdvirsh-trust_domain-"), "{made:#?}");
    let tools = rig.scratch().join("tools").display().to_string();
    assert!(made.stdout.contains(&format!("{tools}/image/tdx-guest-ubuntu-")), "{made:#?}");
    assert!(made.stdout.contains(&format!("and {tools}/trust_domain.xml.template ")), "{made:#?}");

    // The guest ignores the power button; the original waits 5 seconds.
    let tdx_td = tools::bin("tdx-td");
    let logged =
        format!("#!/bin/sh\necho \"$*\" >>{tools}/calls\nexec {} \"$@\"\n", tdx_td.display());
    rig.template("tools/tdx-td", &logged);
    rig.shell("chmod +x tools/tdx-td").text();
    for (setting, patience) in [("", "--timeout 5 "), ("TDVIRSH_TIMEOUT=1", "--timeout 1 ")] {
        let name = rig.shell("tdx-td list --format name").text().trim().to_owned();
        let gone = rig.shell(&format!("PATH={tools}:$PATH; {setting} tools/tdvirsh delete {name}"));
        assert!(gone.text().ends_with(&format!("Domain {name} destroyed successfully.\n")));
        let calls = rig.shell("cat tools/calls; rm tools/calls").text().to_owned();
        assert!(calls.contains(&format!("delete {name} --yes {patience}")), "{calls}");
        rig.shell("tools/tdvirsh new").text();
    }
}
