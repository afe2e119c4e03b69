//! The difference of two texts, for a person to read.

use std::fmt::Write as _;
use std::ops::Range;

/// Lines shown around what differs.
const CONTEXT: usize = 3;

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edit {
    Keep,
    Remove,
    Add,
}

/// Returns a unified diff with three lines of context, or nothing if the texts are equal.
///
/// Source: POSIX `diff -u`, "Diff -u Output Format".
pub fn unified_diff(old: &str, new: &str, old_name: &str, new_name: &str) -> String {
    let old: Vec<&str> = old.split_inclusive('\n').collect();
    let new: Vec<&str> = new.split_inclusive('\n').collect();
    let edits = edits(&old, &new);
    let hunks = hunks(&edits);
    let mut text = match hunks.is_empty() {
        true => String::new(),
        false => format!("--- {old_name}\n+++ {new_name}\n"),
    };
    for hunk in hunks {
        let (before, shown) = (&edits[..hunk.start], &edits[hunk]);
        let (mut in_old, mut in_new) = (without(before, Edit::Add), without(before, Edit::Remove));
        let of_old = place(in_old, without(shown, Edit::Add));
        let of_new = place(in_new, without(shown, Edit::Remove));
        let _ = writeln!(text, "@@ -{of_old} +{of_new} @@");
        for edit in shown {
            let (sign, line) = match edit {
                Edit::Keep => (' ', old[in_old]),
                Edit::Remove => ('-', old[in_old]),
                Edit::Add => ('+', new[in_new]),
            };
            in_old += without(&[*edit], Edit::Add);
            in_new += without(&[*edit], Edit::Remove);
            let end = if line.ends_with('\n') { "" } else { "\n\\ No newline at end of file\n" };
            let _ = write!(text, "{sign}{line}{end}");
        }
    }
    text
}

/// How many of the edits are others than this: one side's lines.
fn without(edits: &[Edit], other: Edit) -> usize {
    edits.iter().filter(|edit| **edit != other).count()
}

/// `count` lines after the first `before`, as a hunk's head says it.
fn place(before: usize, count: usize) -> String {
    match count {
        0 => format!("{before},0"),
        1 => format!("{}", before + 1),
        _ => format!("{},{count}", before + 1),
    }
}

/// The runs of edits that are shown: what changes, with its context.
fn hunks(edits: &[Edit]) -> Vec<Range<usize>> {
    let mut hunks: Vec<Range<usize>> = Vec::new();
    for (at, _) in edits.iter().enumerate().filter(|(_, edit)| **edit != Edit::Keep) {
        let around = at.saturating_sub(CONTEXT)..(at + 1 + CONTEXT).min(edits.len());
        match hunks.last_mut() {
            Some(last) if around.start <= last.end => last.end = around.end,
            _ => hunks.push(around),
        }
    }
    hunks
}

/// The fewest removals and additions that make `new` of `old`.
///
/// Source: E. W. Myers, "An O(ND) Difference Algorithm and Its Variations", Algorithmica 1 (1986).
fn edits(old: &[&str], new: &[&str]) -> Vec<Edit> {
    // How far into `old` one gets, by the number of changes and by how many of them are removals.
    let mut reached: Vec<Vec<usize>> = Vec::new();
    loop {
        let changes = reached.len();
        let mut row = Vec::with_capacity(changes + 1);
        for removals in 0..=changes {
            let mut at = reached.last().map_or(0, |before| last_change(before, removals).1);
            let in_new = |at: usize| at + changes - 2 * removals;
            while at < old.len() && new.get(in_new(at)) == Some(&old[at]) {
                at += 1;
            }
            row.push(at);
            if at == old.len() && in_new(at) == new.len() {
                reached.push(row);
                return path(&reached, removals);
            }
        }
        reached.push(row);
    }
}

/// The change that gets furthest with so many removals, given how far one change less gets, and where it
/// ends in `old`.
fn last_change(before: &[usize], removals: usize) -> (Edit, usize) {
    let by_adding = before.get(removals).copied();
    let by_removing = removals.checked_sub(1).map(|fewer| before[fewer] + 1);
    match (by_adding, by_removing) {
        (Some(at), by_removing) if by_removing.is_none_or(|other| other <= at) => (Edit::Add, at),
        (_, by_removing) => (Edit::Remove, by_removing.unwrap_or_default()),
    }
}

/// The edits on the way to the end, which these removals got to.
fn path(reached: &[Vec<usize>], mut removals: usize) -> Vec<Edit> {
    let mut edits = Vec::new();
    for changes in (0..reached.len()).rev() {
        let at = reached[changes][removals];
        let Some(before) = changes.checked_sub(1).map(|fewer| &reached[fewer]) else {
            edits.extend((0..at).map(|_| Edit::Keep));
            break;
        };
        let (edit, from) = last_change(before, removals);
        edits.extend((from..at).map(|_| Edit::Keep));
        edits.push(edit);
        removals -= usize::from(edit == Edit::Remove);
    }
    edits.reverse();
    edits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn three_lines_of_context() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        let diff = unified_diff(old, &old.replace("5\n", "five\n"), "a", "b");
        assert_eq!(diff, "--- a\n+++ b\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n");
    }

    #[test]
    fn nothing_if_equal() {
        assert_eq!(unified_diff("<a/>", "<a/>", "a", "b"), "");
    }

    #[test]
    fn a_missing_last_line_break_is_said() {
        let diff = unified_diff("a\n", "a", "x", "y");
        assert_eq!(diff, "--- x\n+++ y\n@@ -1 +1 @@\n-a\n+a\n\\ No newline at end of file\n");
    }

    #[test]
    fn what_is_put_in_or_taken_out_has_a_place() {
        assert_eq!(unified_diff("", "a\nb\n", "x", "y"), "--- x\n+++ y\n@@ -0,0 +1,2 @@\n+a\n+b\n");
        assert_eq!(unified_diff("a\n", "", "x", "y"), "--- x\n+++ y\n@@ -1 +0,0 @@\n-a\n");
        let old: String = (1..=20).map(|line| format!("{line}\n")).collect();
        let new = old.replace("3\n4\n", "4\n").replace("20\n", "20\n21\n");
        assert_eq!(
            unified_diff(&old, &new, "x", "y")
                .lines()
                .filter(|line| !line.starts_with(' '))
                .collect::<Vec<_>>(),
            ["--- x", "+++ y", "@@ -1,6 +1,5 @@", "-3", "@@ -18,3 +17,4 @@", "+21"]
        );
    }

    proptest! {
        #[test]
        fn the_edits_make_one_of_the_other(old in "[abc\n]{0,40}", new in "[abc\n]{0,40}") {
            let old: Vec<&str> = old.split_inclusive('\n').collect();
            let new: Vec<&str> = new.split_inclusive('\n').collect();
            let edits = edits(&old, &new);
            let (mut left, mut made) = (old.iter(), Vec::new());
            let mut fresh = new.iter();
            for edit in edits {
                match edit {
                    Edit::Keep => { made.push(left.next().unwrap()); fresh.next(); }
                    Edit::Remove => { left.next().unwrap(); }
                    Edit::Add => made.push(fresh.next().unwrap()),
                }
            }
            prop_assert!(left.next().is_none());
            prop_assert!(made.into_iter().eq(&new));
        }
    }
}
