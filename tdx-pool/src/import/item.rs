//! An imported image in documents.

use std::borrow::Cow;

use common::document::{Action, Item};
use common::units::Size;
use schemars::JsonSchema;
use serde::Serialize;

use crate::image::Format;

/// A base image and what was done to have it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ImportItem {
    /// Volume name.
    pub(crate) name: String,
    /// The pool's name.
    pub(crate) pool: String,
    /// UUID of the pool; null when the pool is to be made.
    pub(crate) pool_uuid: Option<String>,
    /// Where it is, on libvirt's host.
    pub(crate) path: String,
    /// Its format.
    pub(crate) format: Format,
    /// Size the guest sees, bytes.
    pub(crate) capacity_bytes: u64,
    /// The file it was read from.
    pub(crate) source: String,
    /// SHA-256 of the source's bytes; null where nothing asked for it.
    pub(crate) sha256: Option<String>,
    /// `import`, `replace`, or `none` for an equal image that was there.
    pub(crate) action: Action,
}

impl Item for ImportItem {
    const COLUMNS: &'static [&'static str] = &["NAME", "ACTION", "FORMAT", "CAPACITY", "PATH"];
    const DROPPED: &'static [&'static str] = &["PATH", "FORMAT"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.action.to_string(),
            self.format.to_string(),
            Size(self.capacity_bytes).to_string(),
            self.path.clone(),
        ]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}
