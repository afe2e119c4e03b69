//! An incomplete image in the pool's directory. It is private and has a name that `cleanup` recognizes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use common::cli::log;
use common::system::sysroot::{Host, rename_to_new};
use common::{Error, IoContext, Result};

use crate::references::inflight::InFlight;
use crate::volume::names::ToolFile;

/// An image that is being written. The file is deleted unless it is renamed. Only its owner can read or write it.
#[derive(Debug)]
pub(crate) struct TemporaryFile {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    is_deleted: bool,
    _in_flight: InFlight,
}

impl TemporaryFile {
    /// Locks a new name and creates an empty file with that name in `folder`.
    pub(crate) fn create(host: &Host, folder: &Path) -> Result<Self> {
        let name = ToolFile::Import.new_name()?;
        let in_flight = InFlight::begin(host, &name)?;
        let path = folder.join(name);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path).at("create", &path)?;
        Ok(Self { path, file, is_deleted: false, _in_flight: in_flight })
    }

    /// Renames the file to `target`. A file of that name is replaced only if `replace` is set.
    ///
    /// Errors: `conflict` when another process has created a file of that name; `io`.
    pub(crate) fn rename(self, target: &Path, replace: bool) -> Result<()> {
        log::step(format_args!("rename the copy to {}", target.display()));
        let renamed = if replace {
            fs::rename(&self.path, target)
        } else {
            rename_to_new(&self.path, target)
        };
        match renamed {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::conflict(format!(
                    "another process created {} during this command",
                    target.display()
                ))
                .hint("run this command again to compare the image with the new volume"));
            }
            done => done.at("rename the copy to", target)?,
        }
        let folder = target.parent().unwrap_or(target);
        let flushed = File::open(folder).and_then(|folder| folder.sync_all()).at("sync", folder);
        flushed.map_err(|error| error.applied([format!("imported {}", target.display())]))
    }

    /// Deletes the file.
    ///
    /// Errors: `io`, with the path of the file as left behind.
    pub(crate) fn discard(mut self) -> Result<()> {
        self.is_deleted = true;
        let deleted = fs::remove_file(&self.path).at("delete", &self.path);
        deleted.map_err(|error| error.left_behind([self.path.display().to_string()]))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.is_deleted {
            let _ = fs::remove_file(&self.path);
        }
    }
}
