//! What `hostdevs` reports of a domain.

use std::borrow::Cow;

use common::document::{Action, Item};
use common::system::pci::Bdf;
use schemars::JsonSchema;
use serde::Serialize;

/// A domain and the devices of the host it is defined with.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HostdevsItem {
    /// Name.
    pub name: String,
    /// UUID.
    pub uuid: String,
    /// Devices it got.
    pub added: Vec<Bdf>,
    /// Devices it lost.
    pub removed: Vec<Bdf>,
    /// Devices it had and has, with their addresses in the guest.
    pub kept: Vec<Bdf>,
    /// Devices that its running guest got or lost, with `--live`.
    pub live: Vec<Bdf>,
    /// Whether it runs, so that its guest has what was not changed live only once it has been off.
    pub running: bool,
    /// The change of its definition, a unified diff without passwords; empty for none.
    pub diff: String,
    /// `update`, or `none`.
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
