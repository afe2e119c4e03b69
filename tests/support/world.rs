//! All that the tools can change on a host, as lines of text that can be compared.

#![allow(dead_code, reason = "every test file uses a part of it")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use crate::pool::raw_image;
use crate::steps::anonymous;
use crate::support::{Rig, guest_image, wait_for};

/// Domains with their state and definition, pools, files, what images hold, locks, QEMUs. Without what
/// is random: names of our files, UUIDs, hardware addresses, libvirt's running numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct World(Vec<String>);

/// Prints each thing as a line: its kind, its name, the rest.
const LOOK: &str = r#"
virsh -q list --all | awk '{ $1 = "domain"; print }'
virsh -q pool-list --all | awk '{ print "pool", $1, $2, "autostart:" $3 }'
for domain in $(virsh list --all --name); do
    virsh dumpxml --inactive $domain | sed "/<uuid>\|<mac /d; s/^ */xml $domain /"
done
cd /var/lib/libvirt
find images qemu/nvram qemu/save qemu/snapshot qemu/channel qemu/dump ! -type d \
    -printf 'file %p %y %m %U:%G %s\n' 2>/dev/null | sed 's/domain-[0-9]*-/domain-N-/'
find images -type f ! -name 'overlay.*' ! -name 'cidata.*' ! -name 'import.*.part' \
    -exec sha256sum {} + | awk '{ print "content", $2, $1 }'
find /run/lock/tdx -mindepth 1 -printf 'lock %f\n' 2>/dev/null
find /etc/libvirt/qemu /etc/libvirt/storage ! -type d -printf 'config %p\n' 2>/dev/null
pgrep 'qemu-(system|img)' -l | awk '{ print "process", $2 }'
"#;

impl World {
    /// What there is once nothing is under way any more.
    pub(crate) fn of(rig: &Rig) -> Self {
        wait_until_idle(rig);
        let mut lines: Vec<String> = rig.shell(LOOK).stdout.lines().map(anonymous).collect();
        lines.sort();
        Self(lines)
    }

    /// What is there and was not before, then what was and is not: kinds and names.
    pub(crate) fn since(&self, before: &Self) -> String {
        let short = |sign: char, line: &String| {
            let mut words = line.splitn(3, ' ');
            let (kind, name) = (words.next()?, words.next()?);
            let telling = ["domain", "pool", "file", "lock", "process"].contains(&kind);
            let name = name.trim_start_matches("images/");
            telling.then(|| format!("{sign}{kind} {name}"))
        };
        let new = self.0.iter().filter(|line| !before.0.contains(line));
        let gone = before.0.iter().filter(|line| !self.0.contains(line));
        let all = new.map(|line| short('+', line)).chain(gone.map(|line| short('−', line)));
        let mut all: Vec<String> = all.flatten().collect();
        all.dedup();
        all.join(", ")
    }
}

/// Waits until libvirtd works for nobody: a call goes on when its caller has died.
pub(crate) fn wait_until_idle(rig: &Rig) {
    let ask = "virt-admin -c libvirtd:///system 'srv-threadpool-info libvirtd; \
               srv-clients-info libvirtd' | awk '$2 == \":\" { print $1, $3 }'";
    wait_for("libvirtd being idle", Duration::from_secs(60), || {
        let answer = rig.shell(ask);
        let value = |key| {
            let find = |line: &str| line.strip_prefix(key)?.trim().parse::<u32>().ok();
            answer.text().lines().find_map(find).unwrap()
        };
        let free = value("nWorkers") == value("freeWorkers") && value("jobQueueDepth") == 0;
        (free && value("nclients ") == 0).then_some(())
    });
}

/// A rig with base.qcow2 in its pool, and images in its scratch folder.
pub(crate) fn rig_with_images() -> Rig {
    let rig = Rig::start();
    fill_with_images(&rig);
    rig
}

/// Puts base.qcow2 into the pool; image.raw, image.qcow2, other.raw and key.pub beside it.
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
