//! What is to hold at every boot, in files that systemd, udev and modprobe read.
//!
//! Source: sysctl.d(5), tmpfiles.d(5), modprobe.d(5), udev(7).

use std::collections::BTreeMap;

use common::{Error, Result};

/// Kernel parameters.
pub const SYSCTL: &str = "/etc/sysctl.d/90-tdx.conf";
/// Other files of the kernel. systemd writes them in this order.
pub const TMPFILES: &str = "/etc/tmpfiles.d/tdx.conf";
/// Options of modules.
pub const MODPROBE: &str = "/etc/modprobe.d/tdx.conf";
/// Disks, which come when they come.
pub const UDEV: &str = "/etc/udev/rules.d/90-tdx.rules";

/// All files.
pub const FILES: [&str; 4] = [MODPROBE, SYSCTL, TMPFILES, UDEV];

/// How such a file of ours begins.
const MARK: &str = "# Made by tdx-td host tune --persist; tdx-td host restore takes it away.\n";

/// Files by path, those that are there.
pub type Persisted = BTreeMap<&'static str, String>;

/// A line of one of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The file.
    pub file: &'static str,
    /// Its beginning, up to the value, which no other line of the file has.
    pub start: String,
    /// The rest.
    pub rest: String,
}

impl Line {
    /// A kernel parameter, `vm.swappiness`.
    pub fn sysctl(key: &str, value: &str) -> Self {
        Self { file: SYSCTL, start: format!("{key} = "), rest: value.to_owned() }
    }

    /// A file of the kernel.
    pub fn attribute(path: &str, value: &str) -> Self {
        Self { file: TMPFILES, start: format!("w {path} - - - - "), rest: value.to_owned() }
    }

    /// An option of a module.
    pub fn option(module: &str, name: &str, value: &str) -> Self {
        Self { file: MODPROBE, start: format!("options {module} {name}="), rest: value.to_owned() }
    }

    /// The scheduler of the disk that `rule` matches.
    pub fn scheduler(rule: &str, value: &str) -> Self {
        let start = format!(
            "ACTION==\"add|change\", SUBSYSTEM==\"block\", ENV{{DEVTYPE}}==\"disk\", {rule}, \
             ATTR{{queue/scheduler}}=\""
        );
        Self { file: UDEV, start, rest: format!("{value}\"") }
    }
}

/// What was found in the files of the lines that are to be in them.
#[derive(Debug, PartialEq, Eq)]
pub enum LineState {
    /// It says the same.
    Same,
    /// It says something else.
    Different,
    /// It says nothing of it.
    Missing,
}

/// What the files say of a line.
pub fn line_state(files: &Persisted, line: &Line) -> LineState {
    let text = files.get(line.file).map_or("", String::as_str);
    match text.lines().find_map(|found| found.strip_prefix(&line.start)) {
        Some(rest) if rest == line.rest => LineState::Same,
        Some(_) => LineState::Different,
        None => LineState::Missing,
    }
}

/// The lines of a file of ours that are not among those that were written, which are somebody else's.
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

/// A text without these lines.
pub fn without_lines(text: &str, lines: &str) -> String {
    let kept = text.lines().filter(|line| !lines.lines().any(|other| other == *line));
    kept.map(|line| format!("{line}\n")).collect()
}

/// The files with these lines in them; those that do not change are left out.
///
/// Errors: `conflict` for a file that is not ours.
pub fn merged_files(files: &Persisted, lines: &[Line]) -> Result<Persisted> {
    let mut merged = Persisted::new();
    for line in lines {
        let old = files.get(line.file).map_or(MARK, String::as_str);
        if !old.starts_with(MARK) {
            return Err(Error::conflict(format!("{} is there and not ours", line.file))
                .hint("move it away, or tune without --persist"));
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
    fn lines_are_put_in_once() {
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
