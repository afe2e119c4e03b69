//! PCI class codes, and the properties of classes that checks depend on.

use std::fmt;

use serde::{Serialize, Serializer};

/// A class code: base class, subclass and programming interface.
///
/// Written as six hexadecimal digits, `030000`.
/// Source: PCI Code and ID Assignment Specification; Linux `include/linux/pci_ids.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(pub u32);

impl Class {
    /// The base class, 0 to 0xff.
    pub fn base(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// The base class and subclass, 0 to 0xffff.
    pub fn pair(self) -> u16 {
        (self.0 >> 8) as u16
    }

    /// Whether the class is a display controller of any kind.
    pub fn is_display(self) -> bool {
        self.base() == 0x03
    }

    /// Whether the class is a PCI-to-PCI or CardBus bridge, which has another type of header.
    pub fn is_bridge(self) -> bool {
        matches!(self.pair(), 0x0604 | 0x0607 | 0x0609)
    }

    /// Whether the machine itself needs devices of the class: host, ISA and PCI bridges, memory, SMBus.
    pub fn is_vital(self) -> bool {
        matches!(self.pair(), 0x0600 | 0x0601 | 0x0604 | 0x0500 | 0x0c05)
    }

    /// Whether the host needs a device of the class only if it uses something behind the device: storage, network, USB.
    pub fn serves(self) -> bool {
        matches!(self.base(), 0x01 | 0x02) || self.pair() == 0x0c03
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06x}", self.0)
    }
}

impl Serialize for Class {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
