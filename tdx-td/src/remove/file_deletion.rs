//! Deleting the files of domains that nothing else needs, and the preview of that.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use common::libvirt::Libvirt;
use common::{Error, Result, parallel};
use tdx_pool::pool::Pool;
use tdx_pool::references::References;
use tdx_pool::volume::checked_file::{CheckedFile, Deletion, PathContent};

use crate::remove::item::KeptFile;
use crate::remove::owned_files::{DeletionBasis, OwnedFiles};

/// The directory in which the original tdvirsh creates overlays.
const WORK_DIRECTORY: &str = "/var/tmp/tdvirsh";

/// The files of one domain that is deleted.
#[derive(Debug, Default)]
pub(super) struct DomainFiles {
    /// Files to delete, unless something else needs them.
    candidates: Vec<CheckedFile>,
    /// Files that were deleted.
    pub(super) deleted: Vec<String>,
    /// Files that are kept.
    pub(super) kept: Vec<KeptFile>,
    /// Warnings about files that are kept because something else needs them.
    pub(super) warnings: Vec<String>,
    /// The first failure.
    failed: Option<Error>,
    left: Vec<String>,
}

impl DomainFiles {
    /// Checks the files of every domain. A file is kept unless it is a regular file in a directory of these tools.
    pub(super) fn check(libvirt: &Libvirt, owned: Vec<OwnedFiles>) -> Result<Vec<Self>> {
        let mut candidates = owned.iter().flat_map(|files| &files.candidates);
        let needs_pools = candidates.any(|candidate| candidate.basis == DeletionBasis::Named);
        let directories = if needs_pools { directories(libvirt)? } else { Vec::new() };
        let check = |files: OwnedFiles| Self::check_one(libvirt, &directories, files);
        parallel::map(owned, parallel::DOMAINS, check).into_iter().collect()
    }

    fn check_one(libvirt: &Libvirt, directories: &[PathBuf], owned: OwnedFiles) -> Result<Self> {
        let mut files = Self::default();
        for candidate in owned.candidates {
            let is_misplaced = candidate.basis == DeletionBasis::Named
                && !is_in(libvirt, directories, &candidate.path);
            match CheckedFile::find(libvirt, &candidate.path)? {
                PathContent::Nothing => {}
                _ if owned
                    .spared
                    .iter()
                    .any(|spared| is_same(libvirt, spared, &candidate.path)) =>
                {
                    files.keep(&candidate.path, "a base image, or a file given by the user");
                }
                _ if is_misplaced => {
                    files.keep(&candidate.path, "not in a pool or in /var/tmp/tdvirsh")
                }
                PathContent::Other(what) => files.keep(&candidate.path, what),
                PathContent::Unseen => {
                    files.keep(&candidate.path, "not in a pool, and not visible from this machine")
                }
                PathContent::File(file) => files.candidates.push(file),
            }
        }
        for (path, reason) in owned.kept {
            if !matches!(CheckedFile::find(libvirt, &path), Ok(PathContent::Nothing)) {
                files.keep(&path, &reason);
            }
        }
        Ok(files)
    }

    fn keep(&mut self, path: &Path, reason: &str) {
        self.kept.push(KeptFile { path: path.display().to_string(), reason: reason.to_owned() });
    }

    /// Records the result for a candidate. Returns whether the file no longer exists.
    fn note(&mut self, path: &Path, done: Result<Deletion>) -> bool {
        let shown = path.display().to_string();
        match done {
            Ok(Deletion::Done) => self.deleted.push(shown),
            Ok(Deletion::WasGone) => {}
            Ok(Deletion::Replaced) => {
                self.keep(path, "replaced by another file while the domain was deleted");
                return false;
            }
            Err(error) => {
                self.failed.get_or_insert(error);
                self.left.push(shown);
                return false;
            }
        }
        true
    }

    /// Returns the error of the first file that could not be deleted, if any.
    pub(super) fn take_error(&mut self) -> Option<Error> {
        let left = std::mem::take(&mut self.left);
        self.failed.take().map(|error| error.left_behind(left))
    }
}

/// Deletes every candidate that nothing else needs, images before their backing images. The others are kept, with
/// their backing images.
///
/// `references` were collected after the files were checked. Domains in `going` do not count as users. With
/// `dry_run` nothing is deleted, and the result is that of a deletion.
pub(super) fn delete_unneeded(
    libvirt: &Libvirt,
    references: &mut References,
    domains: &mut [DomainFiles],
    going: &HashSet<String>,
    dry_run: bool,
) -> Result<()> {
    for kept in domains.iter().flat_map(|files| &files.kept) {
        references
            .add_image(Path::new(&kept.path), format!("'{}', a file that is kept", kept.path))?;
    }
    loop {
        // Two domains may have the same candidate.
        let mut seen = HashSet::new();
        let mut round: Vec<(usize, Vec<CheckedFile>)> = Vec::new();
        for (number, files) in domains.iter_mut().enumerate() {
            let is_free = |file: &mut CheckedFile| users(references, going, file.path()).is_empty();
            let mut free: Vec<CheckedFile> = files.candidates.extract_if(.., is_free).collect();
            free.retain(|file| seen.insert(file.path().to_owned()));
            round.extend((!free.is_empty()).then_some((number, free)));
        }
        if round.is_empty() {
            break;
        }
        let delete = |(number, files): (usize, Vec<CheckedFile>)| {
            let delete = |file: CheckedFile| {
                let done = if dry_run { Ok(Deletion::Done) } else { file.delete(libvirt) };
                (number, file, done)
            };
            files.into_iter().map(delete).collect::<Vec<_>>()
        };
        let done = parallel::map(round, parallel::GUESTS, delete);
        for (number, file, done) in done.into_iter().flatten() {
            if domains[number].note(file.path(), done) {
                references.forget(file.path());
            }
        }
    }
    for files in domains {
        for file in std::mem::take(&mut files.candidates) {
            let reason = format!("needed by {}", users(references, going, file.path()).join(", "));
            files.warnings.push(format!("{} is kept: {reason}", file.path().display()));
            files.keep(file.path(), &reason);
        }
        files.kept.sort_by(|a, b| a.path.cmp(&b.path));
    }
    Ok(())
}

/// Returns descriptions of the domains, except those in `going`, and of the images that need a file.
fn users(references: &References, going: &HashSet<String>, path: &Path) -> Vec<String> {
    let domains = references.domains(path).into_iter().filter(|name| !going.contains(name));
    let domains = domains.map(|name| format!("domain '{name}'"));
    let images = references.images(path).into_iter();
    domains.chain(images).chain(references.unknown_images(path, going)).collect()
}

/// Returns the directories in which these tools, and the original tdvirsh, create files.
fn directories(libvirt: &Libvirt) -> Result<Vec<PathBuf>> {
    let pools = Pool::all(libvirt)?;
    let mut directories: Vec<PathBuf> =
        pools.iter().filter_map(|pool| pool.folder().ok()).map(Path::to_owned).collect();
    if libvirt.is_local() {
        directories = directories.iter().filter_map(|path| path.canonicalize().ok()).collect();
    }
    directories.push(PathBuf::from(WORK_DIRECTORY));
    Ok(directories)
}

/// Whether a file is directly in one of these directories, after symbolic links are resolved.
fn is_in(libvirt: &Libvirt, directories: &[PathBuf], file: &Path) -> bool {
    let Some(parent) = file.parent() else { return false };
    let parent =
        if libvirt.is_local() { parent.canonicalize().ok() } else { Some(parent.to_owned()) };
    parent.is_some_and(|parent| directories.contains(&parent))
}

/// Whether two paths lead to the same file of this host.
fn is_same(libvirt: &Libvirt, a: &Path, b: &Path) -> bool {
    let file = |path: &Path| path.metadata().map(|file| (file.dev(), file.ino())).ok();
    libvirt.is_local() && file(a).is_some_and(|a| file(b) == Some(a))
}
