//! Users and groups of this machine.

use nix::unistd::Group;

/// The number of a group; none where there is no such group, or it cannot be told.
pub fn group_id(name: &str) -> Option<u32> {
    Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}
