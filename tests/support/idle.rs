//! Waiting until libvirtd has no work.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use super::rig::Rig;

/// Waits until libvirtd has no client, no call in work and no open file in the pool: libvirtd continues a call after
/// its caller has died.
///
/// libvirtd 9.0 keeps a volume open forever if it opens a stream for a caller that has just died. Then the
/// test restarts libvirtd, as an administrator would have to.
pub(crate) fn wait_until_idle(rig: &Rig) {
    if !becomes_idle(rig) {
        rig.libvirtd("restart");
        assert!(becomes_idle(rig), "libvirtd is busy after a restart");
    }
}

/// Whether libvirtd is idle within 30 s.
fn becomes_idle(rig: &Rig) -> bool {
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        if is_idle(rig).unwrap_or(false) {
            return true;
        }
        thread::sleep(Duration::from_millis(5));
    }
    false
}

/// `None` without a libvirtd.
fn is_idle(rig: &Rig) -> Option<bool> {
    let daemon = fs::read_to_string(rig.path("run/libvirtd.pid")).ok()?;
    let daemon = rig.path("proc").join(daemon.trim());
    // Clients first: a call that no worker has yet is one of a client.
    if has_client(rig)? {
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
    let of_libvirt = processes(rig).filter(|(name, _)| name.starts_with("libvirt"));
    let mut files = of_libvirt.flat_map(|(_, process)| entries(&process.join("fd")));
    Some(!files.any(|file| {
        fs::read_link(file).is_ok_and(|file| file.starts_with("/var/lib/libvirt/images"))
    }))
}

/// Whether a connection to libvirtd is not closed on its side: by the tables of sockets, proc_net(5).
fn has_client(rig: &Rig) -> Option<bool> {
    let table = |name| fs::read_to_string(rig.process_path(name)).ok();
    let is_unix = |line: &str| line.contains(" 03 ") && line.ends_with("/libvirt-sock"); // connected
    // The port 16509; established, or closed by the other side.
    let is_tcp = |line: &str| {
        let field = |at| line.split_whitespace().nth(at).unwrap_or_default();
        field(1).ends_with(":407D") && ["01", "08"].contains(&field(3))
    };
    Some(table("net/unix")?.lines().any(is_unix) || table("net/tcp")?.lines().any(is_tcp))
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
