//! The reference from an overlay to its backing image.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// The backing image of an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// The name exactly as in the header: any bytes.
    pub name: OsString,
    /// The format as in the header. Without it, QEMU guesses the format, which is unsafe for raw images.
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
