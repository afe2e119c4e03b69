//! Something that was seen of a disk.

use std::collections::BTreeSet;

use common::code::Level;
use common::{Code, Error, Result};
use schemars::JsonSchema;
use serde::Serialize;

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// What it is.
    pub code: Code,
    /// What it is about, in a clause.
    pub message: String,
    /// The command that ends it, where one does.
    pub remedy: Option<String>,
}

impl Finding {
    /// One that no single command ends.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), remedy: None }
    }

    /// Says what ends it.
    #[must_use]
    pub fn remedy(mut self, command: impl Into<String>) -> Self {
        self.remedy = Some(command.into());
        self
    }
}

/// The codes among them that keep a disk from a guest.
pub fn blockers(findings: &[Finding]) -> Vec<Code> {
    let stops = findings.iter().map(|finding| finding.code).filter(|c| c.level() != Level::Note);
    stops.collect::<BTreeSet<Code>>().into_iter().collect()
}

/// A finding in a document.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct FindingItem {
    /// What it is.
    pub code: Code,
    /// Whether it keeps the disk from a guest.
    pub level: Level,
    /// What it is about.
    pub message: String,
    /// The command that ends it, where one does.
    pub remedy: Option<String>,
}

impl From<Finding> for FindingItem {
    fn from(finding: Finding) -> Self {
        let Finding { code, message, remedy } = finding;
        Self { code, level: code.level(), message, remedy }
    }
}

/// Fails for what keeps a disk from a guest and is not forced; what is forced becomes a warning.
///
/// Errors: `conflict` with the code of the best reason; the others are causes, and what ends them the
/// hint.
pub fn refuse(device: &str, findings: &[Finding], forced: &[Code]) -> Result<Vec<String>> {
    let told = |finding: &Finding| format!("{} ({})", finding.message, finding.code.as_str());
    let (mut stops, mut warnings) = (Vec::new(), Vec::new());
    for finding in findings {
        match finding.code.level() {
            Level::Note => {}
            Level::Forceable if forced.contains(&finding.code) => warnings.push(told(finding)),
            _ => stops.push(finding),
        }
    }
    // What cannot be forced is the better reason; of these the host itself the best, and the kernel's
    // claim, which does not say what for, the last.
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
    // What is mounted deeper goes first.
    remedies.sort_by_key(|remedy| std::cmp::Reverse(remedy.matches('/').count()));
    remedies.dedup();
    let hint = match first.code {
        Code::ReadOnly => "--readonly gives it to the guest to read".to_owned(),
        code if code.level() == Level::Forceable => {
            format!("--force {} --yes does it all the same", code.as_str())
        }
        Code::SystemDisk => "the disk the host runs from is never given away".to_owned(),
        _ if !remedies.is_empty() => remedies.join(" && "),
        _ => "tdx-disk check shows all there is to say".to_owned(),
    };
    let message = format!("{device} cannot be given to a guest: {}", first.message);
    let error = Error::conflict(message).code(first.code).hint(hint);
    let rest: Vec<String> = stops.iter().skip(1).map(|finding| told(finding)).collect();
    Err(if rest.is_empty() { error } else { error.because(rest.join("; ")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_forced_is() {
        let note = Finding::new(Code::HasData, "ext4");
        let label = Finding::new(Code::Signature, "LVM2_member");
        let mounted = Finding::new(Code::Mounted, "on /mnt").remedy("umount /mnt");
        let deeper = Finding::new(Code::Mounted, "on /mnt/a b").remedy("umount '/mnt/a b'");
        let system = Finding::new(Code::SystemDisk, "/ is on it");
        let claimed = Finding::new(Code::Claimed, "claimed");
        assert_eq!(refuse("d", std::slice::from_ref(&note), &[]).unwrap(), [""; 0]);
        let error = refuse("d", &[note, label.clone()], &[]).unwrap_err().to_document().error;
        assert_eq!((error.code, error.exit_code), (Some(Code::Signature), 5));
        assert_eq!(error.hint.as_deref(), Some("--force SIGNATURE --yes does it all the same"));
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
}
