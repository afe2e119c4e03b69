//! Writing a sparse file, and having the kernel write it to disk meanwhile.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::mpsc::Receiver;

use common::error::{Error, ErrorKind, Result};
use rustix::fs::{Advice, fadvise};

use super::reader::Piece;

/// How much is written before the kernel is told to get it to disk.
const WINDOW: u64 = 16 << 20;

/// Writes the data of all pieces but for blocks of zeros. Returns the number of bytes written.
pub(super) fn write(target: &File, pieces: Receiver<Piece>) -> Result<u64> {
    // What cp tests for zeros as a whole; smaller blocks than a page are rare and not worth more.
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

/// What of `bytes`, which stand at `at`, is not blocks of zeros.
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

/// The part of the target that is on its way to disk.
#[derive(Debug, Default)]
struct Window {
    /// Where the part begins that was told the kernel before, and where the new one does.
    previous: u64,
    start: u64,
    written: u64,
}

impl Window {
    /// Has the kernel start to write out what is new, and forget what has reached the disk.
    fn advance(&mut self, target: &File, end: u64, written: u64) {
        if written - self.written >= WINDOW {
            // Only makes the final sync shorter; an error would show there.
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
        io::ErrorKind::StorageFull => "no space left for the copy",
        io::ErrorKind::QuotaExceeded => "the disk quota has no room for the copy",
        io::ErrorKind::FileTooLarge => "the file system takes no file this large",
        _ => "cannot write the copy",
    };
    Error::new(ErrorKind::Io, message).because(error)
}
