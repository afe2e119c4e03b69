//! The local files that the name of an image stands for.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How many files one name may stand for.
const MAX_FILES: usize = 256;

/// A local file or directory that a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFile {
    pub(super) path: PathBuf,
    /// Whether QEMU counts a relative path from its own working directory, which is `/` below libvirt.
    pub(super) from_working_directory: bool,
    /// Whether it is a directory of which every file is used.
    pub is_directory: bool,
}

impl LocalFile {
    /// The paths it may have, for an image in `directory`.
    pub fn paths_from(&self, directory: &Path) -> impl Iterator<Item = PathBuf> {
        let beside = directory.join(&self.path);
        let other = self.from_working_directory && self.path.is_relative();
        [beside].into_iter().chain(other.then(|| Path::new("/").join(&self.path)))
    }
}

/// The local files that a name stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalFiles {
    /// Each of them; none for a name that a remote server serves.
    pub files: Vec<LocalFile>,
    /// Whether the name may stand for others, since it was not understood.
    pub is_incomplete: bool,
}

impl LocalFiles {
    /// Adds a path that is taken literally.
    pub(super) fn add_path(&mut self, path: &[u8], from_working_directory: bool) {
        self.add(path, from_working_directory, false);
    }

    /// Adds a directory whose files QEMU shows to the guest.
    pub(super) fn add_directory(&mut self, path: &[u8]) {
        self.add(path, true, true);
    }

    fn add(&mut self, path: &[u8], from_working_directory: bool, is_directory: bool) {
        if path.is_empty() {
            return;
        }
        let path = PathBuf::from(OsStr::from_bytes(path));
        let file = LocalFile { path, from_working_directory, is_directory };
        if self.files.len() >= MAX_FILES {
            self.is_incomplete = true;
        } else if !self.files.contains(&file) {
            self.files.push(file);
        }
    }
}

/// Whether a protocol or driver of QEMU's uses no local file: a remote server, or nothing at all.
pub(super) fn is_remote(protocol: &[u8]) -> bool {
    let scheme = protocol.split(|byte| *byte == b'+').next().unwrap_or_default();
    matches!(
        scheme,
        b"nbd"
            | b"ssh"
            | b"http"
            | b"https"
            | b"ftp"
            | b"ftps"
            | b"tftp"
            | b"iscsi"
            | b"iser"
            | b"rbd"
            | b"sheepdog"
            | b"gluster"
            | b"nfs"
            | b"vxhs"
            | b"archipelago"
            | b"nvme"
            | b"null-co"
            | b"null-aio"
    )
}
