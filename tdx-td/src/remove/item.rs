//! The item of a domain in the document of `delete`.

use std::borrow::Cow;

use common::document::{Action, Item};
use common::system::pci::Bdf;
use schemars::JsonSchema;
use serde::Serialize;

/// A file of a deleted domain that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct KeptFile {
    /// Path of the file.
    pub path: String,
    /// Why the file is kept.
    pub reason: String,
}

/// A domain that was deleted.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DeleteItem {
    /// Name of the domain.
    pub name: String,
    /// Whether the guest was forced off, without a clean shutdown.
    pub forced: bool,
    /// Files that were deleted.
    pub deleted: Vec<String>,
    /// Files of the domain that are kept, each with the reason.
    pub kept: Vec<KeptFile>,
    /// Host devices that were released to their previous drivers.
    pub released: Vec<Bdf>,
    /// `delete`, or `none` for a domain that did not exist.
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

/// A domain that was deleted, or would be in a dry run.
#[derive(Debug)]
pub struct RemovedDomain {
    /// The item for the document.
    pub item: DeleteItem,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}
