//! The reference from an overlay to the image below it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The image that another one is an overlay of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// The name exactly as recorded; any bytes.
    pub name: OsString,
    /// The format as recorded. `None` leaves QEMU to guess, which is unsafe with raw images.
    pub format: Option<String>,
}

impl Backing {
    /// The local file that the name stands for, seen from the image at `image`.
    ///
    /// A relative name counts from the folder of `image` as that path is spelt, symbolic links
    /// unresolved, as QEMU and libvirt do. `json:` names count when they name a file. `None` is
    /// for everything else, `nbd://host/disk` for instance.
    pub fn path(&self, image: &Path) -> Option<PathBuf> {
        local(&self.name, image.parent()?)
    }
}

fn local(name: &OsStr, folder: &Path) -> Option<PathBuf> {
    let bytes = name.as_bytes();
    if let Some(json) = bytes.strip_prefix(b"json:") {
        let value = serde_json::from_slice(json).ok()?;
        return local(OsStr::new(filename(&value)?), folder);
    }
    let path = match bytes.strip_prefix(b"file:") {
        Some(path) => path,
        None => bytes,
    };
    // Whatever has a colon before its first slash names a protocol.
    let is_path = path.len() < bytes.len()
        || bytes.iter().find(|byte| matches!(byte, b':' | b'/')) != Some(&b':');
    is_path.then(|| folder.join(OsStr::from_bytes(path)))
}

/// The file name inside QEMU's JSON way of naming an image, nested or flattened.
fn filename(value: &Value) -> Option<&str> {
    let object = value.as_object()?;
    let named = object.iter().find(|(key, _)| *key == "filename" || key.ends_with(".filename"));
    named.and_then(|(_, name)| name.as_str()).or_else(|| object.get("file").and_then(filename))
}

impl Backing {
    pub(super) fn new(name: &[u8], format: Option<&[u8]>) -> Self {
        Self {
            name: OsString::from_vec(name.to_vec()),
            format: format.map(|format| String::from_utf8_lossy(format).into_owned()),
        }
    }
}
