//! The files that processes have open or mapped, by `/proc`.
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

/// A process, by its directory in `/proc`.
#[derive(Debug, Clone)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    directory: PathBuf,
}

/// Every process, in no order.
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

/// Every process but this one, in no order.
///
/// Errors: `permission` or `io` when `/proc` cannot be listed.
pub fn other_processes(host: &Host) -> Result<Vec<Process>> {
    // The id that this /proc has for this process: that of another process-id namespace has another one.
    let own = fs::read_link(host.path("/proc/self")).unwrap_or_default();
    let mut processes = processes(host)?;
    processes.retain(|process| process.directory.file_name() != Some(own.as_os_str()));
    Ok(processes)
}

impl Process {
    /// The process of this id, whether or not it runs.
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

    /// The directory of the links to open files, for messages.
    pub fn descriptors_path(&self) -> PathBuf {
        self.directory.join("fd")
    }

    /// The files that the process has open; none for a process that ended.
    ///
    /// Errors: that of the kernel where the process does not show its files: another user's, without root.
    pub fn open_files(&self) -> io::Result<OpenFiles> {
        match fs::read_dir(self.descriptors_path()) {
            Ok(entries) => Ok(OpenFiles(Some(entries))),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
            Err(_) => Ok(OpenFiles(None)),
        }
    }

    /// The files below `/dev` that the process has mapped. A mapped file may be open no more.
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

    /// The link to a mapped file itself, which only root can follow.
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
    /// The path, by the name that the process knows it by.
    pub path: String,
    /// Where in memory.
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

/// A file that a process has open, by a link in `/proc` that leads to the open file itself.
#[derive(Debug, Clone)]
pub struct OpenFile(PathBuf);

impl OpenFile {
    /// The path, by the name that the process knows it by. Does not touch the file.
    pub fn path(&self) -> io::Result<PathBuf> {
        fs::read_link(&self.0)
    }

    /// What stat(2) says of the open file. Can hang where the server of the file is gone.
    pub fn metadata(&self) -> io::Result<Metadata> {
        fs::metadata(&self.0)
    }

    /// The device that the file is a node of; none for other files.
    ///
    /// By what the kernel knows already: a file whose server is gone would be waited for otherwise.
    pub fn device(&self) -> Option<OpenDevice> {
        let known = statx(CWD, &self.0, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE).ok()?;
        let number = DevT { major: known.stx_rdev_major, minor: known.stx_rdev_minor };
        match FileType::from_raw_mode(known.stx_mode.into()) {
            FileType::BlockDevice => Some(OpenDevice { is_block: true, number }),
            FileType::CharacterDevice => Some(OpenDevice { is_block: false, number }),
            _ => None,
        }
    }

    /// The number of the block device that the file is a node of; none for other files. See
    /// [`OpenFile::device`].
    pub fn block_device(&self) -> Option<DevT> {
        self.device().filter(|device| device.is_block).map(|device| device.number)
    }
}

/// A device that a file is a node of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenDevice {
    /// Whether it is a block device; if not, a character device.
    pub is_block: bool,
    /// Its number.
    pub number: DevT,
}
