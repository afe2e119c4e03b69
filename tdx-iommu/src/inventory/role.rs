//! The role of a device.

use schemars::JsonSchema;
use serde::Serialize;

use crate::inventory::class::Class;

/// The role of a device, from its class and the other functions of its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
    /// A display controller, with or without outputs.
    Gpu,
    /// The audio function of a GPU's slot.
    GpuAudio,
    /// The USB controller of a GPU's slot.
    GpuUsb,
    /// The serial bus controller of a GPU's slot.
    GpuSerial,
    /// An NVIDIA NVSwitch, which connects GPUs.
    Nvswitch,
    /// A processing accelerator.
    Accelerator,
    /// A network controller, InfiniBand included.
    Network,
    /// A storage controller.
    Storage,
    /// A USB controller.
    Usb,
    /// An audio or video device.
    Multimedia,
    /// A cryptographic device.
    Crypto,
    /// Memory and its controllers.
    Memory,
    /// A bridge to another PCI bus.
    Bridge,
    /// A bridge to the processor.
    HostBridge,
    /// A bridge to anything else.
    OtherBridge,
    /// Any other device.
    Other,
}

const NVIDIA: u16 = 0x10de;

impl Role {
    /// The role of a device of this class and vendor, alone in its slot.
    pub fn from_class(class: Option<Class>, vendor: Option<u16>, is_bridge: bool) -> Self {
        let Some(class) = class else {
            return if is_bridge { Self::Bridge } else { Self::Other };
        };
        match (class.base(), class.pair()) {
            _ if is_bridge => Self::Bridge,
            (0x03, _) => Self::Gpu,
            (_, 0x0680) if vendor == Some(NVIDIA) => Self::Nvswitch,
            (_, 0x0600) => Self::HostBridge,
            (0x06, _) => Self::OtherBridge,
            (0x01, _) => Self::Storage,
            (0x02, _) | (_, 0x0c06) => Self::Network,
            (0x04, _) => Self::Multimedia,
            (0x05, _) => Self::Memory,
            (_, 0x0c03) => Self::Usb,
            (0x10, _) => Self::Crypto,
            (0x12, _) | (_, 0x0b40) => Self::Accelerator,
            _ => Self::Other,
        }
    }

    /// The role of a device of this class in a slot that has a GPU.
    pub fn beside_gpu(self, class: Option<Class>) -> Self {
        match class.map(Class::pair) {
            Some(0x0401 | 0x0403) => Self::GpuAudio,
            Some(0x0c03) => Self::GpuUsb,
            Some(0x0c80) => Self::GpuSerial,
            _ => self,
        }
    }

    /// The name of the role in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gpu => "gpu",
            Self::GpuAudio => "gpu-audio",
            Self::GpuUsb => "gpu-usb",
            Self::GpuSerial => "gpu-serial",
            Self::Nvswitch => "nvswitch",
            Self::Accelerator => "accelerator",
            Self::Network => "network",
            Self::Storage => "storage",
            Self::Usb => "usb",
            Self::Multimedia => "multimedia",
            Self::Crypto => "crypto",
            Self::Memory => "memory",
            Self::Bridge => "bridge",
            Self::HostBridge => "host-bridge",
            Self::OtherBridge => "other-bridge",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_maps_to_its_role() {
        for (class, vendor, role) in [
            (0x030000, 0x10de, "gpu"),
            (0x030200, 0x10de, "gpu"),
            (0x038000, 0x1002, "gpu"),
            (0x068000, 0x10de, "nvswitch"),
            (0x068000, 0x8086, "other-bridge"),
            (0x060000, 0x8086, "host-bridge"),
            (0x060100, 0x8086, "other-bridge"),
            (0x010802, 0x144d, "storage"),
            (0x020700, 0x15b3, "network"),
            (0x040300, 0x10de, "multimedia"),
            (0x0c0330, 0x8086, "usb"),
            (0x120000, 0x1da3, "accelerator"),
            (0x110100, 0x8086, "other"),
        ] {
            let role_of = Role::from_class(Some(Class(class)), Some(vendor), false);
            assert_eq!(role_of.as_str(), role, "{class:06x}");
            let json = serde_json::to_value(role_of).unwrap();
            assert_eq!(json, role, "the two spellings agree");
        }
        assert_eq!(Role::from_class(Some(Class(0x060400)), None, true), Role::Bridge);
        assert_eq!(Role::from_class(None, None, false), Role::Other);
        let audio = Role::Multimedia.beside_gpu(Some(Class(0x040300)));
        assert_eq!((audio, audio.as_str()), (Role::GpuAudio, "gpu-audio"));
    }
}
