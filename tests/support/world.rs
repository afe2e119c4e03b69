//! Everything that the tools can change on a host, as lines of text for comparison.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use super::pool::raw_image;
use super::rig::{Rig, guest_image};
use super::steps::anonymous;

/// Domains with their state, definition, disks and devices, pools, secrets, files, the content of images and
/// disks, locks, QEMU processes. Random names, UUIDs, hardware addresses and libvirt's running numbers are
/// masked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World(Vec<String>);

/// Prints each thing as a line: its kind, its name, the rest. A file that has not changed since its last
/// reading is not read again.
const LOOK: &str = r#"
all=$(virsh -q "list --all; echo '@secret
'; secret-list; echo '@pool
'; pool-list --all")
awk 'BEGIN { kind = "domain" } /^@/ { kind = substr($1, 2); next } !NF { next }
    kind == "pool" { print "pool", $1, $2, "autostart:" $3; next } { $1 = kind; print }' <<<"$all"
ask=$(awk 'function ask(about, what) { printf "echo \047@%s\n\047; %s; ", about, what }
    /^@/ { kind = $1; next }
    !NF || kind == "@secret" { next }
    kind == "@pool" { ask("xml pool " $1, "pool-dumpxml " $1); next }
    { ask("xml " $2, "dumpxml --inactive " $2) }
    { ask("disk in the definition of " $2, "domblklist --details --inactive " $2) }
    $1 != "-" { ask("disk in the guest " $2, "domblklist --details " $2) }' <<<"$all")
virsh -q "echo; $ask" | awk '/^@/ { kind = $1; of = substr($0, length($1) + 2); next }
    kind == "@disk" { if ($1 == "block") print "disk", $3, of; next }
    !NF || /<(tdx:)?uuid>|<mac |<(capacity|allocation|available) / { next }
    { sub(/ uuid=\047.*\047/, ""); sub(/^ */, ""); print "xml", of, $0 }
    /<hostdev / { passed = 1 }
    passed && /<address / { split($0, part, "\047"); passed = 0
        printf "hostdev %s:%s:%s.%s of %s\n", substr(part[2], 3), substr(part[4], 3),
            substr(part[6], 3), substr(part[8], 3), of }'
find "$PWD" -maxdepth 1 -name '*.disk' -exec sha256sum {} + | awk '{ print "content", $2, $1 }'
cd /var/lib/libvirt
find images -mindepth 1 -type d -printf 'file %p/ %m %U:%G\n'
find images qemu/nvram qemu/save qemu/snapshot qemu/channel qemu/dump ! -type d \
    -printf 'file %p %y %m %U:%G %s\n' 2>/dev/null | sed 's/domain-[0-9]*-/domain-N-/'
find images -type f ! -name 'overlay.*' ! -name 'disk.*' ! -name 'cidata.*' ! -name 'import.*.part' \
    -printf '%p %D.%i.%s.%T@.%C@\n' | while read -r file version; do
        read -r sum 2>/dev/null <"/dev/shm/sums/$version" || {
            mkdir -p /dev/shm/sums; sum=$(sha256sum <"$file"); echo "$sum" >"/dev/shm/sums/$version"; }
        echo "content $file ${sum%% *}"
    done
find /run/lock/tdx /run/tdx-pool -mindepth 1 -printf 'lock %f\n' 2>/dev/null
find /etc/libvirt/qemu /etc/libvirt/storage ! -type d -printf 'config %p\n' 2>/dev/null
pgrep -l 'qemu-(sys|img)' | awk '{ print "process", $2 }'
"#;

impl World {
    /// Reads the host when no command and no libvirt call is under way any more.
    pub(crate) fn of(rig: &Rig) -> Self {
        wait_until_idle(rig);
        let mut lines: Vec<String> = rig.shell(LOOK).stdout.lines().map(anonymous).collect();
        lines.sort();
        Self(lines)
    }

    /// The things that exist now and did not before, and the reverse: domains, pools, volumes, locks. The
    /// files that libvirt keeps beside a domain are omitted.
    pub(crate) fn since(&self, before: &Self) -> String {
        let new = self.without(before).map(|line| ('+', line));
        let gone = before.without(self).map(|line| ('−', line));
        let told = new.chain(gone).filter_map(|(sign, line)| {
            let (kind, rest) = line.split_once(' ')?;
            match kind {
                "domain" | "lock" | "secret" | "disk" | "hostdev" => {
                    Some(format!("{sign}{kind} {rest}"))
                }
                "pool" => Some(format!("{sign}pool {}", rest.split(' ').next()?)),
                "file" => {
                    Some(format!("{sign}{}", rest.strip_prefix("images/")?.split(' ').next()?))
                }
                _ => None,
            }
        });
        let told: Vec<String> = told.collect();
        // A thing that exists in both, with another size or owner, is omitted.
        let is_there = |thing: &String| {
            let other = if thing.starts_with('+') { "−" } else { "+" };
            let name = thing.trim_start_matches(['+', '−']);
            told.contains(&format!("{other}{name}"))
        };
        let mut told: Vec<&str> =
            told.iter().filter(|thing| !is_there(thing)).map(String::as_str).collect();
        told.dedup();
        told.join(", ")
    }

    /// Every line that only one of the two has, with a sign.
    pub(crate) fn differences(&self, before: &Self) -> Vec<String> {
        let new = self.without(before).map(|line| format!("+{line}"));
        new.chain(before.without(self).map(|line| format!("−{line}"))).collect()
    }

    /// The lines that the other lacks, or has less often.
    fn without<'a>(&'a self, other: &Self) -> impl Iterator<Item = &'a String> {
        let mut others: Vec<String> = other.0.clone();
        self.0.iter().filter(move |line| {
            let at = others.iter().position(|other| other == *line);
            at.map(|at| others.swap_remove(at)).is_none()
        })
    }

    /// Omits libvirt's ends of channels to guests, and the owners of files.
    pub(crate) fn of_a_host_whose_libvirtd_died(mut self) -> Self {
        self.0.retain(|line| !line.starts_with("file qemu/channel/"));
        for line in self.0.iter_mut().filter(|line| line.starts_with("file ")) {
            let words = line.split(' ').filter(|word| !word.contains(':'));
            *line = words.collect::<Vec<_>>().join(" ");
        }
        self
    }
}

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
    let of_libvirt = entries(&rig.path("proc")).filter(|process| {
        fs::read_to_string(process.join("comm")).is_ok_and(|name| name.starts_with("libvirt"))
    });
    let mut files = of_libvirt.flat_map(|process| entries(&process.join("fd")));
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

/// The paths in a directory; none if it is gone.
fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// A rig with base.qcow2 in its pool, and images in its scratch directory.
pub(crate) fn rig_with_images() -> Rig {
    let rig = Rig::start();
    fill_with_images(&rig);
    rig
}

/// Such a rig with a disk named `./disk`, whose content must not change.
pub(crate) fn rig_with_disk() -> Rig {
    let rig = rig_with_images();
    rig.disk("disk");
    rig
}

/// Imports base.qcow2 into the pool, and creates image.raw, image.qcow2, other.raw and key.pub beside it.
pub(crate) fn fill_with_images(rig: &Rig) {
    for (name, seed) in [("image.raw", 1), ("other.raw", 2)] {
        raw_image(rig.scratch().join(name), 6 << 20, seed);
    }
    let guest = guest_image(false);
    rig.shell(&format!(
        "qemu-img convert -f raw -O qcow2 image.raw image.qcow2 && \
         tdx-pool import '{}' --name base.qcow2 && \
         echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA me' >key.pub",
        guest.display()
    ))
    .text();
}
