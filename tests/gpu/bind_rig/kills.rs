//! Kills the tool at each of its steps.

use super::*;

/// The state that [`STATE`] prints, for a test that runs in the rig.
fn state_here() -> BTreeMap<PathBuf, String> {
    let read = |path: PathBuf| fs::read_to_string(&path).ok().map(|text| (path, text));
    let link = |path: PathBuf| fs::read_link(&path).ok().map(|to| (path, to.display().to_string()));
    let names = |folder: &str| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let mut state = BTreeMap::new();
    for device in names("/sys/bus/pci/devices") {
        state.extend(link(device.join("driver")));
        state.extend(read(device.join("driver_override")));
    }
    state.extend(read("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit".into()));
    let units = "/etc/systemd/system";
    let wants = format!("{units}/multi-user.target.wants");
    for folder in ["/run/tdx", "/run/tdx/bound", "/etc/tdx", "/etc/tdx/bind.d", units, &wants] {
        let files = names(folder).into_iter().filter(|path| !path.is_dir());
        state.extend(files.map(|path| (path, String::new())));
    }
    state
}

/// Runs one of the tools on the machine on which the test runs.
fn here(line: &str) -> Run {
    let (tool, arguments) = line.split_once(' ').unwrap();
    let mut command = Command::new(bin(tool));
    command.args(arguments.split(' '));
    Run::of(command, b"")
}

/// Kills a verb right before each of its recorded steps that follows a change. The kill ends the tool, but
/// not the process that writes to sysfs for it. That write happens, as it can when a user kills the tool,
/// because nothing ends a write that the kernel does not finish.
fn kill_at_every_step(line: &str, prepare: impl Fn()) {
    const UNDO: &str = "tdx-gpu unbind --all";
    let began = Instant::now();
    let before = state_here();
    let prepare = || {
        // The directories are absent, as after a boot.
        for folder in ["/run/tdx/bound", "/run/tdx", "/etc/tdx/bind.d", "/etc/tdx"] {
            fs::remove_dir(folder).ok();
        }
        prepare();
    };
    prepare();
    let first = state_here();
    let steps = walk_here(line, None);
    steps.run.document();
    let done = state_here();
    here(UNDO).document();
    assert_eq!(state_here(), before, "{line}, undisturbed");
    let idle = |step: &str| step.starts_with("lock ") || step.starts_with("flush ");
    let mut moments = moments(&steps.steps, true);
    let after_idle = |moment: &Moment| {
        let mut at = (0..steps.steps.len()).filter(|at| steps.steps[*at] == moment.step);
        at.nth(moment.nth - 1).is_some_and(|at| at > 0 && idle(&steps.steps[at - 1]))
    };
    moments.retain(|moment| !after_idle(moment));
    for moment in &moments {
        println!("{STEP}{}", moment.step);
    }
    if !is_full() {
        moments = of_each_kind(moments);
    }
    for moment in &moments {
        prepare();
        let walk = walk_here(line, Some((moment.clone(), Fate::Signal(SIGKILL))));
        assert!(walk.struck && walk.signal == Some(9), "{line}, {moment:?}: {walk:#?}");
        println!("{ROW}{}\t{}", moment.step, table::changes([&first, &state_here(), &done]));
        here(UNDO).document();
        assert_eq!(state_here(), before, "{line}, killed at {moment:?}: {walk:#?}");
    }
    assert!(steps.steps.len() > 20, "{steps:#?}");
    let (all, some) = (steps.steps.len(), moments.len());
    println!("{line}: {all} steps, {some} moments, {:?}", began.elapsed());
}

/// Marks a table row, or a step that has a row, in the output of the rig.
const ROW: &str = "row\t";
const STEP: &str = "step\t";

/// Runs one test of this file in the rig, because a tracer must run on the machine of its tracee.
fn inside(title: &str, test: &str) {
    let kernel = Kernel::start();
    let devices = format!("{} {}", kernel.nvme("rig-0"), kernel.nvme("rig-1"));
    let run = kernel.this_test(&format!("DEVICES={devices}"), module_path!(), test);
    // The addresses of the disks differ from rig to rig.
    let text = devices.split(' ').fold(run.text().to_owned(), |text, bdf| text.replace(bdf, "BDF"));
    let rows = text.lines().filter_map(|line| line.strip_prefix(ROW)?.split_once('\t'));
    let row =
        |(step, left): (&str, &str)| Row { step: step.to_owned(), left: vec![left.to_owned()] };
    let rows: Vec<Row> = rows.map(row).collect();
    assert!(rows.len() > 10, "{run:#?}");
    if is_full() && table::update() {
        table::write_down(title, &["SIGKILL leaves"], &rows);
    } else {
        let steps: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(STEP)).collect();
        table::check_names(title, &steps);
    }
    print!("{}", run.stdout);
}

#[test]
#[ignore = "needs root"]
fn bind_killed_at_any_step_is_repaired_by_unbind() {
    match std::env::var("DEVICES") {
        Err(_) => inside("tdx-gpu bind", "bind_killed_at_any_step_is_repaired_by_unbind"),
        Ok(devices) => {
            kill_at_every_step(&format!("tdx-gpu bind {devices} --memory 1G --persist"), || ());
        }
    }
}

#[test]
#[ignore = "needs root"]
fn unbind_killed_at_any_step_is_repaired_by_unbind() {
    match std::env::var("DEVICES") {
        Err(_) => inside("tdx-gpu unbind", "unbind_killed_at_any_step_is_repaired_by_unbind"),
        Ok(devices) => kill_at_every_step(&format!("tdx-gpu unbind {devices}"), || {
            here(&format!("tdx-gpu bind {devices} --memory 1G --persist")).document();
        }),
    }
}
