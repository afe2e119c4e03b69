//! The properties that tell a PCI device from another one at the same address.

use common::document::identity::Comparison;
use common::system::pci::Bdf;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inventory::device::Device;

/// The properties that identify a device in an item.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceIdentity {
    /// The vendor id: four hexadecimal digits.
    pub vendor_id: Option<String>,
    /// The device id: four hexadecimal digits.
    pub device_id: Option<String>,
    /// The device serial number: sixteen hexadecimal digits. Null for users other than root, who cannot read it.
    pub serial: Option<String>,
}

impl From<&Device> for DeviceIdentity {
    fn from(device: &Device) -> Self {
        let id = |id: Option<u16>| id.map(|id| format!("{id:04x}"));
        Self {
            vendor_id: id(device.vendor),
            device_id: id(device.device),
            serial: device.serial.clone(),
        }
    }
}

/// The claims of an item about a device: its identity and its host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct DeviceClaim {
    /// The properties that identify the device.
    #[serde(flatten)]
    pub identity: DeviceIdentity,
    /// The name of the host that has the device.
    pub host: Option<String>,
}

impl DeviceClaim {
    /// Compares the claim with the device at `bdf`, if any, on the host with this name.
    ///
    /// Errors: `conflict` with code `IDENTITY_CHANGED`.
    pub fn expect(
        &self,
        bdf: Bdf,
        found: Option<&DeviceIdentity>,
        host_name: Option<&str>,
    ) -> common::Result<()> {
        let (said, unknown) = (&self.identity, DeviceIdentity::default());
        let found = found.unwrap_or(&unknown);
        Comparison::new(format_args!("PCI device {bdf}"))
            .host(self.host.as_deref(), host_name)
            .hex("vendor_id", said.vendor_id.as_deref(), found.vendor_id.as_deref())
            .hex("device_id", said.device_id.as_deref(), found.device_id.as_deref())
            .hex("serial", said.serial.as_deref(), found.serial.as_deref())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(json: serde_json::Value) -> DeviceClaim {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_claim_is_read_from_any_item_and_compared_key_by_key() {
        let bdf = "01:00.0".parse().unwrap();
        let found = DeviceIdentity {
            vendor_id: Some("8086".to_owned()),
            device_id: Some("153a".to_owned()),
            serial: None,
        };
        for (item, same) in [
            (serde_json::json!({}), true),
            (serde_json::json!({"vendor_id": null, "device_id": null, "host": null}), true),
            (serde_json::json!({"vendor_id": "8086", "device_id": "153A"}), true),
            // As an ordinary user, or while the device is asleep.
            (serde_json::json!({"vendor_id": "8086", "serial": "0123456789abcdef"}), true),
            (serde_json::json!({"vendor_id": "10de"}), false),
            (serde_json::json!({"vendor_id": "8086", "device_id": "153b"}), false),
            (serde_json::json!({"host": "node1.example.org"}), true),
            (serde_json::json!({"host": "node2"}), false),
        ] {
            let done = claim(item.clone()).expect(bdf, Some(&found), Some("node1"));
            assert_eq!(done.is_ok(), same, "{item}");
        }
        claim(serde_json::json!({"vendor_id": "10de"})).expect(bdf, None, None).unwrap();
        claim(serde_json::json!({"host": "node2"})).expect(bdf, None, Some("node1")).unwrap_err();
    }
}
