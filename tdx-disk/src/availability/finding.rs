//! Findings about a disk, with the command that ends the use.

use std::collections::BTreeSet;

use common::code::Level;
use common::{Code, Error, Result};
use schemars::JsonSchema;
use serde::Serialize;

/// A finding about a disk: a blocker or a note.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The code of the finding.
    pub code: Code,
    /// The finding in one clause.
    pub message: String,
    /// The command that ends the use, if there is one.
    pub remedy: Option<String>,
}

impl Finding {
    /// A finding without a command that ends the use.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), remedy: None }
    }

    /// Adds the command that ends the use.
    #[must_use]
    pub fn remedy(mut self, command: impl Into<String>) -> Self {
        self.remedy = Some(command.into());
        self
    }
}

/// The codes of the blockers among the findings.
pub fn blockers(findings: &[Finding]) -> Vec<Code> {
    let stops = findings.iter().map(|finding| finding.code).filter(|c| c.level() != Level::Note);
    stops.collect::<BTreeSet<Code>>().into_iter().collect()
}

/// A finding about a disk in a document.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct FindingItem {
    /// The code of the finding.
    pub code: Code,
    /// Whether the finding is a blocker, a blocker that can be forced, or a note.
    pub level: Level,
    /// The finding in words.
    pub message: String,
    /// The command that ends the use; null when there is no single command.
    pub remedy: Option<String>,
}

impl From<Finding> for FindingItem {
    fn from(finding: Finding) -> Self {
        let Finding { code, message, remedy } = finding;
        Self { code, level: code.level(), message, remedy }
    }
}

/// The word, in quotes if a shell needs them.
pub fn shell_quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:+,@%=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Fails for blockers that are not forced. Forced blockers become warnings.
///
/// Errors: `conflict` with the code of the most important blocker. The other blockers are causes, and the commands that
/// end the uses are the hint.
pub fn refuse(device: &str, findings: &[Finding], forced: &[Code]) -> Result<Vec<String>> {
    let display = |finding: &Finding| format!("{} ({})", finding.message, finding.code.as_str());
    let (mut stops, mut warnings) = (Vec::new(), Vec::new());
    for finding in findings {
        match finding.code.level() {
            Level::Note => {}
            Level::Forceable if forced.contains(&finding.code) => warnings.push(display(finding)),
            _ => stops.push(finding),
        }
    }
    // A blocker that cannot be forced is more important. Of these, the system disk is reported first, and the kernel's
    // claim, which does not name a user, last.
    let rank = |code| match code {
        Code::SystemDisk => 0,
        Code::Claimed => 2,
        _ => 1,
    };
    stops.sort_by_key(|finding| (finding.code.level(), rank(finding.code)));
    let Some(first) = stops.first() else {
        return Ok(warnings);
    };
    let mut remedies: Vec<&str> = stops.iter().filter_map(|f| f.remedy.as_deref()).collect();
    // Deeper mount points have to be unmounted first.
    remedies.sort_by_key(|remedy| std::cmp::Reverse(remedy.matches('/').count()));
    remedies.dedup();
    let hint = match first.code {
        Code::ReadOnly => "to attach the disk read-only, add --readonly".to_owned(),
        code if code.level() == Level::Forceable => {
            format!("to attach the disk nevertheless, add --force {} --yes", code.as_str())
        }
        Code::SystemDisk => "choose another disk: the host runs from this one".to_owned(),
        _ if !remedies.is_empty() => remedies.join(" && "),
        _ => {
            format!("to see all blockers and warnings, run tdx-disk check {}", shell_quoted(device))
        }
    };
    let message = format!("{device} cannot be given to a guest: {}", first.message);
    let error = Error::conflict(message).code(first.code).hint(hint);
    let rest: Vec<String> = stops.iter().skip(1).map(|finding| display(finding)).collect();
    Err(if rest.is_empty() { error } else { error.because(rest.join("; ")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuse_ignores_a_forced_code_only_if_it_can_be_forced() {
        let note = Finding::new(Code::HasData, "ext4");
        let label = Finding::new(Code::Signature, "LVM2_member");
        let mounted = Finding::new(Code::Mounted, "on /mnt").remedy("umount /mnt");
        let deeper = Finding::new(Code::Mounted, "on /mnt/a b").remedy("umount '/mnt/a b'");
        let system = Finding::new(Code::SystemDisk, "/ is on it");
        let claimed = Finding::new(Code::Claimed, "claimed");
        assert_eq!(refuse("d", std::slice::from_ref(&note), &[]).unwrap(), [""; 0]);
        let error = refuse("d", &[note, label.clone()], &[]).unwrap_err().to_document().error;
        assert_eq!((error.code, error.exit_code), (Some(Code::Signature), 5));
        assert_eq!(
            error.hint.as_deref(),
            Some("to attach the disk nevertheless, add --force SIGNATURE --yes")
        );
        let forced = refuse("d", std::slice::from_ref(&label), &[Code::Signature]).unwrap();
        assert_eq!(forced, ["LVM2_member (SIGNATURE)"]);
        let all = [label, mounted, deeper, system.clone()];
        let error = refuse("d", &all[..3], &[Code::Mounted]).unwrap_err().to_document().error;
        assert_eq!(error.hint.as_deref(), Some("umount '/mnt/a b' && umount /mnt"));
        let error = refuse("d", &[claimed, all[1].clone()], &[]).unwrap_err().to_document().error;
        assert_eq!(error.code, Some(Code::Mounted));
        let error = refuse("d", &all, &[Code::SystemDisk]).unwrap_err().to_document().error;
        assert_eq!((error.code, error.causes.len()), (Some(Code::SystemDisk), 1));
    }

    #[test]
    fn shell_quoted_quotes_only_words_that_need_it() {
        assert_eq!(shell_quoted("/mnt/a-b"), "/mnt/a-b");
        assert_eq!(shell_quoted("/mnt/it's"), "'/mnt/it'\\''s'");
        assert_eq!(shell_quoted(""), "''");
    }
}
