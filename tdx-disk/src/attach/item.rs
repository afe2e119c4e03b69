//! The item of an attached disk in documents.

use std::borrow::Cow;

use common::document::{Action, Item};
use common::units::Size;
use schemars::JsonSchema;
use serde::Serialize;

/// A disk in a document of `tdx-disk attach`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AttachItem {
    /// The name of the domain.
    pub domain: String,
    /// The device node of the host, as the kernel names it.
    pub device: String,
    /// The device number, `major:minor`.
    pub number: String,
    /// The world-wide name.
    pub wwn: Option<String>,
    /// The path in the domain's definition.
    pub source: String,
    /// The guest target, such as `vdb`.
    pub target: String,
    /// The bus of the guest disk: `virtio` or `scsi`.
    pub bus: String,
    /// The serial number that the guest sees.
    pub serial: Option<String>,
    /// The path that udev in the guest creates for the disk; null without a serial number.
    pub guest_device: Option<String>,
    /// The size of the disk, in bytes.
    pub size_bytes: u64,
    /// Whether the guest disk is read-only.
    pub readonly: bool,
    /// Whether the running guest has the disk.
    pub live: bool,
    /// Whether the persistent definition of the domain has the disk.
    pub config: bool,
    /// `attach`, or `none` when the domain already had the disk.
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
