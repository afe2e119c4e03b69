//! Finds the files that are in use now by any process: open, locked, or backing a loop device.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use common::image::{FileKey, keys};
use common::system::block::unescape;
use common::system::open_files;
use common::system::open_files::Process;
use common::system::sysroot::Host;
use common::{Error, Result};

/// The files that are in use, as far as this process can see them.
#[derive(Debug, Default)]
pub(crate) struct HeldFiles {
    files: HashSet<FileKey>,
    /// The number of processes whose open files cannot be read.
    pub(crate) hidden_processes: usize,
    /// The error for the first of these processes.
    denied: Option<Error>,
}

impl HeldFiles {
    /// Reads the open files of every process in all mount namespaces, and locks, loop devices and swap files.
    ///
    /// Errors: `permission` or `io` when `/proc` cannot be listed.
    /// Source: proc_pid_fd(5): the links lead to the open file; proc_locks(5): hexadecimal
    /// `major:minor:inode`; proc_swaps(5); Linux `Documentation/ABI/testing/sysfs-block-loop`.
    pub(crate) fn visible(host: &Host) -> Result<Self> {
        let mut held = Self::default();
        for process in open_files::processes(host)? {
            if let Err(error) = add_open_files(&process, &mut held.files) {
                held.hidden_processes += 1;
                held.denied.get_or_insert(error);
            }
        }
        let locks = host.read("/proc/locks")?.unwrap_or_default();
        held.files.extend(locks.lines().filter_map(locked_file));
        add_loop_devices(&host.path("/sys/block"), &mut held.files);
        let swaps = host.read("/proc/swaps").ok().flatten().unwrap_or_default();
        let swaps = swaps.lines().filter_map(|line| line.split_whitespace().next());
        let swaps = swaps.filter(|path| path.starts_with('/')).map(unescape);
        held.files.extend(swaps.flat_map(|path| keys(Path::new(&path)).collect::<Vec<_>>()));
        Ok(held)
    }

    /// Reads the files that are in use, and fails unless the open files of every process can be read.
    ///
    /// Errors: `permission` when the open files of a process cannot be read, because then no file is known to be
    /// unused.
    pub(crate) fn all(host: &Host) -> Result<Self> {
        let mut held = Self::visible(host)?;
        held.denied.take().map_or(Ok(held), Err)
    }

    /// Whether the file with these keys is in use.
    pub(crate) fn contains(&self, keys: &[FileKey]) -> bool {
        keys.iter().any(|key| self.files.contains(key))
    }
}

fn add_open_files(process: &Process, held: &mut HashSet<FileKey>) -> Result<()> {
    let files = process.open_files().map_err(|error| cannot_see(process, error))?;
    for file in files {
        match file.metadata() {
            Ok(metadata) => {
                held.insert((&metadata).into());
            }
            // A FUSE mount of another user cannot be read. Pools are not on such mounts.
            Err(error) if is_denied(&error) && file.path().is_err() => {
                return Err(cannot_see(process, error));
            }
            Err(_) => {}
        }
    }
    Ok(())
}

fn is_denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

fn cannot_see(process: &Process, error: io::Error) -> Error {
    let descriptors = process.descriptors_path();
    Error::permission(format!("cannot read the open files in {}", descriptors.display()))
        .because(error)
        .hint("run the command as root on the host, not in a container")
}

fn locked_file(line: &str) -> Option<FileKey> {
    let mut parts = line.split_whitespace().find(|word| word.matches(':').count() == 2)?.split(':');
    let major = u32::from_str_radix(parts.next()?, 16).ok()?;
    let minor = u32::from_str_radix(parts.next()?, 16).ok()?;
    Some(FileKey::Inode(rustix::fs::makedev(major, minor), parts.next()?.parse().ok()?))
}

/// Adds the files of loop devices. The kernel keeps them open without any process.
fn add_loop_devices(folder: &Path, held: &mut HashSet<FileKey>) {
    for device in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if let Ok(file) = std::fs::read_to_string(device.path().join("loop/backing_file")) {
            held.extend(keys(Path::new(file.trim_end_matches('\n'))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_locks_are_parsed_to_device_and_inode() {
        let device = rustix::fs::makedev;
        for (line, file) in [
            ("1: FLOCK  ADVISORY  WRITE 512 00:19:1013 0 EOF", Some((device(0, 0x19), 1013))),
            ("2: OFDLCK ADVISORY  READ -1 fe:01:42 100 101", Some((device(0xfe, 1), 42))),
            ("3: -> POSIX ADVISORY  READ 9 fe:00:43 0 EOF", Some((device(0xfe, 0), 43))),
            ("4: LEASE ACTIVE READ 9", None),
        ] {
            let file = file.map(|(device, inode)| FileKey::Inode(device, inode));
            assert_eq!(locked_file(line), file, "{line}");
        }
    }

    #[test]
    fn held_files_are_found_below_sysroot() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("disk");
        std::fs::write(&file, "").unwrap();
        let fd = root.path().join("proc/7/fd");
        std::fs::create_dir_all(&fd).unwrap();
        let host = Host::new(root.path());
        assert_eq!(HeldFiles::all(&host).unwrap().files, HashSet::new());
        std::os::unix::fs::symlink(&file, fd.join("3")).unwrap();
        let inode = FileKey::from(&file.metadata().unwrap());
        assert_eq!(HeldFiles::all(&host).unwrap().files, HashSet::from([inode.clone()]));
        std::fs::remove_file(fd.join("3")).unwrap();
        let device = root.path().join("sys/block/loop0/loop");
        std::fs::create_dir_all(&device).unwrap();
        std::fs::write(device.join("backing_file"), format!("{}\n", file.display())).unwrap();
        assert!(HeldFiles::all(&host).unwrap().files.contains(&inode));
    }
}
