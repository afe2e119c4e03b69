//! The difference between two texts, for a person to read.

use similar::TextDiff;

/// Returns a unified diff with three lines of context, or nothing if the texts are equal.
///
/// Source: POSIX `diff -u`, "Diff -u Output Format".
pub fn unified_diff(old: &str, new: &str, old_name: &str, new_name: &str) -> String {
    let diff = TextDiff::from_lines(old, new);
    diff.unified_diff().context_radius(3).header(old_name, new_name).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diff_has_three_lines_of_context() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        let diff = unified_diff(old, &old.replace("5\n", "five\n"), "a", "b");
        assert_eq!(diff, "--- a\n+++ b\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n");
    }

    #[test]
    fn diff_of_equal_texts_is_empty() {
        assert_eq!(unified_diff("<a/>", "<a/>", "a", "b"), "");
    }

    #[test]
    fn diff_reports_a_missing_last_line_break() {
        let diff = unified_diff("a\n", "a", "x", "y");
        assert_eq!(diff, "--- x\n+++ y\n@@ -1 +1 @@\n-a\n+a\n\\ No newline at end of file\n");
    }

    #[test]
    fn diff_gives_the_place_of_added_and_removed_lines() {
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
}
