//! A disk that was to go to a guest, in a document.

use std::borrow::Cow;

use common::document::{Action, Item};
use common::units::Size;
use schemars::JsonSchema;
use serde::Serialize;

/// A disk that was to go to a guest.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AttachItem {
    /// The domain.
    pub domain: String,
    /// The host's device, as the kernel names it.
    pub device: String,
    /// Its number, `major:minor`.
    pub number: String,
    /// Its world-wide name.
    pub wwn: Option<String>,
    /// The path in the definition.
    pub source: String,
    /// Guest target.
    pub target: String,
    /// `virtio` or `scsi`.
    pub bus: String,
    /// The serial number that the guest sees.
    pub serial: Option<String>,
    /// The name by which udev in the guest finds it; null without a serial number.
    pub guest_device: Option<String>,
    /// Size, bytes.
    pub size_bytes: u64,
    /// Whether the guest may only read.
    pub readonly: bool,
    /// Whether the running guest has it.
    pub live: bool,
    /// Whether it is in the definition that stays.
    pub config: bool,
    /// `attach`, or `none` when the guest has it already.
    pub action: Action,
}

impl Item for AttachItem {
    const COLUMNS: &'static [&'static str] =
        &["DOMAIN", "DEVICE", "TARGET", "SERIAL", "SIZE", "GUEST DEVICE", "ACTION"];
    const DROPPED: &'static [&'static str] = &["SERIAL", "SIZE"];

    fn key(&self) -> Cow<'_, str> {
        self.device.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.domain.clone(),
            self.device.clone(),
            self.target.clone(),
            self.serial.clone().unwrap_or_default(),
            Size(self.size_bytes).to_string(),
            self.guest_device.clone().unwrap_or_default(),
            self.action.to_string(),
        ]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}
