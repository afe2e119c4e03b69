//! Whether a volume is still the one that was looked at.

use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, statx};

use crate::volume::Volume;

/// Which file a volume is: another file under the same name differs.
///
/// An inode number alone would not do: a file system gives it to the next file that is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeIdentity {
    path: PathBuf,
    /// What the name is, and what it leads to where it is a link; none on a remote host.
    files: Option<[Option<FileIdentity>; 2]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FileIdentity {
    device: (u32, u32),
    inode: u64,
    /// When the file was made, where the file system keeps that: seconds and nanoseconds.
    created: Option<(i64, u32)>,
}

impl VolumeIdentity {
    /// Which file the volume is now. Of a remote host's volumes only the path is known.
    pub(crate) fn read(volume: &Volume, is_local: bool) -> Self {
        let look = |flags| {
            let found = statx(CWD, &volume.path, flags, StatxFlags::INO | StatxFlags::BTIME);
            found.ok().map(|found| FileIdentity::from(&found))
        };
        let files = is_local.then(|| [look(AtFlags::SYMLINK_NOFOLLOW), look(AtFlags::empty())]);
        Self { path: volume.path.clone(), files }
    }
}

impl From<&Statx> for FileIdentity {
    fn from(found: &Statx) -> Self {
        let has_birth = found.stx_mask & StatxFlags::BTIME.bits() != 0;
        Self {
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            created: has_birth.then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec)),
        }
    }
}
