//! The directory of `evidence`: its files are created, never replaced.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use common::document::input;
use common::image::FileKey;
use common::system::file_lock::{FileLock, LockKind};
use common::system::sysroot::create_bytes;
use common::td_quote::{self, ReportData, TdReport};
use common::undo::{self, Undo};
use common::{Error, ErrorKind, IoContext, Result};

use crate::evidence::event_log;

/// The directory with the files of one piece of evidence.
#[derive(Debug, Clone)]
pub struct EvidenceDirectory {
    path: PathBuf,
    quote: PathBuf,
    log: PathBuf,
}

impl EvidenceDirectory {
    /// Returns the directory at `path`, which need not exist.
    ///
    /// Errors: `usage` for an empty path.
    pub fn new(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path)
            .map_err(|error| Error::usage("--out needs the path of a directory").because(error))?;
        Ok(Self { quote: path.join("quote.bin"), log: path.join("ccel.bin"), path })
    }

    /// Returns the path of the quote.
    pub fn quote_path(&self) -> &Path {
        &self.quote
    }

    /// Returns the size of the quote that the directory has, in bytes.
    pub fn quote_size(&self) -> Result<u64> {
        fs::metadata(&self.quote).at("examine", &self.quote).map(|file| file.len())
    }

    /// Returns the path of the event log.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Returns whether the directory has a quote for this report data.
    ///
    /// Errors: `conflict` for another quote; those of reading a file.
    pub fn has_quote_for(&self, data: &ReportData) -> Result<bool> {
        let is_same =
            |bytes: &[u8]| TdReport::read(bytes).is_ok_and(|report| *report.report_data == data.0);
        self.has(&self.quote, td_quote::LIMIT, is_same)
    }

    /// Writes the files that are absent. Returns whether a file was written.
    ///
    /// An existing quote is kept if its report equals the new one: only the signature differs from quote to quote.
    /// The quote is written last, so that a directory with a quote is complete.
    ///
    /// Errors: `conflict` for a file with other content, or while another command uses the directory. Neither a file
    /// nor a directory remains of a command that fails.
    pub fn write(&self, quote: &[u8], log: Option<&[u8]>) -> Result<bool> {
        undo::on_failure(|undo| {
            create_directories(&self.path, undo)?;
            let lock = self.lock()?;
            undo.push_with(move |error| {
                drop(lock);
                error
            });
            let has_quote = self.has(&self.quote, td_quote::LIMIT, |old| {
                TdReport::read(old).is_ok_and(|report| TdReport::read(quote) == Ok(report))
            })?;
            let has_log = self.has(&self.log, event_log::LIMIT, |old| Some(old) == log)?;
            let new_log = log.filter(|_| !has_log);
            let new_quote = (!has_quote).then_some(quote);
            for (path, bytes) in [(&self.log, new_log), (&self.quote, new_quote)] {
                if let Some(bytes) = bytes {
                    let (path, file) = (path.clone(), create_bytes(path, bytes, 0o644)?);
                    undo.push(path.display().to_string(), move || remove_created(&path, &file));
                }
            }
            Ok(new_log.is_some() || new_quote.is_some())
        })
    }

    /// Locks the directory.
    ///
    /// Errors: `conflict` while another command holds the lock.
    fn lock(&self) -> Result<FileLock> {
        let file = File::open(&self.path).at("open", &self.path)?;
        let lock = FileLock::try_lock(file, LockKind::Exclusive).at("lock", &self.path)?.locked();
        lock.ok_or_else(|| {
            Error::conflict(format!("another command is writing to {}", self.path.display()))
                .hint("wait until that command has ended, then run this one again")
        })
    }

    /// Returns whether a file exists.
    ///
    /// Errors: `conflict` for a file that is not the same.
    fn has(&self, path: &Path, limit: usize, is_same: impl Fn(&[u8]) -> bool) -> Result<bool> {
        match input::file(path, limit) {
            Ok(bytes) if is_same(&bytes) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) if error.kind() != ErrorKind::InvalidInput => Err(error),
            _ => Err(Error::conflict(format!("{} exists and has other content", path.display()))
                .hint("choose another directory with --out, or delete the file")),
        }
    }
}

/// Creates a directory and those of its parents that are absent.
///
/// Errors: `conflict` for a path that leads through something that is no directory.
fn create_directories(path: &Path, undo: &mut Undo<'_>) -> Result<()> {
    let absent: Vec<&Path> = path.ancestors().take_while(|path| !path.is_dir()).collect();
    for path in absent.into_iter().rev() {
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).at("create", path);
            }
            // Another process created the directory at this moment, or the path ends in `..`.
            Err(_) if path.is_dir() => {}
            Err(_) => {
                let message = format!("{} exists and is not a directory", path.display());
                return Err(Error::conflict(message).hint("choose another directory with --out"));
            }
            Ok(()) => {
                let created = path.to_owned();
                undo.push(path.display().to_string(), move || fs::remove_dir(created));
            }
        }
    }
    Ok(())
}

/// Removes a file that this command created, but no file that has replaced it.
fn remove_created(path: &Path, created: &File) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if FileKey::from(&found) == FileKey::from(&created.metadata()?) => {
            fs::remove_file(path)
        }
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::sample::quote_with as sample;

    fn names(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_created_once_and_kept_if_they_are_equal() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let directory = EvidenceDirectory::new(&path).unwrap();
        let data = ReportData([3; 64]);
        assert!(!directory.has_quote_for(&data).unwrap());
        let quote = sample(4, 1, data.0);
        assert!(directory.write(&quote, Some(b"log")).unwrap());
        assert_eq!(names(&path), ["ccel.bin", "quote.bin"]);
        assert!(directory.has_quote_for(&data).unwrap());

        // Another signature.
        let mut signed_again = quote.clone();
        *signed_again.last_mut().unwrap() += 1;
        assert!(!directory.write(&signed_again, Some(b"log")).unwrap());
        assert_eq!(fs::read(directory.quote_path()).unwrap(), quote);
        // A killed command left the event log only.
        fs::remove_file(directory.quote_path()).unwrap();
        assert!(directory.write(&quote, Some(b"log")).unwrap());
        assert_eq!(fs::read(directory.log_path()).unwrap(), b"log");
    }

    #[test]
    fn files_with_other_content_are_a_conflict_and_nothing_is_written() {
        let root = tempfile::tempdir().unwrap();
        let directory = EvidenceDirectory::new(root.path()).unwrap();
        let data = ReportData([3; 64]);
        let quote = sample(4, 1, data.0);
        for (file, content) in [
            ("quote.bin", sample(4, 2, data.0)),
            ("quote.bin", vec![0; td_quote::LIMIT + 1]),
            ("quote.bin", Vec::new()),
            ("ccel.bin", b"other".to_vec()),
        ] {
            fs::write(root.path().join(file), &content).unwrap();
            let error = directory.write(&quote, Some(b"log")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
            assert!(error.message().contains(file), "{error}");
            assert_eq!(names(root.path()), [file]);
            assert_eq!(fs::read(root.path().join(file)).unwrap(), content);
            fs::remove_file(root.path().join(file)).unwrap();
        }
        // A guest without an event log: the log of another guest stays a conflict.
        fs::write(root.path().join("ccel.bin"), "other").unwrap();
        directory.write(&quote, None).unwrap_err();
    }

    #[test]
    fn a_failed_write_leaves_no_file() {
        let root = tempfile::tempdir().unwrap();
        let directory = EvidenceDirectory::new(root.path()).unwrap();
        let quote = sample(4, 1, [3; 64]);
        // The event log is written, then the quote cannot be.
        let part = root.path().join(".quote.bin.part");
        fs::create_dir(&part).unwrap();
        directory.write(&quote, Some(b"log")).unwrap_err();
        assert_eq!(names(root.path()), [".quote.bin.part"]);
        // The rest of a killed command is no obstacle.
        fs::remove_dir(&part).unwrap();
        fs::write(&part, "half").unwrap();
        directory.write(&quote, Some(b"log")).unwrap();
        assert_eq!(names(root.path()), ["ccel.bin", "quote.bin"]);

        let below = EvidenceDirectory::new(&directory.quote_path().join("below")).unwrap();
        below.write(&quote, None).unwrap_err();
    }
}
