//! Identifies files independently of the paths that name them.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, open, readlink};

/// A file, by its canonical path or by its inode. A bind mount and a hard link have the same inode under
/// another path. A file that is replaced keeps its path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKey {
    /// The path with every link resolved.
    Path(PathBuf),
    /// Device and inode.
    Inode(u64, u64),
}

impl From<&Metadata> for FileKey {
    fn from(metadata: &Metadata) -> Self {
        Self::Inode(metadata.dev(), metadata.ino())
    }
}

/// The keys of the file at `path`: its canonical path, and its inode unless it is absent.
pub fn keys(path: &Path) -> impl Iterator<Item = FileKey> + use<> {
    let (path, inode) = match resolve(path) {
        Some((path, inode)) => (path, Some(inode)),
        None => {
            let path = canonical(path);
            let inode = path.metadata().ok().as_ref().map(FileKey::from);
            (path, inode)
        }
    };
    [Some(FileKey::Path(path)), inode].into_iter().flatten()
}

/// Whether `path` is one of these files.
pub fn contains(files: &HashSet<FileKey>, path: &Path) -> bool {
    keys(path).any(|key| files.contains(&key))
}

/// The path with every link resolved, as far as the path exists.
pub fn canonical(path: &Path) -> PathBuf {
    if let Some((path, _)) = resolve(path) {
        return path;
    }
    if let Ok(path) = path.canonicalize() {
        return path;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => canonical(parent).join(name),
        _ => path.to_owned(),
    }
}

/// The canonical path and inode of an existing file, by four system calls whatever the length of the path.
/// realpath(3) needs one call for each component, and a pool has thousands of files.
///
/// None if the file is absent or being deleted, or if /proc is not mounted. Source: open(2), `O_PATH`;
/// proc_pid_fd(5).
fn resolve(path: &Path) -> Option<(PathBuf, FileKey)> {
    let file = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let stat = fstat(&file).ok().filter(|stat| stat.st_nlink > 0)?;
    Some((path_of(&file)?, FileKey::Inode(stat.st_dev, stat.st_ino)))
}

/// The canonical path of an open file.
///
/// None if /proc is not mounted.
pub(super) fn path_of(file: &impl AsRawFd) -> Option<PathBuf> {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let path = PathBuf::from(OsString::from_vec(readlink(link, Vec::new()).ok()?.into_bytes()));
    path.is_absolute().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_of_a_file_have_a_common_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        std::fs::write(&file, "").unwrap();
        std::fs::hard_link(&file, folder.path().join("b")).unwrap();
        std::os::unix::fs::symlink("a", folder.path().join("c")).unwrap();
        let known: HashSet<FileKey> = keys(&file).collect();
        for name in ["a", "b", "c", "./a", ".//c"] {
            assert!(contains(&known, &folder.path().join(name)), "{name}");
        }
        assert!(!contains(&known, &folder.path().join("absent")));
        let absent: HashSet<FileKey> = keys(&folder.path().join("absent")).collect();
        assert!(contains(&absent, &folder.path().join("./absent")));
    }
}
