//! The item of a domain in the document of `hostdevs`.

use std::borrow::Cow;

use common::document::{Action, Item};
use common::system::pci::Bdf;
use schemars::JsonSchema;
use serde::Serialize;

/// A domain and the host devices of its definition.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HostdevsItem {
    /// Name of the domain.
    pub name: String,
    /// UUID of the domain.
    pub uuid: String,
    /// Devices that were added.
    pub added: Vec<Bdf>,
    /// Devices that were removed.
    pub removed: Vec<Bdf>,
    /// Devices that stay, at the same addresses in the guest.
    pub kept: Vec<Bdf>,
    /// Devices that were attached to, or detached from, the running guest with `--live`.
    pub live: Vec<Bdf>,
    /// Whether the domain runs. Other changes than those in `live` take effect at its next start.
    pub running: bool,
    /// The change of the definition, a unified diff without passwords; empty for no change.
    pub diff: String,
    /// `update` or `none`.
    pub action: Action,
}

impl Item for HostdevsItem {
    const COLUMNS: &'static [&'static str] = &["NAME", "ACTION", "ADDED", "REMOVED", "KEPT"];
    const WRAPPED: &'static [&'static str] = &["ADDED", "REMOVED", "KEPT"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let list = |bdfs: &[Bdf]| bdfs.iter().map(Bdf::to_string).collect::<Vec<_>>().join(" ");
        vec![
            self.name.clone(),
            self.action.to_string(),
            list(&self.added),
            list(&self.removed),
            list(&self.kept),
        ]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}
