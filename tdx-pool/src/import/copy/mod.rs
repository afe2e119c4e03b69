//! Copies an image file on a local file system.
//!
//! If the file system supports reflinks, the copy is a reflink. Otherwise one thread reads the data extents, and a
//! second thread writes the blocks that are not zero. The second thread also tells the kernel to write the blocks to
//! disk and to drop them from the page cache during the copy, so that the final sync is short. A third thread computes
//! the digest from the same buffers.

mod digest;
mod extents;
mod reader;
mod same_content;
mod state;
#[cfg(test)]
mod tests;
mod watch;
mod writer;

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, Builder};

use common::error::{Error, ErrorKind, Result};
use rustix::fs::ioctl_ficlone;

use self::digest::hash;
use self::reader::{Piece, read};
use self::state::State;
use self::writer::{write, write_failed};

pub use self::digest::{sha256, sha256_of};
pub use self::same_content::same_content;
pub use self::watch::Watch;

/// How a file was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The copy shares the blocks of the source.
    Reflink,
    /// The data was read and written.
    Extents,
}

/// What [`copy`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// How the data came across.
    pub method: Method,
    /// The length of both files.
    pub size_bytes: u64,
    /// How much was written; holes and zeros were not.
    pub bytes_written: u64,
    /// The digest of all bytes of the copy, in lowercase hexadecimal.
    pub sha256: Option<String>,
}

/// Copies all of `source` to `target`, which is truncated first. Holes stay holes, and zeros become holes. The
/// copy is not flushed to disk: see [`sync`]. Moves the position of `source`.
///
/// Errors: `io` if reading or writing fails, a full disk included; `conflict` if the source changed
/// meanwhile; whatever the interrupt says. The content of `target` is then undefined.
pub fn copy(source: &File, target: &File, digest: bool, watch: &mut Watch<'_>) -> Result<Copied> {
    let before = State::read(source)?;
    target.set_len(0).map_err(write_failed)?;
    let mut copied =
        Copied { method: Method::Reflink, size_bytes: before.size, bytes_written: 0, sha256: None };
    if ioctl_ficlone(target, source).is_err() {
        copied.method = Method::Extents;
        target.set_len(before.size).map_err(write_failed)?;
        (copied.bytes_written, copied.sha256) =
            copy_extents(source, target, before.size, digest, watch)?;
    } else if digest {
        // Of the copy: the source may change the moment after its blocks are shared.
        copied.sha256 = Some(sha256(target, watch)?);
    }
    before.check(source)?;
    (watch.progress)(before.size, before.size);
    Ok(copied)
}

/// Flushes `target` to disk.
///
/// Errors: `io`, with the messages of [`copy`].
pub fn sync(target: &File) -> Result<()> {
    target.sync_all().map_err(write_failed)
}

fn copy_extents(
    source: &File,
    target: &File,
    size: u64,
    digest: bool,
    watch: &mut Watch<'_>,
) -> Result<(u64, Option<String>)> {
    thread::scope(|scope| {
        let (to_writer, pieces) = sync_channel(1);
        let writer = Builder::new().spawn_scoped(scope, move || write(target, pieces));
        let writer = writer.map_err(no_thread)?;
        let mut sinks = vec![to_writer];
        let mut hasher = None;
        if digest {
            let (to_hasher, pieces) = sync_channel(1);
            sinks.push(to_hasher);
            let thread = Builder::new().spawn_scoped(scope, move || hash(pieces));
            hasher = Some(thread.map_err(no_thread)?);
        }
        let read = read(source, size, watch, |piece| {
            sinks.iter().all(|sink: &SyncSender<Piece>| sink.send(piece.clone()).is_ok())
        });
        drop(sinks);
        let written = join(writer);
        let sha256 = hasher.map(join);
        read?;
        Ok((written?, sha256))
    })
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn no_thread(error: io::Error) -> Error {
    Error::new(ErrorKind::Io, "cannot start a thread to copy the image")
        .because(error)
        .hint("to see the limit on processes and threads of this user, run: ulimit -u")
}
