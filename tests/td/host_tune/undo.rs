//! Kills, signals and failures during tuning.

use super::*;
use crate::support::tuned::Files;

/// tune and restore are killed right before each of their steps; restore then restores every byte.
#[test]
#[ignore = "needs root"]
fn tune_and_restore_killed_at_any_step_are_repaired_by_restore() {
    let tree = plain();
    for (path, text) in [(KSM, "1\n"), (SHARED, "9\n")] {
        tree.file(path, text);
    }
    // The first run creates the directories.
    tune(&tree, "--scenario securevm --persist").document();
    restore(&tree).document();
    let before = files(&root(&tree));
    let sysroot = root(&tree).display().to_string();
    let tune_line =
        format!("tdx-td host tune --scenario securevm --persist --yes --sysroot {sysroot}");
    let restore_line = format!("tdx-td host restore --yes --sysroot {sysroot}");
    for (title, line, prepare) in
        [("tdx-td host tune", &tune_line, false), ("tdx-td host restore", &restore_line, true)]
    {
        let ready = || {
            if prepare {
                tune(&tree, "--scenario securevm --persist").document();
            }
        };
        ready();
        let first = files(&root(&tree));
        let walk = walk_here(line, None);
        walk.run.document();
        let done = files(&root(&tree));
        restore(&tree).document();
        assert_eq!(files(&root(&tree)), before, "{line}, undisturbed");
        let moments = moments(&walk.steps, true);
        assert!(moments.len() > 30, "{:#?}", walk.steps);
        let mut rows = Vec::new();
        for mut moment in moments {
            ready();
            let killed = walk_here(line, Some((moment.clone(), Fate::Signal(SIGKILL))));
            assert!(killed.struck && killed.signal == Some(9), "{line}, {moment:?}: {killed:#?}");
            let left = table::changes([&first, &files(&root(&tree)), &done]);
            restore(&tree).document();
            assert_eq!(files(&root(&tree)), before, "{line}, killed at {moment:?}: {killed:#?}");
            moment.step = moment.step.replace(sysroot.trim_end_matches('/'), "");
            rows.push(Row::new(&moment, vec![left]));
        }
        if table::update() {
            table::write_down(title, &["SIGKILL leaves"], &rows);
        } else {
            let steps: Vec<&str> = rows.iter().map(|row| row.step.as_str()).collect();
            table::check(title, &steps, &rows);
        }
    }
    // Replacing one scenario by another keeps the values from before both.
    tune(&tree, "--scenario securevm").document();
    let replace =
        format!("tdx-td host tune --scenario desktop --replace --yes --sysroot {sysroot}");
    let steps = walk_here(&replace, None).steps;
    restore(&tree).document();
    for moment in moments(&steps, true) {
        tune(&tree, "--scenario securevm").document();
        walk_here(&replace, Some((moment.clone(), Fate::Signal(SIGKILL))));
        restore(&tree).document();
        assert_eq!(files(&root(&tree)), before, "{replace}, killed at {moment:?}");
    }
}

/// Tunes the host once, undisturbed, and restores it. Returns its files before, the command, and the
/// command's steps.
fn undisturbed(tree: &Tree) -> (Files, String, Vec<String>) {
    // The first run also creates the directories, which stay.
    tune(tree, "--scenario securevm --persist").document();
    restore(tree).document();
    let before = files(&root(tree));
    let sysroot = root(tree).display().to_string();
    let line = format!("tdx-td host tune --scenario securevm --persist --yes --sysroot {sysroot}");
    let steps = walk_here(&line, None).steps;
    restore(tree).document();
    (before, line, steps)
}

/// After a signal every file is as before, or the command has done everything but its last steps.
#[test]
#[ignore = "needs root"]
fn a_signal_undoes_the_changes_of_tune() {
    let tree = plain();
    let (before, line, steps) = undisturbed(&tree);
    let (mut undone, mut done) = (0, 0);
    for moment in moments(&steps, true) {
        let walk = walk_here(&line, Some((moment.clone(), Fate::Signal(SIGTERM))));
        assert_eq!(walk.signal, Some(15), "{moment:?}: {walk:#?}");
        if walk.run.stdout.is_empty() {
            assert!(walk.run.stderr.contains("interrupted"), "{moment:?}: {walk:#?}");
            undone += 1;
        } else {
            restore(&tree).document();
            done += 1;
        }
        assert_eq!(files(&root(&tree)), before, "{moment:?}: {walk:#?}");
    }
    assert!(undone > 30 && done < 10, "{undone} undone, {done} done");
}

/// The write of each step fails in turn; the changes before it are undone.
#[test]
#[ignore = "needs root"]
fn a_failed_write_undoes_the_changes_of_tune() {
    use nix::errno::Errno;
    let tree = plain();
    let (before, line, steps) = undisturbed(&tree);
    let writes = |step: &str| step.starts_with("rename ") || step.starts_with("create ");
    let moments = moments(&steps, true);
    let mut failed = 0;
    for moment in moments.into_iter().filter(|moment| writes(&moment.step)) {
        let walk = walk_here(&line, Some((moment.clone(), Fate::Error(Errno::ENOSPC))));
        assert!(walk.struck, "{moment:?}");
        let error = walk.run.error(1);
        assert_eq!(error["left_behind"], json!([]), "{moment:?}: {error}");
        assert!(!tree.path(RECORD).exists() && !tree.path(LASTING).exists(), "{moment:?}");
        restore(&tree).document(); // removes other leftovers
        assert_eq!(files(&root(&tree)), before, "{moment:?}");
        failed += 1;
    }
    assert!(failed > 10, "{failed}");
}
