//! What an imported image was made from, kept with the image.
//!
//! An extended attribute of the file itself: it is there exactly when the whole image is, goes when
//! the image goes, and needs no database. Where a file system has none, images are compared instead.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use serde::{Deserialize, Serialize};

use crate::image::format::Format;

const ATTRIBUTE: &str = "user.tdx.import";

/// How a base image came to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The file it was read from.
    pub source: Identity,
    /// The image itself, as it was written.
    pub volume: Stamp,
    /// SHA-256 of the source's bytes, hexadecimal, where it was computed.
    pub sha256: Option<String>,
    /// Whether the image was recompressed, so that its bytes are not the source's.
    pub compressed: bool,
    /// The format of the image; version 0.1.0 recorded none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
}

/// Which file, in which state. Two are equal when both tell the time of the last change of the inode,
/// which no user can set: an identity that version 0.1.0 recorded equals none.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identity {
    device: u64,
    inode: u64,
    #[serde(flatten)]
    stamp: Stamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ctime_ns: Option<i64>,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.is_same_file(other)
            && self.stamp == other.stamp
            && self.ctime_ns.is_some()
            && self.ctime_ns == other.ctime_ns
    }
}

impl Identity {
    /// Whether both are of one file, changed between or not.
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// Whether a volume may have changed. The time of the last change of its inode is not part of this:
/// writing the record changes it, and so does libvirt, which gives a volume to QEMU's user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    size_bytes: u64,
    mtime_ns: i64,
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        let mtime_ns = nanoseconds(metadata.mtime(), metadata.mtime_nsec());
        Self { size_bytes: metadata.len(), mtime_ns }
    }
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            stamp: metadata.into(),
            ctime_ns: Some(nanoseconds(metadata.ctime(), metadata.ctime_nsec())),
        }
    }
}

fn nanoseconds(seconds: i64, more: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(more)
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
            format: Some(Format::Raw),
        };
        assert!(!has_record(image.as_file()));
        assert!(record.write(image.as_file()), "the temporary folder has no extended attributes");
        assert_eq!(Record::read(image.as_file()), Some(record));
        image.as_file().set_len(1).unwrap();
        assert_eq!(Record::read(image.as_file()), None);
        assert!(has_record(image.as_file()));
    }

    #[test]
    fn a_record_of_version_0_1_0_is_read_and_its_source_equals_no_file() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let metadata = image.as_file().metadata().unwrap();
        let (size, time) = (metadata.len(), nanoseconds(metadata.mtime(), metadata.mtime_nsec()));
        let text = format!(
            "{{\"source\":{{\"device\":{},\"inode\":{},\"size_bytes\":{size},\"mtime_ns\":{time}}},\
             \"volume\":{{\"size_bytes\":{size},\"mtime_ns\":{time}}},\"sha256\":null,\
             \"compressed\":false}}",
            metadata.dev(),
            metadata.ino()
        );
        fsetxattr(image.as_file(), ATTRIBUTE, text.as_bytes(), XattrFlags::empty()).unwrap();
        let record = Record::read(image.as_file()).unwrap();
        assert_eq!((record.format, record.compressed), (None, false));
        let now = Identity::from(&metadata);
        assert!(record.source.is_same_file(&now) && record.source != now);
        assert_ne!(record.source, record.source.clone());
        assert_eq!(now, now.clone());
    }

    #[test]
    fn an_identity_changes_with_its_inode() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let before = Identity::from(&file.as_file().metadata().unwrap());
        let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
        // The clock of the file system ticks a few times a millisecond at best.
        while before == Identity::from(&file.as_file().metadata().unwrap()) {
            file.as_file().set_permissions(mode(0o640)).unwrap();
        }
        assert!(before.is_same_file(&Identity::from(&file.as_file().metadata().unwrap())));
    }
}
