//! The record of an import: the source of an image, kept with the image.
//!
//! The record is an extended attribute of the image file. It exists exactly as long as the complete image, and needs no
//! database. On a file system without extended attributes, images are compared instead.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use serde::{Deserialize, Serialize};

use crate::image::format::Format;

const ATTRIBUTE: &str = "user.tdx.import";

/// The record of how a base image was imported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The file that the image was read from.
    pub source: Identity,
    /// The state of the image file after it was written.
    pub volume: Stamp,
    /// The SHA-256 digest of the source in hexadecimal digits, if it was computed.
    pub sha256: Option<String>,
    /// Whether the image was recompressed, so that its bytes differ from those of the source.
    pub compressed: bool,
    /// The format of the image. Version 0.1.0 did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
}

/// Identifies a file and its state. Two identities can be equal only if both contain the time of the last change of the
/// inode, which no user can set. An identity that version 0.1.0 recorded therefore equals no other.
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
    /// Whether both are the same file, perhaps changed in between.
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// Detects whether a volume may have changed. The time of the last change of the inode is not included, because writing
/// the record changes that time, and so does libvirt when it changes the owner of a volume to QEMU's user.
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
    /// The record of an image; none when the image has no record or was written after its import.
    pub fn read(image: &File) -> Option<Self> {
        let mut buffer = [0; 1024];
        let length = fgetxattr(image, ATTRIBUTE, &mut buffer).ok()?;
        let record: Self = serde_json::from_slice(buffer.get(..length)?).ok()?;
        let metadata = image.metadata().ok()?;
        (record.volume == Stamp::from(&metadata)).then_some(record)
    }

    /// Writes the record to the image file. Returns false when the file system does not support that.
    pub fn write(&self, image: &File) -> bool {
        let Ok(json) = serde_json::to_vec(self) else {
            return false;
        };
        fsetxattr(image, ATTRIBUTE, &json, XattrFlags::empty()).is_ok()
    }
}

/// Whether the file has a record, which means that these tools imported it, perhaps before it was changed.
pub fn has_record(image: &File) -> bool {
    fgetxattr(image, ATTRIBUTE, &mut [0; 1024]).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_valid_until_the_image_is_written() {
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
    fn an_identity_changes_with_the_change_time_of_its_inode() {
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
