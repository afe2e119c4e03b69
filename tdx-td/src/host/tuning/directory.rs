//! The directory of tuning below `/run`: its lock, and temporary files.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use common::system::file_lock::{FileLock, LockKind, Patience};
use common::system::sysroot;
use common::system::sysroot::Host;
use common::{Code, Error, IoContext, Result};

const FOLDER: &str = "/run/tdx/tuned";

/// How long to wait for another command.
const PATIENCE: Patience = Patience {
    limit: Duration::from_secs(10),
    pause: Duration::from_millis(50),
    is_interruptible: true,
};

/// Whether this host was tuned since it was booted.
pub fn is_there(host: &Host) -> bool {
    host.has(FOLDER)
}

/// Locks the host's settings against other commands of these tools, until the lock is dropped.
///
/// Errors: `conflict` with code `RESERVED` if another command keeps the lock for long.
pub fn lock(host: &Host) -> Result<FileLock> {
    let folder = host.path(FOLDER);
    make_folder(&folder)?;
    let file = PATIENCE.wait_for(|| {
        let file = File::open(&folder).at("open", &folder)?;
        Ok(FileLock::try_lock(file, LockKind::Exclusive).at("lock", &folder)?.locked())
    });
    let file = file?.ok_or_else(|| {
        Error::conflict("another command is changing the settings of this host")
            .code(Code::Reserved)
            .hint("wait until that command has ended, then run this one again")
    })?;
    // With the lock held, a temporary file is that of a killed command.
    sysroot::remove(&part(host))?;
    Ok(file)
}

/// Replaces the text of a file of a captured tree atomically.
///
/// Errors: `permission`, `io`.
pub fn exchange(host: &Host, file: &Path, text: &str) -> Result<()> {
    let part = part(host);
    make_folder(part.parent().unwrap_or(&part))?;
    fs::write(&part, text).at("write", &part)?;
    let permissions = file.metadata().at("examine", file)?.permissions();
    fs::set_permissions(&part, permissions).at("set the mode of", &part)?;
    fs::rename(&part, file).at("rename to", file)
}

fn part(host: &Host) -> std::path::PathBuf {
    host.path(FOLDER).join("part")
}

/// Creates a directory that only root can read.
pub(super) fn make_folder(folder: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.at("create", folder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_excludes_a_second_command() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let held = lock(&host).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| lock(&host).map(drop));
            std::thread::sleep(Duration::from_millis(120));
            assert!(!second.is_finished());
            drop(held);
            second.join().unwrap().unwrap();
        });
    }
}
