//! The reference from an overlay to the image below it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// The image that another one is an overlay of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// The name exactly as recorded; any bytes.
    pub name: OsString,
    /// The format as recorded. `None` leaves QEMU to guess, which is unsafe with raw images.
    pub format: Option<String>,
}

impl Backing {
    pub(super) fn new(name: &[u8], format: Option<&[u8]>) -> Self {
        Self {
            name: OsString::from_vec(name.to_vec()),
            format: format.map(|format| String::from_utf8_lossy(format).into_owned()),
        }
    }
}
