//! Reads a sparse file piece by piece and keeps its holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::error::{Error, ErrorKind, Result};

use super::extents::{Extents, PIECE};
use super::state::changed;
use super::watch::Watch;

/// The number of buffers: one is being read, one waits for the other threads, and they work on one.
const PIECES: usize = 3;
/// How much of a hole is hashed between two checks for an interrupt. Unit: bytes.
pub(super) const HOLE_PIECE: u64 = 32 << 20;
/// The least time between two reports of progress.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// A part of a file that starts at `at`: bytes, or a hole.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) at: u64,
    pub(super) length: u64,
    pub(super) bytes: Option<Arc<Vec<u8>>>,
}

/// Calls `each` with all pieces of the file, in order, until `each` returns false.
pub(super) fn read(
    source: &File,
    size: u64,
    watch: &mut Watch<'_>,
    mut each: impl FnMut(Piece) -> bool,
) -> Result<()> {
    let mut extents = Extents::new(source, size);
    let mut ring: [_; PIECES] = std::array::from_fn(|_| Arc::new(vec![0; PIECE as usize]));
    let mut told = Instant::now();
    let mut at = 0;
    while at < size {
        (watch.interrupt)()?;
        if told.elapsed() >= PROGRESS_INTERVAL {
            told = Instant::now();
            (watch.progress)(at, size);
        }
        let extent = extents.find(at);
        let piece = if at < extent.start {
            Piece { at, length: HOLE_PIECE.min(extent.start - at), bytes: None }
        } else {
            let length = (extent.end - at).min(PIECE - at % PIECE);
            ring.rotate_left(1);
            let bytes = Arc::make_mut(&mut ring[0]);
            if read_at(source, &mut bytes[..length as usize], at)? < length as usize {
                return Err(changed());
            }
            Piece { at, length, bytes: Some(Arc::clone(&ring[0])) }
        };
        at += piece.length;
        if !each(piece) {
            break;
        }
    }
    Ok(())
}

/// Reads until `bytes` is full or the file ends.
pub(super) fn read_at(file: &File, bytes: &mut [u8], at: u64) -> Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let message = format!("cannot read the image at byte {}", at + filled as u64);
                return Err(Error::new(ErrorKind::Io, message).because(error));
            }
        }
    }
    Ok(filled)
}
