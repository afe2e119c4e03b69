//! Everything that the tools can change on a host, as lines of text for comparison.

use super::idle::wait_until_idle;
use super::pool::raw_image;
use super::rig::{Rig, guest_image};
use super::rig_state;
use super::steps::anonymous;

/// Domains with their state, definition, disks and devices, pools, secrets, files, the content of images and
/// disks, locks, QEMU processes. Random names, UUIDs, hardware addresses and libvirt's running numbers are
/// masked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World(Vec<String>);

impl World {
    /// Reads the host when no command and no libvirt call is under way any more.
    pub(crate) fn of(rig: &Rig) -> Self {
        wait_until_idle(rig);
        let mut lines: Vec<String> =
            rig_state::lines(rig).iter().map(|line| anonymous(line)).collect();
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
