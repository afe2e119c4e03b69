//! Data of real trust domains, which is kept beside the repository.

#![expect(clippy::print_stderr, reason = "a test that is not run says so")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::PathBuf;

use super::tools::repository;

/// The path of a test vector: below `TDX_VECTORS`, or else below `../shared/vectors` beside the repository.
///
/// None, with a note on standard error, where the directory is absent. A directory that `TDX_VECTORS` names must exist.
pub(crate) fn vector(name: &str) -> Option<PathBuf> {
    let named = std::env::var_os("TDX_VECTORS").map(PathBuf::from);
    let beside = repository().parent().unwrap().join("shared/vectors");
    let is_named = named.is_some();
    let directory = named.unwrap_or(beside);
    if !is_named && !directory.exists() {
        eprintln!("not run: {name}: {} does not exist", directory.display());
        return None;
    }
    let path = directory.join(name);
    assert!(path.exists(), "{} does not exist", path.display());
    Some(path)
}
