//! The machine as files: /sys, /proc, /dev, /run and /etc below one root.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{IoContext, Result};

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

    /// The bytes of `path`; none when it is not there.
    ///
    /// Errors: `permission`, or `io` when it cannot be read.
    pub fn read_bytes(&self, path: &str) -> Result<Option<Vec<u8>>> {
        match std::fs::read(self.path(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some).at("read", path),
        }
    }

    /// The text of `path`; none when it is not there.
    ///
    /// Errors: `permission`, or `io` when it cannot be read or is not UTF-8.
    pub fn read(&self, path: &str) -> Result<Option<String>> {
        match std::fs::read_to_string(self.path(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some).at("read", path),
        }
    }
}
