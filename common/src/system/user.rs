//! Users and groups of this machine.

use nix::unistd::Group;

/// The id of a group; none when the group does not exist or the group database cannot be read.
pub fn group_id(name: &str) -> Option<u32> {
    Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}
