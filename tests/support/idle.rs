//! Waiting until libvirtd does nothing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::fs::getxattr;

use super::rig::Rig;

/// Waits until libvirtd has no client, no call in progress and no open file in the pool: libvirtd continues a call after
/// its caller has died.
///
/// libvirtd 9.0 sometimes keeps a volume open forever, or crashes, if it opens a stream for a caller that has just died.
/// Then the test restarts libvirtd, as an administrator would have to.
pub(crate) fn wait_until_idle(rig: &Rig) {
    if !becomes_idle(rig) {
        rig.libvirtd("restart");
        assert!(becomes_idle(rig), "libvirtd is busy after a restart");
    }
}

/// Whether libvirtd is idle within 30 s.
fn becomes_idle(rig: &Rig) -> bool {
    let end = Instant::now() + Duration::from_secs(30);
    while let Some(daemon) = libvirtd(rig)
        && Instant::now() < end
    {
        if is_idle(rig, &daemon).unwrap_or(false) {
            return true;
        }
        thread::sleep(Duration::from_millis(5));
    }
    false
}

/// The directory of libvirtd in proc(5), if libvirtd runs.
fn libvirtd(rig: &Rig) -> Option<PathBuf> {
    let pid = fs::read_to_string(rig.path("run/libvirtd.pid")).ok()?;
    Some(rig.path("proc").join(pid.trim())).filter(|directory| directory.exists())
}

/// Whether libvirtd is idle at this moment; none if that cannot be read.
fn is_idle(rig: &Rig, daemon: &Path) -> Option<bool> {
    // Clients first: a queued call still has its client.
    if has_client(rig, daemon)? {
        return Some(false);
    }
    // Idle workers of a pool wait on one condition variable: in futex(2), at two addresses in the same eight bytes.
    let mut pools = HashMap::new();
    for task in entries(&daemon.join("task")) {
        let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
        if name.contains("rpc-") || name.starts_with("qemu-event") {
            let call = fs::read_to_string(task.join("syscall")).unwrap_or_default();
            let address = call.strip_prefix("202 0x")?.split(' ').next()?;
            let variable = u64::from_str_radix(address, 16).ok()? / 8;
            if *pools.entry(name).or_insert(variable) != variable {
                return Some(false);
            }
        }
    }
    if pools.is_empty() {
        return None; // libvirtd is ending
    }
    let of_libvirt = processes(rig).filter(|(name, _)| name.starts_with("libvirt"));
    let mut files = of_libvirt.flat_map(|(_, process)| entries(&process.join("fd")));
    Some(!files.any(|file| {
        fs::read_link(file).is_ok_and(|file| file.starts_with("/var/lib/libvirt/images"))
    }))
}

/// Whether libvirtd has an open connection of a client, by proc_net(5) and by the protocols of its sockets.
///
/// The table of TCP lacks a connection that its client has reset and that libvirtd has not closed yet.
fn has_client(rig: &Rig, daemon: &Path) -> Option<bool> {
    let table = |name| fs::read_to_string(rig.process_path(name)).ok();
    let is_connected = |line: &str| line.contains(" 03 ") && line.ends_with("/libvirt-sock");
    if table("net/unix")?.lines().any(is_connected) {
        return Some(true);
    }
    let tcp = table("net/tcp")?;
    let fields = tcp.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listeners: Vec<_> =
        fields.filter(|line| line[3] == "0A").map(|line| line[9].to_owned()).collect();
    let is_client = |socket: &PathBuf| {
        let mut protocol = [0; 16];
        let length = getxattr(socket, "system.sockprotoname", &mut protocol);
        let inode = fs::read_link(socket).unwrap_or_default().display().to_string();
        length.is_ok_and(|length| protocol[..length] == *b"TCP\0")
            && !listeners.iter().any(|listener| inode == format!("socket:[{listener}]"))
    };
    Some(entries(&daemon.join("fd")).any(|file| is_client(&file)))
}

/// The processes of the rig: their names, of at most 15 characters, and their directories in proc(5).
pub(crate) fn processes(rig: &Rig) -> impl Iterator<Item = (String, PathBuf)> + use<> {
    entries(&rig.path("proc")).filter_map(|process| {
        let name = fs::read_to_string(process.join("comm")).ok()?;
        Some((name.trim_end().to_owned(), process))
    })
}

/// The paths in a directory; none if it is gone.
pub(crate) fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}
