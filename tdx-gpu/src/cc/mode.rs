//! Reads the confidential-computing mode of a GPU from its registers.
//!
//! Source: NVIDIA's gpu-admin-tools (MIT), for the registers and the tables of ids.

use std::path::Path;

use common::system::syscalls;
use common::system::sysroot::Host;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tdx_iommu::inventory::device::Device;

use crate::vfio::driver::Sysfs;

const NVIDIA: u16 = 0x10de;

/// The confidential-computing mode of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CcMode {
    /// Off.
    Off,
    /// On: the guest's data on the GPU is protected from the host.
    On,
    /// On for development: debugging is possible, and nothing is protected.
    Devtools,
    /// A value of the register that no setting produces.
    Invalid,
    /// The mode cannot be read now: the device is in use or in a power-saving state, or the kernel is locked down.
    Unknown,
}

impl CcMode {
    /// The name of the mode in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Devtools => "devtools",
            Self::Invalid => "invalid",
            Self::Unknown => "unknown",
        }
    }
}

/// The protected PCIe mode, in which one guest has all GPUs and NVSwitches of a baseboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PpcieMode {
    /// Off.
    Off,
    /// On.
    On,
    /// The mode cannot be read now.
    Unknown,
}

impl PpcieMode {
    /// The mode as it stands in a document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Unknown => "unknown",
        }
    }
}

/// The modes of a device; none for a mode that the device does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Modes {
    /// The confidential-computing mode.
    pub cc: Option<CcMode>,
    /// The protected PCIe mode.
    pub ppcie: Option<PpcieMode>,
}

/// The kinds of device that have modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Hopper: H100, H200, GH200, H20, …
    Hopper,
    /// Blackwell with HBM: B200, GB200, …
    Blackwell,
    /// Blackwell of the gb20x family, whose boot register has another offset.
    BlackwellGb20x,
    /// The third generation of NVSwitch.
    Switch,
}

impl Kind {
    /// The kind of a device, by its ids.
    pub fn from_device(device: &Device) -> Option<Self> {
        if device.vendor != Some(NVIDIA) {
            return None;
        }
        let base = device.class.map(|class| class.0 >> 8)?;
        match (base, device.device?) {
            (0x0680, 0x22a3) => Some(Self::Switch),
            (0x0300 | 0x0302, id) => match id {
                0x22f0..=0x237f => Some(Self::Hopper),
                0x2900..=0x29ff | 0x3180..=0x327f => Some(Self::Blackwell),
                0x2b80..=0x2bff | 0x2c00..=0x2c7f | 0x2d00..=0x2dff | 0x2f00..=0x2f7f => {
                    Some(Self::BlackwellGb20x)
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether devices of this kind are GPUs.
    pub fn is_gpu(self) -> bool {
        self != Self::Switch
    }

    /// The offset of the mode register in BAR 0. Unit: bytes.
    fn mode_register(self) -> u64 {
        match self {
            Self::Hopper => 0x118_2cc,
            Self::Blackwell | Self::BlackwellGb20x => 0x590,
            Self::Switch => 0x28c50,
        }
    }

    /// The offset of the boot register, which is 0xff after the device has booted.
    fn boot_register(self) -> u64 {
        match self {
            Self::Hopper | Self::Blackwell => 0x200bc,
            Self::BlackwellGb20x => 0xad_00bc,
            Self::Switch => 0x660bc,
        }
    }

    fn modes(self, register: u32) -> Modes {
        let cc = match register & 3 {
            0 => CcMode::Off,
            1 => CcMode::On,
            3 => CcMode::Devtools,
            _ => CcMode::Invalid,
        };
        let ppcie = |bit: u32| match register >> bit & 1 {
            0 => PpcieMode::Off,
            _ => PpcieMode::On,
        };
        match self {
            Self::Hopper => Modes { cc: Some(cc), ppcie: Some(ppcie(5)) },
            Self::Blackwell | Self::BlackwellGb20x => Modes { cc: Some(cc), ppcie: None },
            Self::Switch => Modes { cc: None, ppcie: Some(ppcie(0)) },
        }
    }

    /// The modes that devices of this kind have, all with the value `unknown`.
    pub(crate) fn unknown_modes(self) -> Modes {
        let Modes { cc, ppcie } = self.modes(0);
        Modes { cc: cc.map(|_| CcMode::Unknown), ppcie: ppcie.map(|_| PpcieMode::Unknown) }
    }
}

/// The modes of a device. A device that is bound to a driver of the host is not accessed.
pub fn read(host: &Host, device: &Device) -> Modes {
    let Some(kind) = Kind::from_device(device) else {
        return Modes { cc: None, ppcie: None };
    };
    let resource = Sysfs::new(host, device.bdf).attribute("resource0");
    let seen = (!device.in_use()).then(|| registers(kind, &resource)).flatten();
    seen.map_or_else(|| kind.unknown_modes(), |register| kind.modes(register))
}

/// The mode register of a device that is present, awake and has booted.
fn registers(kind: Kind, resource: &Path) -> Option<u32> {
    let good = |value: &u32| *value != u32::MAX && value >> 16 & 0xfff0 != 0xbad0;
    let read = |offset| syscalls::read_register(resource, offset).ok().filter(good);
    // The first register reports a security fault.
    read(0)?;
    (read(kind.boot_register())? & 0xff == 0xff).then(|| read(kind.mode_register()))?
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    /// BAR 0 with these registers, as a file.
    fn bar(registers: &[(u64, u32)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bar: &File = file.as_file();
        bar.set_len(16 << 20).unwrap();
        for (offset, value) in registers {
            bar.write_all_at(&value.to_le_bytes(), *offset).unwrap();
        }
        file
    }

    #[test]
    fn modes_are_read_from_their_registers() {
        for (kind, register, cc, ppcie) in [
            (Kind::Hopper, 0, Some(CcMode::Off), Some(PpcieMode::Off)),
            (Kind::Hopper, 1, Some(CcMode::On), Some(PpcieMode::Off)),
            (Kind::Hopper, 3, Some(CcMode::Devtools), Some(PpcieMode::Off)),
            (Kind::Hopper, 2, Some(CcMode::Invalid), Some(PpcieMode::Off)),
            (Kind::Hopper, 0x20, Some(CcMode::Off), Some(PpcieMode::On)),
            (Kind::Blackwell, 0x41, Some(CcMode::On), None),
            (Kind::Switch, 1, None, Some(PpcieMode::On)),
        ] {
            let bar = bar(&[(kind.boot_register(), 0xff), (kind.mode_register(), register)]);
            let modes = registers(kind, bar.path()).map(|register| kind.modes(register));
            assert_eq!(modes, Some(Modes { cc, ppcie }), "{kind:?} {register:#x}");
        }
    }

    #[test]
    fn registers_returns_none_for_an_uncertain_mode() {
        let kind = Kind::Hopper;
        let mode = (kind.mode_register(), 1);
        let boot = (kind.boot_register(), 0xff);
        for bad in [
            vec![mode],
            vec![boot, (kind.mode_register(), u32::MAX)],
            vec![boot, (kind.mode_register(), 0xbadf_1234)],
            vec![boot, mode, (0, 0xbad0_0200)],
        ] {
            assert_eq!(registers(kind, bar(&bad).path()), None, "{bad:x?}");
        }
        assert_eq!(registers(kind, Path::new("/nowhere")), None);
    }
}
