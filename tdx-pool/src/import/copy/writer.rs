//! Writes a sparse file, and tells the kernel to write it to disk during the copy.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::mpsc::Receiver;

use common::error::{Error, ErrorKind, Result};
use rustix::fs::{Advice, fadvise};

use super::reader::Piece;

/// How much is written before the kernel is told to write it to disk. Unit: bytes.
const WINDOW: u64 = 16 << 20;

/// Writes the data of all pieces except for blocks of zeros. Returns the number of bytes written.
pub(super) fn write(target: &File, pieces: Receiver<Piece>) -> Result<u64> {
    // The block size in which cp looks for zeros.
    let block = target.metadata().map_err(write_failed)?.blksize().clamp(512, 4096);
    let mut written = 0;
    let mut window = Window::default();
    for piece in pieces {
        let Some(bytes) = &piece.bytes else { continue };
        for run in data_runs(&bytes[..piece.length as usize], piece.at, block) {
            let at = piece.at + run.start as u64;
            written += run.len() as u64;
            target.write_all_at(&bytes[run], at).map_err(write_failed)?;
        }
        window.advance(target, piece.at + piece.length, written);
    }
    Ok(written)
}

/// The parts of `bytes`, which start at offset `at`, that are not blocks of zeros.
pub(super) fn data_runs(bytes: &[u8], at: u64, block: u64) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let length = block - (at + start as u64) % block;
        let end = bytes.len().min(start + length as usize);
        if !is_zero(&bytes[start..end]) {
            match runs.last_mut() {
                Some(run) if run.end == start => run.end = end,
                _ => runs.push(start..end),
            }
        }
        start = end;
    }
    runs
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

/// The part of the target that the kernel is writing to disk.
#[derive(Debug, Default)]
struct Window {
    /// The start of the part that the kernel was told about before, and the start of the new part.
    previous: u64,
    start: u64,
    written: u64,
}

impl Window {
    /// Tells the kernel to write the new part to disk, and to drop from the page cache what has reached the disk.
    fn advance(&mut self, target: &File, end: u64, written: u64) {
        if written - self.written >= WINDOW {
            // The calls only shorten the final sync, which reports errors.
            let _ = fadvise(
                target,
                self.previous,
                NonZeroU64::new(end - self.previous),
                Advice::DontNeed,
            );
            *self = Self { previous: self.start, start: end, written };
        }
    }
}

/// The error for a copy that cannot be written.
pub(super) fn write_failed(error: io::Error) -> Error {
    let message = match error.kind() {
        io::ErrorKind::StorageFull => "cannot write the copy: no space left on the file system",
        io::ErrorKind::QuotaExceeded => "cannot write the copy: the disk quota is exceeded",
        io::ErrorKind::FileTooLarge => {
            "cannot write the copy: the file is larger than the file system or RLIMIT_FSIZE allows"
        }
        _ => "cannot write the copy",
    };
    Error::new(ErrorKind::Io, message).because(error)
}
