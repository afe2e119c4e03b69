//! The machine as a tree of files: /sys, /proc, /dev, /run and /etc below one root directory.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::utsname::uname;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::error::{Error, IoContext, Result};
use crate::units::Size;

/// The largest file that is read below the root. Unit: bytes.
const LIMIT: u64 = 64 << 20;

/// The root directory of the machine's files: `/`, or the copy of a machine that `--sysroot` names.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// The machine whose files are below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The real path of the machine's absolute `path`.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether `path` exists.
    pub fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Checks that the root directory contains `sys` or `proc`, so that results about an empty directory are refused.
    ///
    /// Errors: `not_found`.
    pub fn expect_machine(&self) -> Result<()> {
        match self.has("/sys") || self.has("/proc") {
            true => Ok(()),
            false => {
                let message = format!(
                    "{} contains neither a directory sys nor a directory proc",
                    self.root.display()
                );
                Err(Error::not_found(message)
                    .hint("pass --sysroot a directory that contains sys and proc"))
            }
        }
    }

    /// The content of the file `path`; none when the file is absent.
    ///
    /// Errors: `permission`, or `io` when the file cannot be read; `invalid_input` for a file larger than 64 MiB.
    pub fn read_bytes(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let file = match File::open(self.path(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.at("read", path)?,
        };
        let mut bytes = Vec::new();
        file.take(LIMIT + 1).read_to_end(&mut bytes).at("read", path)?;
        match bytes.len() as u64 > LIMIT {
            true => Err(Error::invalid_input(format!("{path} is larger than {}", Size(LIMIT)))),
            false => Ok(Some(bytes)),
        }
    }

    /// The text of the file `path`; none when the file is absent.
    ///
    /// Errors: those of [`Host::read_bytes`]; `io` for a file that is not UTF-8.
    pub fn read(&self, path: &str) -> Result<Option<String>> {
        let Some(bytes) = self.read_bytes(path)? else { return Ok(None) };
        let text = String::from_utf8(bytes);
        text.map(Some).map_err(io::Error::other).at("read", path)
    }

    /// The name of the machine: the kernel's node name, or the text of `/etc/hostname` below `--sysroot`. None when
    /// the machine has no name.
    ///
    /// Source: uname(2), where a kernel that was given no name says `(none)`; hostname(5).
    pub fn name(&self) -> Option<String> {
        let name = if self.is_this_machine() {
            uname().ok()?.nodename().to_str()?.to_owned()
        } else {
            let text = self.read("/etc/hostname").ok().flatten()?;
            let mut lines = text.lines().map(str::trim);
            lines.find(|line| !line.is_empty() && !line.starts_with('#'))?.to_owned()
        };
        Some(name).filter(|name| !name.is_empty() && name != "(none)")
    }

    /// The path of the machine with all links resolved, as far as the path exists.
    pub fn real_path(&self, path: &Path) -> PathBuf {
        let root = self.path("/").canonicalize().unwrap_or_default();
        let resolved = |above: &Path| {
            let there = self.path(above).canonicalize().ok()?;
            let (there, rest) = (there.strip_prefix(&root).ok()?, path.strip_prefix(above).ok()?);
            // Joining an empty path would add a slash.
            Some(if rest.as_os_str().is_empty() { there.to_owned() } else { there.join(rest) })
        };
        Path::new("/").join(path.ancestors().find_map(resolved).unwrap_or_default())
    }

    /// Whether this is the running machine, not a copy below `--sysroot`.
    pub fn is_this_machine(&self) -> bool {
        self.root == Path::new("/")
    }
}

/// Replaces a file atomically: the file has either its old content or all of the new text, even after a crash.
///
/// The new file is another inode: a link of that name is replaced, not followed, and a process that has the old file
/// open does not see the new text. Callers need a lock if several processes may write the same file.
/// Errors: `not_found` when the directory is absent; `permission`, `io`.
pub fn replace(path: &Path, text: &str, mode: u32) -> Result<()> {
    replace_bytes(path, text.as_bytes(), mode)
}

/// Replaces a file atomically with bytes, as [`replace`] does with text.
pub fn replace_bytes(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    publish(path, content, mode, |part| fs::rename(part, path))?;
    flush(directory_of(path))
}

/// Creates a file atomically with bytes: the file is absent or has all of them, even after a crash. Returns the file.
///
/// Callers need a lock if several processes may create the same file. A file that another process created is kept.
/// Errors: `conflict` for a file that exists, also one that was created at the last moment; those of [`replace`].
/// Nothing remains of a file that cannot be created.
pub fn create_bytes(path: &Path, content: &[u8], mode: u32) -> Result<File> {
    let file = publish(path, content, mode, |part| rename_to_new(part, path))?;
    if let Err(error) = flush(directory_of(path)) {
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(file)
}

/// Writes a file under a temporary name, and gives it its name when it is complete.
fn publish(
    path: &Path,
    content: &[u8],
    mode: u32,
    rename: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<File> {
    let part = part(path);
    let mut file = create_new(&part, mode)?;
    let written = file.write_all(content).at("write", &part);
    let written = written.and_then(|()| file.sync_all().at("sync", &part));
    let renamed = written.and_then(|()| match rename(&part) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Error::conflict(format!("{} exists", path.display())).hint("run the command again"))
        }
        renamed => renamed.at("rename to", path),
    });
    if renamed.is_err() {
        let _ = fs::remove_file(&part);
    }
    renamed.map(|()| file)
}

/// Renames a file to a name that no file has. On a file system that cannot do so, the former name may remain.
///
/// Errors: `AlreadyExists` for a name that a file has.
pub fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some network file systems lack the flag. A hard link is as safe.
        Err(Errno::INVAL | Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            let _ = fs::remove_file(from);
            Ok(())
        }
        renamed => Ok(renamed?),
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

/// Creates a file that no other process has open. A file that a killed command left under the same name is removed
/// first.
fn create_new(path: &Path, mode: u32) -> Result<File> {
    let create = || {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(mode).custom_flags(libc::O_NOFOLLOW).open(path)
    };
    match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path).at("remove", path)?;
            create().at("create", path)
        }
        created => created.at("create", path),
    }
}

/// Removes a file, and the temporary file of a [`replace`] that was killed. Returns whether the file existed.
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

/// Writes the directory's entries to the disk (fsync(2)).
pub fn flush(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).at("sync", folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_comes_from_the_hostname_file_of_a_sysroot_or_the_kernel_of_this_machine() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::new(folder.path());
        assert_eq!(host.name(), None);
        fs::create_dir(folder.path().join("etc")).unwrap();
        for (text, name) in [
            ("node1\n", Some("node1")),
            ("# a comment\n\n  node1.example.org \nother\n", Some("node1.example.org")),
            ("\n", None),
            ("(none)\n", None),
        ] {
            fs::write(folder.path().join("etc/hostname"), text).unwrap();
            assert_eq!(host.name().as_deref(), name, "{text:?}");
        }
        fs::write(folder.path().join("etc/hostname"), b"\xff\n").unwrap();
        assert_eq!(host.name(), None);
        let node = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(Host::new("/").name().as_deref(), Some(node.trim()));
    }

    #[test]
    fn create_bytes_keeps_a_file_that_exists() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(part(&path), "half of a longer te").unwrap();
        let mut created = String::new();
        create_bytes(&path, b"new", 0o600).unwrap();
        File::open(&path).unwrap().read_to_string(&mut created).unwrap();
        assert_eq!(created, "new");
        let error = create_bytes(&path, b"other", 0o600).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Conflict, "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        // A link that leads nowhere is a file, too.
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("absent", &path).unwrap();
        create_bytes(&path, b"other", 0o600).unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn replace_and_remove_also_remove_the_part_file_of_a_killed_command() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        replace(&path, "old", 0o600).unwrap();
        fs::write(part(&path), "half of a longer te").unwrap();
        replace(&path, "new", 0o600).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        fs::write(part(&path), "half").unwrap();
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
        let other = folder.path().join("other");
        for name in [part(&path), path.clone()] {
            fs::write(&other, "theirs").unwrap();
            let _ = fs::remove_file(&name);
            std::os::unix::fs::symlink(&other, &name).unwrap();
            replace(&path, "new", 0o600).unwrap();
            assert_eq!(fs::read_to_string(&other).unwrap(), "theirs", "a link was followed");
            assert!(path.symlink_metadata().unwrap().is_file());
        }
        fs::remove_file(&other).unwrap();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        replace(&path, "new", 0o600).unwrap_err();
        fs::remove_dir(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
