//! Something that was seen of a disk.

use std::collections::BTreeSet;

use common::Code;
use common::code::Level;
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

/// A word as a shell takes it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:+,@%=".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}
