//! PCI class codes, as far as the judgement depends on them.

use std::fmt;

use serde::{Serialize, Serializer};

/// A class code: base class, subclass and programming interface.
///
/// Written as six hexadecimal digits, `030000`.
/// Source: PCI Code and ID Assignment Specification; Linux `include/linux/pci_ids.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(pub u32);

impl Class {
    /// Base class, 0 to 0xff.
    pub fn base(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// Base class and subclass, 0 to 0xffff.
    pub fn pair(self) -> u16 {
        (self.0 >> 8) as u16
    }

    /// Display controllers of any kind.
    pub fn is_display(self) -> bool {
        self.base() == 0x03
    }

    /// PCI-to-PCI and CardBus bridges, which have another kind of header.
    pub fn is_bridge(self) -> bool {
        matches!(self.pair(), 0x0604 | 0x0607 | 0x0609)
    }

    /// Classes the machine itself cannot do without: host, ISA and PCI bridges, memory, SMBus.
    pub fn is_vital(self) -> bool {
        matches!(self.pair(), 0x0600 | 0x0601 | 0x0604 | 0x0500 | 0x0c05)
    }

    /// Classes that matter to the host only when it uses what is behind them: storage, network, USB.
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
