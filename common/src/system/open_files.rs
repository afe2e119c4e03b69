//! Reads from `/proc` which files processes have open or mapped.
//!
//! Source: proc_pid_fd(5), proc_pid_maps(5), proc_pid_map_files(5).

use std::fs;
use std::fs::{Metadata, ReadDir};
use std::io;
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};

use crate::error::{IoContext, Result};
use crate::system::devt::DevT;
use crate::system::sysroot::Host;

/// A process with a directory in `/proc`.
#[derive(Debug, Clone)]
pub struct Process {
    /// The process id.
    pub pid: u32,
    directory: PathBuf,
}

/// All processes, in no particular order.
///
/// Errors: `permission` or `io` when `/proc` cannot be listed.
pub fn processes(host: &Host) -> Result<Vec<Process>> {
    let proc = host.path("/proc");
    let mut processes = Vec::new();
    for entry in fs::read_dir(&proc).at("read", &proc)? {
        let name = entry.at("read", &proc)?.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) {
            processes.push(Process { pid, directory: proc.join(name) });
        }
    }
    Ok(processes)
}

/// All processes except this one, in no particular order.
///
/// Errors: `permission` or `io` when `/proc` cannot be listed.
pub fn other_processes(host: &Host) -> Result<Vec<Process>> {
    // The id of this process in this /proc, which may be that of another process-id namespace.
    let own = fs::read_link(host.path("/proc/self")).unwrap_or_default();
    let mut processes = processes(host)?;
    processes.retain(|process| process.directory.file_name() != Some(own.as_os_str()));
    Ok(processes)
}

impl Process {
    /// The process with this id. It is not checked that the process exists.
    pub fn with_pid(host: &Host, pid: u32) -> Self {
        Self { pid, directory: host.path(format!("/proc/{pid}")) }
    }

    /// The name of the command, 15 bytes at most; none for a process that ended.
    pub fn command(&self) -> Option<String> {
        let text = fs::read(self.directory.join("comm")).ok()?;
        Some(String::from_utf8_lossy(&text).trim_end().to_owned())
    }

    /// The arguments of the command, each followed by a zero byte; none for a process that ended.
    pub fn command_line(&self) -> Option<Vec<u8>> {
        fs::read(self.directory.join("cmdline")).ok()
    }

    /// The directory of the links to the process's open files, for messages.
    pub fn descriptors_path(&self) -> PathBuf {
        self.directory.join("fd")
    }

    /// The files that the process has open; none for a process that ended.
    ///
    /// Errors: that of the kernel, for example when the process belongs to another user and this one is not root.
    pub fn open_files(&self) -> io::Result<OpenFiles> {
        match fs::read_dir(self.descriptors_path()) {
            Ok(entries) => Ok(OpenFiles(Some(entries))),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
            Err(_) => Ok(OpenFiles(None)),
        }
    }

    /// The files below `/dev` that the process has mapped. A mapped file may already be closed.
    pub fn mapped_devices(&self) -> Vec<MappedFile> {
        let maps = fs::read(self.directory.join("maps")).unwrap_or_default();
        let maps = String::from_utf8_lossy(&maps);
        let mapped = maps.lines().filter_map(|line| {
            let path = line[line.find(" /dev/")? + 1..].to_owned();
            let range = line.split(' ').next().unwrap_or_default().to_owned();
            Some(MappedFile { path, range })
        });
        mapped.collect()
    }

    /// The link in `/proc` to a mapped file, which only root can follow.
    pub fn map_link(&self, file: &MappedFile) -> OpenFile {
        OpenFile(self.directory.join("map_files").join(&file.range))
    }

    /// The path of a mapped file in the root directory of the process.
    pub fn path_in_root(&self, file: &MappedFile) -> OpenFile {
        OpenFile(self.directory.join("root").join(file.path.trim_start_matches('/')))
    }
}

/// A file that a process has mapped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MappedFile {
    /// The path as the process sees it.
    pub path: String,
    /// The range of addresses, as `/proc/PID/maps` writes it.
    range: String,
}

/// The files that one process has open.
#[derive(Debug)]
pub struct OpenFiles(Option<ReadDir>);

impl Iterator for OpenFiles {
    type Item = OpenFile;

    fn next(&mut self) -> Option<OpenFile> {
        let entries = self.0.as_mut()?;
        entries.find_map(|entry| Some(OpenFile(entry.ok()?.path())))
    }
}

/// A file that a process has open, identified by the link in `/proc` to the open file.
#[derive(Debug, Clone)]
pub struct OpenFile(PathBuf);

impl OpenFile {
    /// The path as the process sees it. The file itself is not accessed.
    pub fn path(&self) -> io::Result<PathBuf> {
        fs::read_link(&self.0)
    }

    /// The metadata of the open file by stat(2). The call can hang when the server of a network file is unreachable.
    pub fn metadata(&self) -> io::Result<Metadata> {
        fs::metadata(&self.0)
    }

    /// The device whose node the file is; none for other files.
    ///
    /// Uses only cached attributes, so that the call does not hang on a network file whose server is unreachable.
    pub fn device(&self) -> Option<OpenDevice> {
        let known = statx(CWD, &self.0, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE).ok()?;
        let number = DevT { major: known.stx_rdev_major, minor: known.stx_rdev_minor };
        match FileType::from_raw_mode(known.stx_mode.into()) {
            FileType::BlockDevice => Some(OpenDevice { is_block: true, number }),
            FileType::CharacterDevice => Some(OpenDevice { is_block: false, number }),
            _ => None,
        }
    }

    /// The number of the block device whose node the file is; none for other files. See [`OpenFile::device`].
    pub fn block_device(&self) -> Option<DevT> {
        self.device().filter(|device| device.is_block).map(|device| device.number)
    }
}

/// A device that a process has open by its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenDevice {
    /// Whether the device is a block device; otherwise it is a character device.
    pub is_block: bool,
    /// The device number.
    pub number: DevT,
}
