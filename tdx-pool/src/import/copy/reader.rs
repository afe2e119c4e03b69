//! Reading a sparse file piece by piece, holes as holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::error::{Error, ErrorKind, Result};

use super::extents::{Extents, PIECE};
use super::state::changed;
use super::watch::Watch;

/// Pieces in use at once: one being read, one that waits for the other threads, one that they work on.
const PIECES: usize = 3;
/// How much of a hole is hashed between two looks at the interrupt.
pub(super) const HOLE_PIECE: u64 = 32 << 20;
/// How often progress is reported at most.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Part of a file, from `at` on: bytes, or a hole without any.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) at: u64,
    pub(super) length: u64,
    pub(super) bytes: Option<Arc<Vec<u8>>>,
}

/// Gives `each` all of the file, in order, until it says false.
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

/// Reads until `bytes` are full or the file ends.
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
