//! The files by which settings apply at boot. systemd, udev and modprobe read them.
//!
//! Source: sysctl.d(5), tmpfiles.d(5), modprobe.d(5), udev(7).

use std::collections::BTreeMap;

use common::{Error, Result};

/// The file of kernel parameters.
pub const SYSCTL: &str = "/etc/sysctl.d/90-tdx.conf";
/// The file of values for other kernel files. systemd writes them in the order of the lines.
pub const TMPFILES: &str = "/etc/tmpfiles.d/tdx.conf";
/// The file of module options.
pub const MODPROBE: &str = "/etc/modprobe.d/tdx.conf";
/// The file of udev rules, which apply when a disk appears.
pub const UDEV: &str = "/etc/udev/rules.d/90-tdx.rules";

/// All files of these tools that apply settings at boot.
pub const FILES: [&str; 4] = [MODPROBE, SYSCTL, TMPFILES, UDEV];

/// The first line of every file of these tools. Existing files are recognised by it.
const MARK: &str = "# Made by tdx-td host tune --persist; tdx-td host restore takes it away.\n";

/// The texts of the existing files, by path.
pub type Persisted = BTreeMap<&'static str, String>;

/// A line of a file that applies settings at boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Path of the file.
    pub file: &'static str,
    /// The beginning of the line up to the value. No other line of the file has the same beginning.
    pub start: String,
    /// The rest of the line.
    pub rest: String,
}

impl Line {
    /// Returns the line of a kernel parameter, such as `vm.swappiness`.
    pub fn sysctl(key: &str, value: &str) -> Self {
        Self { file: SYSCTL, start: format!("{key} = "), rest: value.to_owned() }
    }

    /// Returns the line of another kernel file.
    pub fn attribute(path: &str, value: &str) -> Self {
        Self { file: TMPFILES, start: format!("w {path} - - - - "), rest: value.to_owned() }
    }

    /// Returns the line of a module option.
    pub fn option(module: &str, name: &str, value: &str) -> Self {
        Self { file: MODPROBE, start: format!("options {module} {name}="), rest: value.to_owned() }
    }

    /// Returns the line of the scheduler of the disk that `rule` matches.
    pub fn scheduler(rule: &str, value: &str) -> Self {
        let start = format!(
            "ACTION==\"add|change\", SUBSYSTEM==\"block\", ENV{{DEVTYPE}}==\"disk\", {rule}, \
             ATTR{{queue/scheduler}}=\""
        );
        Self { file: UDEV, start, rest: format!("{value}\"") }
    }
}

/// Whether a file has a line.
#[derive(Debug, PartialEq, Eq)]
pub enum LineState {
    /// The file has the line.
    Same,
    /// The file has the line with another value.
    Different,
    /// The file does not have the line.
    Missing,
}

/// Returns whether the files have a line.
pub fn line_state(files: &Persisted, line: &Line) -> LineState {
    let text = files.get(line.file).map_or("", String::as_str);
    match text.lines().find_map(|found| found.strip_prefix(&line.start)) {
        Some(rest) if rest == line.rest => LineState::Same,
        Some(_) => LineState::Different,
        None => LineState::Missing,
    }
}

/// Returns the lines of a file that tuning did not write, which are those of somebody else.
pub fn foreign_lines(now: &str, written: &[String]) -> String {
    let is_written =
        |line: &str| written.iter().any(|text| text.lines().any(|other| other == line));
    let lines: Vec<&str> = now.lines().filter(|line| !is_written(line)).collect();
    if lines.iter().all(|line| line.trim().is_empty()) {
        String::new()
    } else {
        lines.join("\n") + "\n"
    }
}

/// Returns a text without these lines.
pub fn without_lines(text: &str, lines: &str) -> String {
    let kept = text.lines().filter(|line| !lines.lines().any(|other| other == *line));
    kept.map(|line| format!("{line}\n")).collect()
}

/// Returns the files with these lines added or changed; unchanged files are left out.
///
/// Errors: `conflict` for a file that these tools did not write.
pub fn merged_files(files: &Persisted, lines: &[Line]) -> Result<Persisted> {
    let mut merged = Persisted::new();
    for line in lines {
        let old = files.get(line.file).map_or(MARK, String::as_str);
        if !old.starts_with(MARK) {
            return Err(Error::conflict(format!(
                "file {} exists and was not written by tdx-td host tune",
                line.file
            ))
            .hint("rename the file, or run tdx-td host tune without --persist"));
        }
        let text = merged.entry(line.file).or_insert_with(|| old.to_owned());
        let whole = format!("{}{}", line.start, line.rest);
        let mut found = false;
        let mut lines: Vec<String> = text
            .lines()
            .map(|old| {
                if old.starts_with(&line.start) {
                    found = true;
                    whole.clone()
                } else {
                    old.to_owned()
                }
            })
            .collect();
        if !found {
            lines.push(whole.clone());
        }
        *text = lines.join("\n") + "\n";
    }
    merged.retain(|path, text| files.get(path) != Some(text));
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_files_adds_each_line_once() {
        let lines = [
            Line::sysctl("vm.swappiness", "0"),
            Line::attribute("/sys/a", "1"),
            Line::attribute("/sys/b", "0"),
            Line::option("kvm_amd", "sev", "1"),
            Line::scheduler("ATTR{serial}==\"a b\"", "bfq"),
        ];
        let files = merged_files(&Persisted::new(), &lines).unwrap();
        assert_eq!(files[SYSCTL], format!("{MARK}vm.swappiness = 0\n"));
        assert_eq!(files[TMPFILES], format!("{MARK}w /sys/a - - - - 1\nw /sys/b - - - - 0\n"));
        assert_eq!(files[MODPROBE], format!("{MARK}options kvm_amd sev=1\n"));
        assert!(files[UDEV].ends_with("ATTR{serial}==\"a b\", ATTR{queue/scheduler}=\"bfq\"\n"));
        assert_eq!(merged_files(&files, &lines).unwrap(), Persisted::new());
        let other = [Line::attribute("/sys/a", "2")];
        assert_eq!(line_state(&files, &other[0]), LineState::Different);
        let changed = merged_files(&files, &other).unwrap();
        assert_eq!(changed[TMPFILES], format!("{MARK}w /sys/a - - - - 2\nw /sys/b - - - - 0\n"));
        assert_eq!(changed.len(), 1);
        let edited = "# Made\nvm.swappiness = 0\n\n# mine\nvm.overcommit_memory = 1\n";
        let written = ["# Made\nvm.swappiness = 0\n".to_owned()];
        assert_eq!(foreign_lines(edited, &written), "\n# mine\nvm.overcommit_memory = 1\n");
        assert_eq!(foreign_lines("# Made\n\n", &written), "");
        let foreign = Persisted::from([(SYSCTL, "vm.swappiness = 10\n".to_owned())]);
        assert_eq!(merged_files(&foreign, &lines).unwrap_err().kind(), common::ErrorKind::Conflict);
    }
}
