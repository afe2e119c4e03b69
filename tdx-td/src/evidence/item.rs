//! The document of `evidence`.

use std::borrow::Cow;

use common::document::{Action, Item};
use schemars::JsonSchema;
use serde::Serialize;

/// The evidence of a trust domain.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct EvidenceItem {
    /// Name of the domain.
    pub name: String,
    /// UUID of the domain.
    pub uuid: String,
    /// Path of the quote.
    pub quote_path: String,
    /// Size of the quote; null with `--dry-run`.
    pub quote_size_bytes: Option<u64>,
    /// Path of the event log of the guest's firmware; null if the guest has none, and with `--dry-run`.
    pub ccel_path: Option<String>,
    /// Size of the event log; null if the guest has none, and with `--dry-run`.
    pub ccel_size_bytes: Option<u64>,
    /// The report data that the quote contains, in hexadecimal digits: the nonce, padded with zero bytes at its end to
    /// 64 bytes.
    pub report_data: String,
    /// The part of the guest's kernel that provided the quote: `tdx_guest`; null with `--dry-run`.
    pub provider: Option<String>,
    /// `create` if a file was written; `none` if the directory already had this evidence.
    pub action: Action,
}

impl Item for EvidenceItem {
    const COLUMNS: &'static [&'static str] = &["NAME", "ACTION", "QUOTE", "EVENT LOG"];
    const WRAPPED: &'static [&'static str] = &["QUOTE", "EVENT LOG"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let log = self.ccel_path.clone().unwrap_or_default();
        vec![self.name.clone(), self.action.to_string(), self.quote_path.clone(), log]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}
