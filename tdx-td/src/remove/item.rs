//! What `delete` reports of a domain.

use std::borrow::Cow;

use common::document::{Action, Item};
use common::system::pci::Bdf;
use schemars::JsonSchema;
use serde::Serialize;

/// A file that belonged to a domain and stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct KeptFile {
    /// Where it is.
    pub path: String,
    /// Why it stays, in words.
    pub reason: String,
}

/// A domain and what was done to be rid of it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DeleteItem {
    /// Name.
    pub name: String,
    /// Whether it was cut off without the guest's say.
    pub forced: bool,
    /// The files that went with it.
    pub deleted: Vec<String>,
    /// The files that belonged to it and stay, each with the reason.
    pub kept: Vec<KeptFile>,
    /// The devices of the host that went back to what they were taken from.
    pub released: Vec<Bdf>,
    /// `delete`, or `none` for a domain that was not there.
    pub action: Action,
}

impl Item for DeleteItem {
    const COLUMNS: &'static [&'static str] = &["NAME", "ACTION", "FORCED", "DELETED", "KEPT"];
    const WRAPPED: &'static [&'static str] = &["DELETED", "KEPT"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let forced = if self.forced { "yes" } else { "no" };
        let kept: Vec<&str> = self.kept.iter().map(|file| file.path.as_str()).collect();
        vec![
            self.name.clone(),
            self.action.to_string(),
            forced.to_owned(),
            self.deleted.join(" "),
            kept.join(" "),
        ]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

/// A domain that is gone, or would be.
#[derive(Debug)]
pub struct RemovedDomain {
    /// What was done.
    pub item: DeleteItem,
    /// What the user should know.
    pub warnings: Vec<String>,
}
