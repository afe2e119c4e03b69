//! The group whose members may use libvirt. The locks of its members have an effect on all users.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

use common::cli::log;
use common::system::user;

/// The groups that may use libvirt's system connection: the group in the polkit rules of distributions, and the groups
/// that may open libvirt's sockets.
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

/// Changes the group of a file to the group that may use libvirt, which only its members can do. Returns false on
/// failure: the locks of other users have no effect.
pub(super) fn prove_membership(file: &File) -> bool {
    let is_given = |group: &u32| fchown(file, None, Some(*group)).is_ok();
    let is_member = members().iter().any(is_given);
    if !is_member && !is_root() {
        log::step(
            "this user is not in a group that may use libvirt, so commands of root ignore this user's locks",
        );
    }
    is_member
}

/// Whether this process runs as root.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
