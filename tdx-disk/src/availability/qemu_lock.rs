//! Detects the locks with which QEMU protects an image from other QEMU processes.

use std::fs::File;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// Whether a QEMU process has locked this node. A QEMU that has a node of its own in a mount namespace of libvirt shows
/// no lock here and is found by its open file.
///
/// Source: QEMU `block/file-posix.c`: QEMU takes shared locks of the open file, on the bytes from 100 for its own uses,
/// and on the bytes from 200 for the uses that it forbids to others.
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
    fn is_locked_detects_the_lock_of_another_open_file() {
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
