//! Secrets, such as passwords: never printed, and overwritten in memory when they are dropped.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::document::reader::ReadError;
use crate::document::{input, reader};
use crate::error::{Error, IoContext, Result};
use crate::shell;
use crate::system::syscalls;
use crate::units::Size;

/// A passphrase or a password.
///
/// The bytes stay in one allocation that never moves, so that no copy is left in memory.
pub struct Secret(Vec<u8>);

impl Secret {
    /// An empty secret with room for `limit` bytes.
    pub(crate) fn with_capacity(limit: usize) -> Self {
        Self(Vec::with_capacity(limit))
    }

    /// Reads a secret of at most `limit` bytes from a file. The permissions are checked on the open file.
    ///
    /// Errors: `not_found`; `permission`, also for a file that users other than its owner can read or write;
    /// `invalid_input` for a directory, and for a larger file.
    pub fn read(path: &Path, limit: usize) -> Result<Self> {
        let shown = path.display();
        let mut file = input::open(path)?;
        let metadata = file.metadata().at("examine", path)?;
        if metadata.mode() & 0o077 != 0 {
            return Err(Error::permission(format!(
                "{shown} can be read or written by users other than its owner"
            ))
            .hint(format!("chmod 600 {}", shell::quote_path(path))));
        }
        let mut secret = Self(vec![0; limit + 1]);
        let mut length = 0;
        loop {
            reader::wait_until_readable(&file).map_err(|error| input::cannot_read(path, error))?;
            match file.read(&mut secret.0[length..]) {
                Ok(0) if length > limit => {
                    let message = format!("{shown} is larger than {}", Size(limit as u64));
                    return Err(Error::invalid_input(message));
                }
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if reader::is_temporary(&error) => {}
                Err(error) => return Err(input::cannot_read(path, ReadError::Io(error))),
            }
        }
        secret.truncate(length);
        Ok(secret)
    }

    /// The bytes of the secret.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds a byte if there is room. Returns whether the byte was added.
    pub(crate) fn push(&mut self, byte: u8) -> bool {
        let fits = self.0.len() < self.0.capacity();
        if fits {
            self.0.push(byte);
        }
        fits
    }

    /// Keeps the first `length` bytes and overwrites the others.
    pub fn truncate(&mut self, length: usize) {
        if let Some(rest) = self.0.get_mut(length..) {
            syscalls::wipe(rest);
            self.0.truncate(length);
        }
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        syscalls::wipe(&mut self.0);
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn read_never_returns_a_file_that_others_can_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, mode) in [("private", 0o600), ("open", 0o644)] {
            fs::write(at(name), name).unwrap();
            fs::set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
        }
        symlink("private", at("secret")).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for name in ["open", "private"] {
                        symlink(name, at("next")).unwrap();
                        fs::rename(at("next"), at("secret")).unwrap();
                    }
                }
            });
            let read = |_| match Secret::read(&at("secret"), 16) {
                Ok(secret) => secret.as_bytes() == b"private",
                Err(error) => error.kind() == ErrorKind::Permission,
            };
            let all = (0..20_000).all(read);
            done.store(true, Ordering::Relaxed);
            assert!(all, "a file that others can read was read");
        });
    }

    #[test]
    fn read_refuses_a_larger_file_and_wipe_overwrites_the_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "12345678").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let mut secret = Secret::read(&path, 8).unwrap();
        assert_eq!(format!("{:?} {:?}", secret.as_bytes().len(), secret), "8 Secret");
        assert!(Secret::read(&path, 7).unwrap_err().message().ends_with("is larger than 7 B"));
        secret.truncate(3);
        assert_eq!(secret.as_bytes(), b"123");
        syscalls::wipe(&mut secret.0);
        assert_eq!(secret.as_bytes(), [0; 3]);
    }
}
