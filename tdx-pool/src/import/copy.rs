//! The fastest safe way to duplicate an image file on a local file system.
//!
//! A reflink where the file system can. Otherwise one thread reads the data extents and a second
//! writes what in them is not zero. It also has the kernel write that to disk, and forget it, while
//! the copy goes on: that leaves little to the final sync and spares the host's page cache. A third
//! thread computes the digest from the same buffers.

use std::fmt;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Builder};
use std::time::{Duration, Instant};

use common::error::{Error, ErrorKind, Result};
use common::text::hex;
use rustix::fs::{Advice, SeekFrom, fadvise, ioctl_ficlone, seek};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

/// How much is read at once.
const PIECE: u64 = 1 << 20;
/// Pieces in use at once: one being read, one that waits for the other threads, one that they work on.
const PIECES: usize = 3;
/// A hole up to this is read like data.
const SHORT_HOLE: u64 = 64 << 10;
/// How much of a hole is hashed between two looks at the interrupt.
const HOLE_PIECE: u64 = 32 << 20;
/// How much is written before the kernel is told to get it to disk.
const WINDOW: u64 = 16 << 20;
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

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

/// Who watches a long operation.
pub struct Watch<'a> {
    /// Called with the bytes done and the bytes in all, at most every 100 ms and once at the end.
    pub progress: &'a mut dyn FnMut(u64, u64),
    /// Asked before every piece; its error ends the operation.
    pub interrupt: &'a dyn Fn() -> Result<()>,
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// Copies all of `source` to `target`, which is cut to nothing first; holes stay holes and zeros
/// become holes. Neither syncs nor names anything: see [`sync`]. Moves the position of `source`.
///
/// Errors: `io` if reading or writing fails, a full disk included; `conflict` if the source changed
/// meanwhile; whatever the interrupt says. The content of `target` is then undefined.
pub fn copy(source: &File, target: &File, digest: bool, watch: &mut Watch<'_>) -> Result<Copied> {
    let before = State::of(source)?;
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

/// Gets what was written to `target` to disk.
///
/// Errors: `io`, with the same words as [`copy`].
pub fn sync(target: &File) -> Result<()> {
    target.sync_all().map_err(write_failed)
}

/// Computes the digest of all bytes of `file`, in lowercase hexadecimal. Holes cost no reading.
///
/// Errors: those of [`copy`].
pub fn sha256(file: &File, watch: &mut Watch<'_>) -> Result<String> {
    let before = State::of(file)?;
    let mut hasher = Sha256::new();
    read(file, before.size, watch, |piece| {
        feed(&mut hasher, &piece);
        true
    })?;
    before.check(file)?;
    Ok(hex(hasher.finalize()))
}

/// The digest of all bytes of `file`, without progress. A signal ends it.
///
/// Errors: those of [`copy`].
pub fn sha256_of(file: &File) -> Result<String> {
    sha256(file, &mut Watch { progress: &mut |_, _| {}, interrupt: &common::cli::interrupt::check })
}

/// Whether both files hold the same bytes. Ends at the first difference; holes common to both are
/// not read. Moves the position of both.
///
/// Errors: `io`; whatever the interrupt says.
pub fn same_content(a: &File, b: &File, interrupt: &dyn Fn() -> Result<()>) -> Result<bool> {
    let size = State::of(a)?.size;
    if State::of(b)?.size != size {
        return Ok(false);
    }
    let mut files = [Extents::new(a, size), Extents::new(b, size)];
    let mut bytes = [vec![0; PIECE as usize], vec![0; PIECE as usize]];
    let mut at = 0;
    while at < size {
        interrupt()?;
        let extents = files.each_mut().map(|file| file.find(at));
        at = extents[0].start.min(extents[1].start).max(at);
        let here = extents.iter().filter(|extent| extent.start <= at);
        let end = here.map(|extent| extent.end).max().unwrap_or(size).min(at + PIECE);
        let length = (end - at) as usize;
        for (file, bytes) in [a, b].into_iter().zip(&mut bytes) {
            if read_at(file, &mut bytes[..length], at)? < length {
                return Ok(false);
            }
        }
        if bytes[0][..length] != bytes[1][..length] {
            return Ok(false);
        }
        at = end;
    }
    Ok(true)
}

/// What tells that a file was written to. A user can set the time of the last change of its content,
/// but not that of its inode.
#[derive(Debug, PartialEq, Eq)]
struct State {
    size: u64,
    content_changed: (i64, i64),
    inode_changed: (i64, i64),
}

impl State {
    fn of(file: &File) -> Result<Self> {
        let metadata = file.metadata().map_err(|error| {
            Error::new(ErrorKind::Io, "cannot examine the image").because(error)
        })?;
        Ok(Self {
            size: metadata.len(),
            content_changed: (metadata.mtime(), metadata.mtime_nsec()),
            inode_changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    fn check(&self, file: &File) -> Result<()> {
        if *self == Self::of(file)? { Ok(()) } else { Err(changed()) }
    }
}

/// Part of a file, from `at` on: bytes, or a hole without any.
#[derive(Debug, Clone)]
struct Piece {
    at: u64,
    length: u64,
    bytes: Option<Arc<Vec<u8>>>,
}

/// The data extents of a file, looked up in rising order.
#[derive(Debug)]
struct Extents<'a> {
    file: &'a File,
    size: u64,
    current: Range<u64>,
}

impl<'a> Extents<'a> {
    fn new(file: &'a File, size: u64) -> Self {
        // Only reads ahead further; not worth an error.
        let _ = fadvise(file, 0, None, Advice::Sequential);
        Self { file, size, current: 0..0 }
    }

    /// The data that `at` lies in or before; empty and at the end of the file if there is none.
    /// Reading through a short hole is cheaper than going around it.
    fn find(&mut self, at: u64) -> Range<u64> {
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
        // A file system that knows no holes has nothing but data.
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

/// Gives `each` all of the file, in order, until it says false.
fn read(
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
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> Result<usize> {
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

fn write(target: &File, pieces: Receiver<Piece>) -> Result<u64> {
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
fn data_runs(bytes: &[u8], at: u64, block: u64) -> Vec<Range<usize>> {
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

fn hash(pieces: Receiver<Piece>) -> String {
    let mut hasher = Sha256::new();
    pieces.iter().for_each(|piece| feed(&mut hasher, &piece));
    hex(hasher.finalize())
}

fn feed(hasher: &mut Sha256, piece: &Piece) {
    static ZEROS: [u8; 4 << 10] = [0; 4 << 10];
    if let Some(bytes) = &piece.bytes {
        return hasher.update(&bytes[..piece.length as usize]);
    }
    let mut left = piece.length as usize;
    while left > 0 {
        let length = left.min(ZEROS.len());
        hasher.update(&ZEROS[..length]);
        left -= length;
    }
}

fn no_thread(error: io::Error) -> Error {
    Error::new(ErrorKind::Io, "the system gives no thread for copying")
        .because(error)
        .hint("ulimit -u shows how many processes and threads this user may have")
}

fn changed() -> Error {
    Error::conflict("the image changed while it was read")
        .hint("stop what writes to it, then try again")
}

fn write_failed(error: io::Error) -> Error {
    let message = match error.kind() {
        io::ErrorKind::StorageFull => "no space left for the copy",
        io::ErrorKind::QuotaExceeded => "the disk quota has no room for the copy",
        io::ErrorKind::FileTooLarge => "the file system takes no file this large",
        _ => "cannot write the copy",
    };
    Error::new(ErrorKind::Io, message).because(error)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write;
    use std::path::Path;

    use proptest::prelude::*;
    use tempfile::NamedTempFile;

    use super::*;

    fn quietly<T>(work: impl FnOnce(&mut Watch<'_>) -> T) -> T {
        work(&mut Watch { progress: &mut |_, _| {}, interrupt: &|| Ok(()) })
    }

    fn same(a: &NamedTempFile, b: &NamedTempFile) -> bool {
        same_content(a.as_file(), b.as_file(), &|| Ok(())).unwrap()
    }

    /// A file of `parts`: how long, and whether a hole, zeros or data.
    fn sparse(parts: &[(u64, u8)]) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        let mut at = 0;
        for &(length, kind) in parts {
            let byte = [None, Some(0), Some(0xa5)][usize::from(kind)];
            if let Some(byte) = byte {
                file.as_file().write_all_at(&vec![byte; length as usize], at).unwrap();
            }
            at += length;
        }
        file.as_file().set_len(at).unwrap();
        file
    }

    #[expect(clippy::disallowed_methods, reason = "cp is what the copy is measured by")]
    fn cp(source: &Path) -> NamedTempFile {
        let target = NamedTempFile::new().unwrap();
        let ran = std::process::Command::new("cp")
            .args(["--sparse=always", "--reflink=never"])
            .args([source, target.path()])
            .status();
        assert!(ran.unwrap().success());
        target
    }

    fn blocks(file: &NamedTempFile) -> u64 {
        file.as_file().sync_all().unwrap();
        file.as_file().metadata().unwrap().blocks()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn any_layout_is_kept(parts in proptest::collection::vec(
            (prop_oneof![(1..64u64).prop_map(|blocks| blocks * 4096), 1..3_000_000u64], 0..3u8),
            0..12,
        )) {
            let source = sparse(&parts);
            let target = NamedTempFile::new().unwrap();
            target.as_file().write_all_at(b"what was there before", 1 << 20).unwrap();
            let copied = quietly(|watch| copy(source.as_file(), target.as_file(), true, watch));
            let copied = copied.unwrap();

            let content = std::fs::read(source.path()).unwrap();
            prop_assert!(std::fs::read(target.path()).unwrap() == content);
            prop_assert_eq!(copied.size_bytes, content.len() as u64);
            prop_assert_eq!(copied.sha256, Some(hex(Sha256::digest(&content))));
            if copied.method == Method::Extents {
                // The file system may need a block of its own more or less for the extents.
                prop_assert!(blocks(&target) <= blocks(&cp(source.path())) + 8);
            }

            prop_assert!(same(&source, &target));
            if let Some(last) = content.len().checked_sub(1) {
                for at in [0, last / 2, last] {
                    let bent = [content[at] ^ 1];
                    target.as_file().write_all_at(&bent, at as u64).unwrap();
                    prop_assert!(!same(&source, &target));
                    target.as_file().write_all_at(&content[at..=at], at as u64).unwrap();
                }
                target.as_file().set_len(last as u64).unwrap();
                prop_assert!(!same(&source, &target));
            }
        }
    }

    #[test]
    fn zeros_are_told_by_the_block() {
        let mut bytes = vec![0; 10_000];
        bytes[5000] = 1;
        bytes[9999] = 1;
        for (at, block, runs) in [
            (0, 4096, vec![(4096, 10_000)]),
            (96, 4096, vec![(4000, 10_000)]),
            (3000, 4096, vec![(1096, 5192), (9288, 10_000)]),
            (0, 512, vec![(4608, 5120), (9728, 10_000)]),
        ] {
            let found = data_runs(&bytes, at, block).into_iter();
            let found: Vec<_> = found.map(|run| (run.start, run.end)).collect();
            assert_eq!(found, runs, "blocks of {block} from {at}");
        }
        assert_eq!(data_runs(&bytes[..4999], 1, 4096), []);
    }

    #[test]
    fn the_digest_is_that_of_sha256sum() {
        let file = sparse(&[(HOLE_PIECE + 5, 0), (3, 2), (PIECE, 1)]);
        let digest = quietly(|watch| sha256(file.as_file(), watch)).unwrap();
        let content = std::fs::read(file.path()).unwrap();
        assert_eq!(digest, hex(Sha256::digest(content)));
        let mut abc = NamedTempFile::new().unwrap();
        abc.write_all(b"abc").unwrap();
        assert_eq!(
            quietly(|watch| sha256(abc.as_file(), watch)).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn progress_rises_to_the_end() {
        let source = sparse(&[(3 * PIECE, 2), (5, 0)]);
        let target = NamedTempFile::new().unwrap();
        let mut told = Vec::new();
        let mut watch = Watch {
            progress: &mut |done, total| told.push((done, total)),
            interrupt: &|| {
                thread::sleep(PROGRESS_INTERVAL);
                Ok(())
            },
        };
        copy(source.as_file(), target.as_file(), true, &mut watch).unwrap();
        let total = 3 * PIECE + 5;
        assert!(told.is_sorted());
        assert_eq!(told.last(), Some(&(total, total)));
    }

    #[test]
    fn an_interrupt_ends_everything() {
        let source = sparse(&[(20 * PIECE, 2)]);
        let other = sparse(&[(20 * PIECE, 2)]);
        let target = NamedTempFile::new().unwrap();
        let left = Cell::new(3);
        let interrupt = || {
            left.set(left.get() - 1);
            if left.get() >= 0 {
                return Ok(());
            }
            Err(Error::new(ErrorKind::Interrupted, "stopped"))
        };
        let mut watch = Watch { progress: &mut |_, _| {}, interrupt: &interrupt };
        let ended = [
            sha256(source.as_file(), &mut watch).map(drop),
            copy(source.as_file(), target.as_file(), true, &mut watch).map(drop),
            same_content(source.as_file(), other.as_file(), &interrupt).map(drop),
        ];
        for ended in ended {
            assert_eq!(ended.unwrap_err().kind(), ErrorKind::Interrupted);
        }
    }

    #[test]
    fn a_source_that_changes_is_a_conflict() {
        for length in [0, 2 * PIECE, 20 * PIECE] {
            let source = sparse(&[(10 * PIECE, 2)]);
            let target = NamedTempFile::new().unwrap();
            let interrupt = || {
                source.as_file().set_len(length).unwrap();
                Ok(())
            };
            let mut watch = Watch { progress: &mut |_, _| {}, interrupt: &interrupt };
            let failed = copy(source.as_file(), target.as_file(), true, &mut watch).unwrap_err();
            assert_eq!(failed.kind(), ErrorKind::Conflict);
        }
    }

    #[test]
    fn what_cannot_be_written_is_said() {
        let source = sparse(&[(10 * PIECE, 2)]);
        let read_only = File::open(source.path()).unwrap();
        let failed = quietly(|watch| copy(source.as_file(), &read_only, false, watch)).unwrap_err();
        assert_eq!((failed.kind(), failed.message()), (ErrorKind::Io, "cannot write the copy"));
        let full = write_failed(io::Error::from_raw_os_error(28));
        assert_eq!(full.message(), "no space left for the copy");
        assert_eq!(full.causes(), ["No space left on device (os error 28)"]);
    }
}
