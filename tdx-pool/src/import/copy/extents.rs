//! The data extents of a sparse file.

use std::fs::File;
use std::ops::Range;

use rustix::fs::{Advice, SeekFrom, fadvise, seek};
use rustix::io::Errno;

/// How much is read at once. Unit: bytes.
pub(super) const PIECE: u64 = 1 << 20;
/// A hole of at most this length is read like data. Unit: bytes.
const SHORT_HOLE: u64 = 64 << 10;

/// The data extents of a file, which are looked up in ascending order.
#[derive(Debug)]
pub(super) struct Extents<'a> {
    file: &'a File,
    size: u64,
    current: Range<u64>,
}

impl<'a> Extents<'a> {
    pub(super) fn new(file: &'a File, size: u64) -> Self {
        // The advice only speeds up the read, so that a failure is ignored.
        let _ = fadvise(file, 0, None, Advice::Sequential);
        Self { file, size, current: 0..0 }
    }

    /// The next data extent that ends after `at`; an empty range at the end of the file if no data follows. Short holes
    /// are included, because reading them is cheaper than seeking.
    pub(super) fn find(&mut self, at: u64) -> Range<u64> {
        if at >= self.current.end {
            self.current = self.extent(at);
            while self.current.end - self.current.start < PIECE {
                let next = self.extent(self.current.end);
                if next.is_empty() || next.start - self.current.end > SHORT_HOLE {
                    break;
                }
                self.current.end = next.end;
            }
        }
        self.current.clone()
    }

    fn extent(&self, at: u64) -> Range<u64> {
        // On a file system without holes, everything is data.
        let start = match seek(self.file, SeekFrom::Data(at)) {
            Ok(start) => start.min(self.size),
            Err(Errno::NXIO) => self.size,
            Err(_) => at,
        };
        match seek(self.file, SeekFrom::Hole(start)) {
            Ok(end) if end > start => start..end.min(self.size),
            _ => start..self.size,
        }
    }
}
