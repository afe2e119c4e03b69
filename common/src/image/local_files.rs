//! The local files that the name of an image can mean.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The number of files that one name can mean.
const MAX_FILES: usize = 256;

/// A local file or directory that a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFile {
    pub(super) path: PathBuf,
    /// Whether QEMU resolves a relative path from its own working directory, which is `/` under libvirt.
    pub(super) from_working_directory: bool,
    /// Whether this is a directory of which QEMU uses every file.
    pub is_directory: bool,
}

impl LocalFile {
    /// The possible paths of the file, for an image in `directory`.
    pub fn paths_from(&self, directory: &Path) -> impl Iterator<Item = PathBuf> {
        let beside = directory.join(&self.path);
        let other = self.from_working_directory && self.path.is_relative();
        [beside].into_iter().chain(other.then(|| Path::new("/").join(&self.path)))
    }
}

/// The local files that a name means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalFiles {
    /// The files; none for a name that a remote server serves.
    pub files: Vec<LocalFile>,
    /// Whether the name could not be parsed completely, and may mean other files.
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

/// Whether a protocol or driver of QEMU uses no local file: it uses a remote server, or nothing.
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
