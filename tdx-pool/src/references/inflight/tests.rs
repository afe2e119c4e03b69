//! Locks of root and of other users, in a tree of files.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use common::system::file_lock::LockKind;
use common::system::sysroot::Host;

use super::directory::LockOwner;
use super::lock_file::is_locked_in;
use super::membership::is_root;
use super::{InFlight, is_in_flight, sweep};

const NAME: &str = "overlay.abcDEF012345678.qcow2";

fn folder(host: &Host) -> PathBuf {
    LockOwner::current().path(host)
}

#[test]
fn a_lock_is_in_flight_until_it_is_dropped() {
    let root = tempfile::tempdir().unwrap();
    let host = Host::new(root.path());
    assert!(!is_in_flight(&host, NAME).unwrap());
    let held = InFlight::begin(&host, NAME).unwrap();
    assert_eq!(folder(&host).join(NAME).metadata().unwrap().mode() & 0o777, 0o600);
    assert!(is_in_flight(&host, NAME).unwrap());
    assert!(InFlight::begin(&host, NAME).is_err());
    drop(held);
    assert!(!is_in_flight(&host, NAME).unwrap());
    assert_eq!(fs::read_dir(folder(&host)).unwrap().count(), 0);
}

#[test]
fn the_file_of_a_dead_holder_is_no_lock_and_sweep_removes_it() {
    let root = tempfile::tempdir().unwrap();
    let host = Host::new(root.path());
    drop(InFlight::begin(&host, NAME).unwrap());
    let stale = folder(&host).join(NAME);
    fs::write(&stale, "").unwrap();
    assert!(!is_in_flight(&host, NAME).unwrap());
    assert!(stale.exists(), "looking took the lock file away");
    let held = InFlight::begin(&host, "overlay.held00000000000.qcow2").unwrap();
    sweep(&host);
    assert!(!stale.exists());
    assert!(held.directory.has(&held.name).unwrap(), "a held lock was taken for a stale one");
}

#[test]
fn a_lock_that_others_can_open_does_not_count() {
    let root = tempfile::tempdir().unwrap();
    let host = Host::new(root.path());
    let path = LockOwner::Users.path(&host).join(NAME);
    fs::create_dir_all(LockOwner::Users.path(&host)).unwrap();
    let lock = File::create(&path).unwrap();
    lock.try_lock().unwrap();
    for (mode, is_lock) in [(0o600, true), (0o640, false), (0o666, false)] {
        lock.set_permissions(Permissions::from_mode(mode)).unwrap();
        assert_eq!(is_in_flight(&host, NAME).unwrap(), is_lock, "{mode:o}");
    }
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/null", &path).unwrap();
    assert!(!is_in_flight(&host, NAME).unwrap(), "followed a link");
}

#[test]
fn sweep_follows_no_link_and_keeps_files_that_are_not_locks() {
    let root = tempfile::tempdir().unwrap();
    let host = Host::new(root.path());
    let elsewhere = root.path().join("etc");
    fs::create_dir(&elsewhere).unwrap();
    for name in ["passwd", "empty"] {
        fs::write(elsewhere.join(name), if name == "empty" { "" } else { "root" }).unwrap();
    }
    for owner in LockOwner::ALL {
        let directory = owner.path(&host);
        fs::create_dir_all(directory.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &directory).unwrap();
        sweep(&host);
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 2, "{owner:?}");
        let found = is_locked_in(&host, owner, "empty", LockKind::Shared);
        assert!(found.is_err() || !found.unwrap(), "{owner:?}");
        fs::remove_file(&directory).unwrap();
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("notes"), "not a lock").unwrap();
        fs::write(directory.join("stale"), "").unwrap();
        sweep(&host);
        let left: Vec<_> = fs::read_dir(&directory).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}

#[test]
fn a_file_or_link_in_place_of_the_lock_directory_holds_no_lock() {
    let root = tempfile::tempdir().unwrap();
    let host = Host::new(root.path());
    let (users, other) = (LockOwner::Users.path(&host), root.path().join("other"));
    fs::create_dir_all(users.parent().unwrap()).unwrap();
    fs::create_dir(&other).unwrap();
    let lock = File::create(other.join(NAME)).unwrap();
    lock.set_permissions(Permissions::from_mode(0o600)).unwrap();
    lock.try_lock().unwrap();
    fs::write(&users, "").unwrap();
    assert!(!is_in_flight(&host, NAME).unwrap(), "a file");
    fs::remove_file(&users).unwrap();
    std::os::unix::fs::symlink(&other, &users).unwrap();
    assert!(!is_in_flight(&host, NAME).unwrap(), "a link");
    assert_eq!(InFlight::begin(&host, NAME).is_ok(), is_root(), "root has a directory of its own");
}

#[test]
fn begin_refuses_a_lock_directory_that_others_can_change() {
    let root = tempfile::tempdir().unwrap();
    let host = Host::new(root.path());
    let folder = folder(&host);
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/tmp", &folder).unwrap();
    assert!(!is_root() || InFlight::begin(&host, NAME).is_err(), "followed a link");
    fs::remove_file(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    assert!(!is_root() || InFlight::begin(&host, NAME).is_err(), "others can write there");
    if is_root() {
        let users = LockOwner::Users.path(&host);
        fs::create_dir_all(&users).unwrap();
        std::os::unix::fs::chown(&users, Some(65534), Some(65534)).unwrap();
        sweep(&host);
        let metadata = users.metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (0, 0o1777));
    }
}
