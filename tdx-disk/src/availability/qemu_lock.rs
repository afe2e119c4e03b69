//! The locks by which QEMU keeps another QEMU from an image.

use std::fs::File;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// Whether a QEMU has this node locked. One that libvirt gave a node of its own, in a mount namespace,
/// shows no lock here; its open file tells of it.
///
/// Source: QEMU `block/file-posix.c`: shared locks of the open file on the bytes from 100 for what it
/// does, and from 200 for what it lets nobody else do.
pub fn is_locked(file: &File) -> bool {
    let mut asked = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 100,
        l_len: 200,
        l_pid: 0,
    };
    let known = fcntl(file, FcntlArg::F_OFD_GETLK(&mut asked)).is_ok();
    known && asked.l_type != libc::F_UNLCK as libc::c_short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_of_anothers_is_seen() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let other = File::open(file.path()).unwrap();
        let read = libc::flock {
            l_type: libc::F_RDLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 103,
            l_len: 1,
            l_pid: 0,
        };
        assert!(!is_locked(file.as_file()));
        fcntl(&other, FcntlArg::F_OFD_SETLK(&read)).unwrap();
        assert!(is_locked(file.as_file()));
        drop(other);
        assert!(!is_locked(file.as_file()));
    }
}
