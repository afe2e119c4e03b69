//! One at a time: the lock on a disk's own node, which udev and partitioning tools heed as well.
//!
//! Source: <https://systemd.io/BLOCK_DEVICE_LOCKING/>.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use common::system::file_lock::{FileLock, LockKind, Patience};
use common::system::sysroot::Host;
use common::{Code, Error, IoContext, Result};
use rustix::fs::OFlags;

/// How long the lock is waited for: as long as an attach may take.
const PATIENCE: Patience = Patience {
    limit: Duration::from_secs(30),
    pause: Duration::from_millis(50),
    is_interruptible: true,
};

/// A lock that lasts until this is dropped, or the process dies.
#[derive(Debug)]
pub struct Lock {
    _node: FileLock,
}

impl Lock {
    /// Takes the lock of a whole disk.
    ///
    /// Errors: `conflict` with code `RESERVED` when another has it for too long; `permission`, `io`.
    pub fn take(host: &Host, node: &str) -> Result<Self> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let node_lock = PATIENCE.wait_for(|| {
            // Whoever has the lock counts those that have the disk open: a file that is busy is closed.
            let file = File::options().read(true).custom_flags(flags).open(host.path(node));
            let file = file.at("open", node)?;
            Ok(FileLock::try_lock(file, LockKind::Exclusive).at("lock", node)?.locked())
        })?;
        let busy = || {
            Error::conflict(format!("another command is at work on {node}"))
                .code(Code::Reserved)
                .hint("wait for it to end")
        };
        Ok(Self { _node: node_lock.ok_or_else(busy)? })
    }
}
