//! The lock on a disk: a lock on its device node, which udev and partitioning tools respect as well.
//!
//! Source: <https://systemd.io/BLOCK_DEVICE_LOCKING/>.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use common::cli::interrupt;
use common::system::sysroot::Host;
use common::{Code, Error, IoContext, Result};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

/// How long to wait for another holder of the lock: as long as an attach may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A lock on a disk. It lasts until this value is dropped or the process ends.
#[derive(Debug)]
pub struct DiskLock {
    _node: File,
}

impl DiskLock {
    /// Locks a whole disk.
    ///
    /// Errors: `conflict` with code `RESERVED` when another process holds the lock for too long; `permission`, `io`.
    pub fn take(host: &Host, node: &str) -> Result<Self> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let began = Instant::now();
        loop {
            let file = File::options().read(true).custom_flags(flags).open(host.path(node));
            let file = file.at("open", node)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _node: file }),
                Err(Errno::WOULDBLOCK) if began.elapsed() < PATIENCE => {
                    // The file is closed during the wait, because the holder of the lock looks for open files.
                    drop(file);
                    interrupt::sleep(Duration::from_millis(50))?;
                }
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::conflict(format!("another command is working on {node}"))
                        .code(Code::Reserved)
                        .hint("run this command again after the other command has ended"));
                }
                Err(error) => return Err(error).at("lock", node),
            }
        }
    }
}
