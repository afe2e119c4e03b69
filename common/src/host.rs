//! The machine as files: /sys, /proc, /dev, /run and /etc below one root.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, IoContext, Result};

/// Where the machine's files are. `/`, or a captured tree given by `--sysroot`.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// A machine whose files lie below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where the absolute `path` of the machine lies.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether `path` is there.
    pub fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Makes sure that this is a machine, or a tree of one: of an empty folder nothing can be said.
    ///
    /// Errors: `not_found`.
    pub fn expect_machine(&self) -> Result<()> {
        match self.has("/sys") || self.has("/proc") {
            true => Ok(()),
            false => {
                let message = format!("there is neither sys nor proc in {}", self.root.display());
                Err(Error::not_found(message)
                    .hint("--sysroot names a folder that has sys and proc in it"))
            }
        }
    }

    /// The bytes of `path`; none when it is not there.
    ///
    /// Errors: `permission`, or `io` when it cannot be read.
    pub fn read_bytes(&self, path: &str) -> Result<Option<Vec<u8>>> {
        match fs::read(self.path(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some).at("read", path),
        }
    }

    /// The text of `path`; none when it is not there.
    ///
    /// Errors: `permission`, or `io` when it cannot be read or is not UTF-8.
    pub fn read(&self, path: &str) -> Result<Option<String>> {
        match fs::read_to_string(self.path(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some).at("read", path),
        }
    }

    /// A path with all its links followed, as far as it is there, as a path of the machine.
    pub fn real_path(&self, path: &Path) -> PathBuf {
        let root = self.path("/").canonicalize().unwrap_or_default();
        let resolved = |above: &Path| {
            let there = self.path(above).canonicalize().ok()?;
            let (there, rest) = (there.strip_prefix(&root).ok()?, path.strip_prefix(above).ok()?);
            // To join nothing would add a slash.
            Some(if rest.as_os_str().is_empty() { there.to_owned() } else { there.join(rest) })
        };
        Path::new("/").join(path.ancestors().find_map(resolved).unwrap_or_default())
    }

    /// Whether this is the machine itself, not a tree below some folder.
    pub fn is_this_machine(&self) -> bool {
        self.root == Path::new("/")
    }
}

/// Puts `text` into a file, which has its old content or all of the new one, whatever happens meanwhile.
///
/// Whoever may write the same file at the same time has to be kept out by a lock.
/// Errors: `not_found` without its folder; `permission`, `io`.
pub fn replace(path: &Path, text: &str, mode: u32) -> Result<()> {
    replace_bytes(path, text.as_bytes(), mode)
}

/// The same for what is no text.
pub fn replace_bytes(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let part = part(path);
    let renamed =
        write(&part, content, mode).and_then(|()| fs::rename(&part, path).at("rename to", path));
    if renamed.is_err() {
        let _ = fs::remove_file(&part);
    }
    renamed?;
    flush(path.parent().unwrap_or(path))
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(mode).open(path);
    let mut file = file.at("create", path)?;
    file.write_all(content).at("write", path)?;
    file.sync_all().at("flush", path)
}

/// Removes a file, and what a [`replace`] that was killed has left beside it. Says whether it was there.
///
/// Errors: `permission`, `io`.
pub fn remove(path: &Path) -> Result<bool> {
    let mut there = false;
    for path in [part(path), path.to_owned()] {
        there = match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            removed => removed.at("remove", &path).map(|()| true)?,
        };
    }
    Ok(there)
}

fn part(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".part");
    path.with_file_name(name)
}

/// Has the names in a folder on the disk, as they are.
pub fn flush(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).at("flush", folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_removed_with_what_a_kill_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        replace(&path, "old", 0o600).unwrap();
        fs::write(part(&path), "half of a longer te").unwrap();
        replace(&path, "new", 0o600).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        fs::write(part(&path), "half").unwrap();
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
        fs::create_dir(&path).unwrap();
        replace(&path, "new", 0o600).unwrap_err();
        fs::remove_dir(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
