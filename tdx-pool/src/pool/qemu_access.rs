//! Checks whether the user that QEMU runs as can enter the directories above an image.
//!
//! libvirt changes the owner of images, but never the mode of directories. A guest does not start if its image is below
//! a directory that QEMU's user cannot enter.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use common::shell::quote_path;
use common::{Error, Result};

use crate::pool::qemu_user::QemuUser;

/// Returns the first directory on the path `path` that QEMU's user cannot enter. Directories that do not exist or
/// cannot be examined are skipped.
///
/// Source: path_resolution(7); credentials(7) for supplementary groups, which libvirt gives QEMU.
pub fn closed_directory(path: &Path, qemu: QemuUser) -> Option<PathBuf> {
    if qemu.uid == 0 {
        return None;
    }
    let groups = groups_of(qemu);
    let mut above: Vec<&Path> = path.ancestors().collect();
    above.reverse();
    above.into_iter().find(|folder| is_closed(folder, qemu, &groups)).map(Path::to_owned)
}

/// Fails if QEMU's user cannot enter a directory or one of its parents.
///
/// Errors: `conflict`, with the command that grants access as the hint.
pub fn check(directory: &Path, qemu: QemuUser) -> Result<()> {
    match closed_directory(directory, qemu) {
        None => Ok(()),
        Some(closed) => {
            Err(Error::conflict(words(&closed, directory, qemu)).hint(opening(&closed)))
        }
    }
}

/// Returns the message of [`check`] as a warning, with the command that grants access.
pub fn warning(directory: &Path, qemu: QemuUser) -> Option<String> {
    let closed = closed_directory(directory, qemu)?;
    Some(format!("{} ({})", words(&closed, directory, qemu), opening(&closed)))
}

fn words(closed: &Path, directory: &Path, QemuUser { uid, gid }: QemuUser) -> String {
    let (closed, directory) = (closed.display(), directory.display());
    format!(
        "QEMU runs as user {uid} and group {gid} and cannot enter {closed}: guests with images in \
         {directory} cannot start"
    )
}

fn opening(closed: &Path) -> String {
    format!("run chmod o+x {}, or choose another directory", quote_path(closed))
}

fn is_closed(folder: &Path, qemu: QemuUser, groups: &[u32]) -> bool {
    let Ok(found) = folder.metadata() else {
        return false;
    };
    if !found.is_dir() {
        return false;
    }
    if let Some(enters) = by_acl(folder, (found.uid(), found.gid()), qemu, groups) {
        return !enters;
    }
    let bit = if found.uid() == qemu.uid {
        0o100
    } else if groups.contains(&found.gid()) {
        0o010
    } else {
        0o001
    };
    found.mode() & bit == 0
}

/// Whether the access control list of a directory allows QEMU's user to enter; `None` if it has no list.
///
/// Source: acl(5), "Access check algorithm"; Linux `include/uapi/linux/posix_acl_xattr.h`.
fn by_acl(folder: &Path, owners: (u32, u32), qemu: QemuUser, groups: &[u32]) -> Option<bool> {
    const ENTRY: usize = 8;
    let mut buffer = [0; 4 + 64 * ENTRY];
    let length = rustix::fs::getxattr(folder, "system.posix_acl_access", &mut buffer[..]).ok()?;
    let entries: Vec<AclEntry> = buffer
        .get(4..length)?
        .chunks_exact(ENTRY)
        .map(|entry| {
            let number = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
            let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            AclEntry { kind: number(0), can_enter: number(2) & 1 != 0, id }
        })
        .collect();
    judge_acl(&entries, owners, qemu, groups)
}

/// An entry of an access control list.
struct AclEntry {
    kind: u16,
    /// Whether the entry allows to enter a directory.
    can_enter: bool,
    /// The id of the user or group, for entries about a named user or group.
    id: u32,
}

/// Whether an access control list allows QEMU's user to enter a directory; none if the list does not decide that.
fn judge_acl(
    entries: &[AclEntry],
    (owner, group): (u32, u32),
    qemu: QemuUser,
    groups: &[u32],
) -> Option<bool> {
    const OWNER: u16 = 0x01;
    const USER: u16 = 0x02;
    const OWNING_GROUP: u16 = 0x04;
    const GROUP: u16 = 0x08;
    const MASK: u16 = 0x10;
    const OTHER: u16 = 0x20;
    let entry_of =
        |kind: u16| entries.iter().find(|entry| entry.kind == kind).map(|entry| entry.can_enter);
    let mask = entry_of(MASK).unwrap_or(true);
    if owner == qemu.uid {
        return entry_of(OWNER);
    }
    if let Some(user) = entries.iter().find(|entry| entry.kind == USER && entry.id == qemu.uid) {
        return Some(user.can_enter && mask);
    }
    let is_member = |entry: &&AclEntry| match entry.kind {
        OWNING_GROUP => groups.contains(&group),
        GROUP => groups.contains(&entry.id),
        _ => false,
    };
    let mut matching = entries.iter().filter(is_member).peekable();
    match matching.peek() {
        Some(_) => Some(matching.any(|entry| entry.can_enter) && mask),
        None => entry_of(OTHER),
    }
}

/// All groups of QEMU's user. Source: passwd(5), group(5).
fn groups_of(qemu: QemuUser) -> Vec<u32> {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    supplementary(&read("/etc/passwd"), &read("/etc/group"), qemu)
}

fn supplementary(passwd: &str, group: &str, qemu: QemuUser) -> Vec<u32> {
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let number = |field: Option<&String>| field.and_then(|text| text.parse::<u32>().ok());
    let user = passwd.lines().map(fields).find(|user| number(user.get(2)) == Some(qemu.uid));
    let name = user.and_then(|user| user.first().cloned()).unwrap_or_default();
    let own = user_group(passwd, qemu.uid);
    let named = group.lines().map(fields).filter(|group| {
        let members = group.get(3).map(String::as_str).unwrap_or_default();
        !name.is_empty() && members.split(',').any(|member| member == name)
    });
    let named = named.filter_map(|group| number(group.get(2)));
    [qemu.gid].into_iter().chain(own).chain(named).collect()
}

fn user_group(passwd: &str, uid: u32) -> Option<u32> {
    let mut users = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let uid = uid.to_string();
    let user = users.find(|user| user.get(2) == Some(&uid.as_str()))?;
    user.get(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, create_dir_all, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const QEMU: QemuUser = QemuUser { uid: 64055, gid: 106 };

    #[test]
    fn closed_directory_returns_the_first_closed_directory() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        create_dir_all(&deep).unwrap();
        let mode = |path: &Path, mode| set_permissions(path, Permissions::from_mode(mode)).unwrap();
        mode(folder.path(), 0o755);
        let absent = deep.join("d/e");
        assert_eq!(closed_directory(&absent, QEMU), None);
        mode(&folder.path().join("a/b"), 0o700);
        mode(&deep, 0o700);
        assert_eq!(closed_directory(&absent, QEMU), Some(folder.path().join("a/b")));
        assert_eq!(closed_directory(&absent, QemuUser { uid: 0, gid: 0 }), None);
        let own = deep.metadata().unwrap();
        let owner = QemuUser { uid: own.uid(), gid: own.gid() };
        assert_eq!(closed_directory(&absent, owner), None);
        // To enter is enough; to list is not needed.
        mode(&folder.path().join("a/b"), 0o711);
        mode(&deep, 0o711);
        assert_eq!(closed_directory(&absent, QEMU), None);
    }

    #[test]
    fn access_control_lists_are_judged_as_the_kernel_does() {
        let judge = |entries: &[(u16, bool, u32)]| {
            let entry = |&(kind, can_enter, id)| AclEntry { kind, can_enter, id };
            judge_acl(&entries.iter().map(entry).collect::<Vec<_>>(), (0, 0), QEMU, &[106])
        };
        let closed = [(1, true, 0), (4, false, 0), (0x20, false, 0)];
        assert_eq!(judge(&closed), Some(false));
        let with = |more: &[(u16, bool, u32)]| judge(&[&closed, more].concat());
        assert_eq!(with(&[(2, true, 64055), (0x10, true, 0)]), Some(true));
        assert_eq!(with(&[(2, true, 64055), (0x10, false, 0)]), Some(false));
        assert_eq!(with(&[(2, true, 1), (0x10, true, 0)]), Some(false));
        assert_eq!(with(&[(8, true, 106), (0x10, true, 0)]), Some(true));
        assert_eq!(judge(&[(1, true, 0), (4, false, 0), (0x20, true, 0)]), Some(true));
    }

    #[test]
    fn groups_of_a_user_are_found_by_its_name() {
        let passwd = "root:x:0:0::/:/bin/sh\nlibvirt-qemu:x:64055:106::/:/bin/false\n";
        let group = "kvm:x:106:\nmedia:x:200:a,libvirt-qemu\nother:x:201:libvirt\n";
        let groups = supplementary(passwd, group, QEMU);
        assert!(groups.contains(&106) && groups.contains(&200) && !groups.contains(&201));
        assert_eq!(supplementary("", "x:x:1:\n", QEMU), [106]);
    }
}
