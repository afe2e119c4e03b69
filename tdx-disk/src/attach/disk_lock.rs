//! One at a time: the lock on a disk's own node, which udev and partitioning tools heed as well.
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

/// How long whoever has it is waited for: as long as an attach may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A lock that lasts until this is dropped, or the process dies.
#[derive(Debug)]
pub struct DiskLock {
    _node: File,
}

impl DiskLock {
    /// Takes the lock of a whole disk.
    ///
    /// Errors: `conflict` with code `RESERVED` when another has it for too long; `permission`, `io`.
    pub fn take(host: &Host, node: &str) -> Result<Self> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let began = Instant::now();
        loop {
            let file = File::options().read(true).custom_flags(flags).open(host.path(node));
            let file = file.at("open", node)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _node: file }),
                Err(Errno::WOULDBLOCK) if began.elapsed() < PATIENCE => {
                    // Whoever has the lock counts those that have the disk open.
                    drop(file);
                    interrupt::sleep(Duration::from_millis(50))?;
                }
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::conflict(format!("another command is at work on {node}"))
                        .code(Code::Reserved)
                        .hint("wait for it to end"));
                }
                Err(error) => return Err(error).at("lock", node),
            }
        }
    }
}
