//! The item of an imported image in documents.

use std::borrow::Cow;

use common::document::{Action, Item};
use common::units::Size;
use schemars::JsonSchema;
use serde::Serialize;

use crate::image::Format;

/// A base image in a document of `tdx-pool import`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ImportItem {
    /// The name of the volume.
    pub(crate) name: String,
    /// The name of the pool.
    pub(crate) pool: String,
    /// The UUID of the pool; null in a dry run that would create the pool.
    pub(crate) pool_uuid: Option<String>,
    /// The path of the image on libvirt's host.
    pub(crate) path: String,
    /// The format of the image.
    pub(crate) format: Format,
    /// The size of the disk that the guest sees, in bytes.
    pub(crate) capacity_bytes: u64,
    /// The path of the file that the image was imported from.
    pub(crate) source: String,
    /// The SHA-256 digest of the source file; null when it was not computed.
    pub(crate) sha256: Option<String>,
    /// `import`, `replace`, or `none` when the pool already had the image.
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
