//! Identifies a volume, to detect that another volume has taken its name.

use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, statx};

use crate::volume::Volume;

/// The identity of a volume's file. Another file with the same name has another identity.
///
/// The inode number alone is not enough, because a file system may reuse it for the next new file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeIdentity {
    path: PathBuf,
    /// The file and, for a link, the target of the link; none on a remote host.
    files: Option<[Option<FileIdentity>; 2]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FileIdentity {
    device: (u32, u32),
    inode: u64,
    /// The birth time of the file in seconds and nanoseconds, if the file system records it.
    created: Option<(i64, u32)>,
}

impl VolumeIdentity {
    /// Reads the current identity of a volume. For a volume of a remote host, only the path is known.
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
