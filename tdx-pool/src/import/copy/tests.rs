//! Copies of files of every layout, interrupted ones, and what cannot be written.

use std::cell::Cell;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use common::text::hex;
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::extents::PIECE;
use super::reader::{HOLE_PIECE, PROGRESS_INTERVAL};
use super::writer::data_runs;
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
    fn copy_keeps_content_digest_and_holes_of_any_layout(parts in proptest::collection::vec(
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
fn data_runs_skips_whole_blocks_of_zeros() {
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
fn sha256_returns_the_digest_that_sha256sum_prints() {
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
fn copy_reports_rising_progress_up_to_the_total() {
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
fn an_interrupt_ends_digest_copy_and_comparison() {
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
fn copy_of_a_source_that_changes_is_a_conflict() {
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
fn copy_states_the_reason_if_the_target_cannot_be_written() {
    let source = sparse(&[(10 * PIECE, 2)]);
    let read_only = File::open(source.path()).unwrap();
    let failed = quietly(|watch| copy(source.as_file(), &read_only, false, watch)).unwrap_err();
    assert_eq!((failed.kind(), failed.message()), (ErrorKind::Io, "cannot write the copy"));
    let full = write_failed(io::Error::from_raw_os_error(28));
    assert_eq!(full.message(), "cannot write the copy: no space left on the file system");
    assert_eq!(full.causes(), ["No space left on device (os error 28)"]);
}
