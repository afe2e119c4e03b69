//! Who may use libvirt: the members of a group, whose locks count for everybody.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

use common::cli::log;
use common::system::user;

/// The groups that may use libvirt's system connection: the one that distributions' polkit rules name, and
/// those that the sockets are open to.
///
/// Source: <https://libvirt.org/auth.html#unix-socket-permissions-group>.
pub(super) fn members() -> Vec<u32> {
    let sockets = ["libvirt-sock", "virtqemud-sock", "virtstoraged-sock"];
    let groups = sockets.iter().filter_map(|socket| {
        let metadata = Path::new("/run/libvirt").join(socket).metadata().ok()?;
        (metadata.mode() & 0o020 != 0 && metadata.gid() != 0).then(|| metadata.gid())
    });
    user::group_id("libvirt").into_iter().chain(groups).collect()
}

/// Gives a file a group that only its members can give, and says whether it could. The lock of anybody else
/// counts for nobody.
pub(super) fn prove_membership(file: &File) -> bool {
    let is_given = |group: &u32| fchown(file, None, Some(*group)).is_ok();
    let is_member = members().iter().any(is_given);
    if !is_member && !is_root() {
        log::step(
            "this user is in no group that may use libvirt: root's commands ignore its locks",
        );
    }
    is_member
}

/// Whether this process runs as root.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
