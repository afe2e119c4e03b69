//! What an imported image was made from, kept with the image.
//!
//! An extended attribute of the file itself: it is there exactly when the whole image is, goes when
//! the image goes, and needs no database. Where a file system has none, images are compared instead.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use serde::{Deserialize, Serialize};

const ATTRIBUTE: &str = "user.tdx.import";

/// How a base image came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The file it was read from.
    pub source: Identity,
    /// The image itself, as it was written.
    pub volume: Stamp,
    /// SHA-256 of the source's bytes, hexadecimal, where it was computed.
    pub sha256: Option<String>,
    /// Whether the image was recompressed, so that its bytes are not the source's.
    pub compressed: bool,
}

/// Which file, in which state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    device: u64,
    inode: u64,
    #[serde(flatten)]
    stamp: Stamp,
}

/// Whether a file may have changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    size_bytes: u64,
    mtime_ns: i64,
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        let seconds = metadata.mtime().saturating_mul(1_000_000_000);
        Self { size_bytes: metadata.len(), mtime_ns: seconds.saturating_add(metadata.mtime_nsec()) }
    }
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), stamp: metadata.into() }
    }
}

impl Record {
    /// The record of an image, unless it has none or the image was written since.
    pub fn read(image: &File) -> Option<Self> {
        let mut buffer = [0; 1024];
        let length = fgetxattr(image, ATTRIBUTE, &mut buffer).ok()?;
        let record: Self = serde_json::from_slice(buffer.get(..length)?).ok()?;
        let metadata = image.metadata().ok()?;
        (record.volume == Stamp::from(&metadata)).then_some(record)
    }

    /// Keeps the record with the image; says whether the file system could.
    pub fn write(&self, image: &File) -> bool {
        let Ok(json) = serde_json::to_vec(self) else {
            return false;
        };
        fsetxattr(image, ATTRIBUTE, &json, XattrFlags::empty()).is_ok()
    }
}

/// Whether the file carries any record: it is a base image of ours, changed since or not.
pub fn has_record(image: &File) -> bool {
    fgetxattr(image, ATTRIBUTE, &mut [0; 1024]).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_holds_until_the_image_is_written() {
        let source = tempfile::tempfile().unwrap();
        let image = tempfile::NamedTempFile::new().unwrap();
        let record = Record {
            source: (&source.metadata().unwrap()).into(),
            volume: (&image.as_file().metadata().unwrap()).into(),
            sha256: Some("0".repeat(64)),
            compressed: false,
        };
        assert!(!has_record(image.as_file()));
        assert!(record.write(image.as_file()), "the temporary folder has no extended attributes");
        assert_eq!(Record::read(image.as_file()), Some(record));
        image.as_file().set_len(1).unwrap();
        assert_eq!(Record::read(image.as_file()), None);
        assert!(has_record(image.as_file()));
    }
}
