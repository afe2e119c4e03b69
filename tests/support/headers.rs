//! Headers that a guest may write into its disk, and checks that no header has an effect.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::rig::Rig;
use super::tools::Run;

/// Creates the files of the attack in a directory of the rig: `secret`, which only root can read; headers
/// that name it as a backing file and as an external data file; and the header of an encrypted disk.
pub(crate) fn make_headers(rig: &Rig) {
    rig.shell(
        "head -c 1M /dev/zero | tr '\\0' s >secret && chmod 600 secret && chmod 755 . && \
         qemu-img create -q -u -f qcow2 -b $PWD/secret -F raw backing 1M && \
         cp secret data && qemu-img create -q -f qcow2 -o data_file=$PWD/data,data_file_raw=on data-file 1M && \
         qemu-img create -q -f qcow2 plain 1M && cp plain encrypted && \
         printf '\\1' | dd of=encrypted bs=1 seek=35 conv=notrunc status=none && \
         truncate -s 1M zeros",
    )
    .text();
}

/// Expects this status, and these words in the message and the hint.
#[track_caller]
pub(crate) fn refused(run: &Run, status: i32, says: &str, hints: &str) {
    let error = run.error(status);
    let (message, hint) = (error["message"].to_string(), error["hint"].to_string());
    assert!(message.contains(says), "{says:?} is not in {message}");
    assert!(hint.contains(hints), "{hints:?} is not in {hint}");
}

pub(crate) fn small(line: &str) -> String {
    format!("{line} --security none --memory 64M --vcpus 1")
}

/// Fails if a command has opened the file that only root may read.
#[track_caller]
pub(crate) fn check_secret(rig: &Rig) {
    for name in ["secret", "data"] {
        let metadata = fs::metadata(rig.scratch().join(name)).unwrap();
        assert_eq!(metadata.uid(), 0, "{name} was given away");
    }
    let open = format!(
        "find /proc/[0-9]*/fd -lname '{}/secret' -o -lname '{0}/data'",
        rig.scratch().display()
    );
    assert_eq!(
        rig.shell(&format!("{open} 2>/dev/null || true")).text(),
        "",
        "a process has it open"
    );
}
