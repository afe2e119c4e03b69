//! Device numbers, which identify a block device independently of its names.

use std::fmt;
use std::str::FromStr;

/// A device number, such as `8:16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevT {
    /// The major number, which identifies the driver.
    pub major: u32,
    /// The minor number, which identifies the device among those of the driver.
    pub minor: u32,
}

impl DevT {
    /// The device number from the field `st_rdev` that stat(2) returns for a device node.
    pub fn from_rdev(rdev: u64) -> Self {
        Self { major: rustix::fs::major(rdev), minor: rustix::fs::minor(rdev) }
    }
}

impl FromStr for DevT {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.split_once(':').ok_or(())?;
        Ok(Self { major: major.parse().map_err(drop)?, minor: minor.parse().map_err(drop)? })
    }
}

impl fmt::Display for DevT {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}
