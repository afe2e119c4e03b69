//! Finds signatures in the content of a disk: labels of volumes, arrays and pools, file systems, partition tables.
//!
//! The reader is our own, so that no program is started on content that a guest wrote. Sources: the on-disk formats as
//! their projects document them, named at each format.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::block::partitions;
use crate::block::partitions::Span;

/// The signature of a file system, volume, array or partition table, found on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The offset of the area with the signature from the start of the disk. Unit: bytes.
    pub start: u64,
    /// libblkid's name of the signature, if it has one.
    pub name: &'static str,
    /// Whether the host may assemble or resume the object that the signature belongs to. Such a disk is attached only
    /// when the user forces it.
    pub is_member: bool,
}

/// A part of a disk: the whole disk, or a partition. Offsets from its end are negative.
#[derive(Debug, Clone, Copy)]
struct Area<'f> {
    file: &'f File,
    start: u64,
    size: u64,
}

impl Area<'_> {
    /// Reads `length` bytes at `offset`; empty if the area is too short.
    fn bytes(&self, offset: i64, length: usize) -> io::Result<Vec<u8>> {
        let offset = match u64::try_from(offset) {
            Ok(offset) => offset,
            Err(_) => match self.size.checked_sub(offset.unsigned_abs()) {
                Some(offset) => offset,
                None => return Ok(Vec::new()),
            },
        };
        if offset.saturating_add(length as u64) > self.size {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; length];
        match self.file.read_exact_at(&mut bytes, self.start + offset) {
            Ok(()) => Ok(bytes),
            // The file is shorter than its stated size.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn has(&self, offset: i64, magic: &[u8]) -> io::Result<bool> {
        Ok(self.bytes(offset, magic.len())? == magic)
    }

    fn u32_le(&self, offset: i64) -> io::Result<Option<u32>> {
        Ok(self.bytes(offset, 4)?.try_into().ok().map(u32::from_le_bytes))
    }

    fn u64_le(&self, offset: i64) -> io::Result<Option<u64>> {
        Ok(self.bytes(offset, 8)?.try_into().ok().map(u64::from_le_bytes))
    }
}

/// The name of the signature for a partition table that was read only in part, so that the disk is not completely
/// known.
pub const TOO_MANY_PARTITIONS: &str = "too many partitions";

/// Finds all known signatures on a disk of `size` bytes: on the disk itself and on each of its partitions,
/// including those that only the partition table names.
///
/// `known` are the partitions that the kernel knows.
/// Errors: those of reading the disk.
pub fn probe(file: &File, size: u64, sector: u32, known: &[Span]) -> io::Result<Vec<Signature>> {
    let mut found = Vec::new();
    let whole = Area { file, start: 0, size };
    recognise(whole, &mut found)?;
    let table = partitions::read(file, size, sector)?;
    if let Some(name) = table.kind {
        found.push(Signature { start: 0, name, is_member: false });
    }
    if table.is_cut {
        found.push(Signature { start: 0, name: TOO_MANY_PARTITIONS, is_member: true });
    }
    let mut parts = table.spans;
    parts.extend(known);
    parts.sort_unstable();
    // Two areas with the same start and different ends are both read, because one of them may be forged.
    parts.dedup();
    for part in parts.into_iter().filter(|part| (1..size).contains(&part.start)) {
        let area = Area { file, start: part.start, size: part.size.min(size - part.start) };
        recognise(area, &mut found)?;
    }
    Ok(found)
}

fn recognise(area: Area<'_>, found: &mut Vec<Signature>) -> io::Result<()> {
    let mut add = |name, is_member| found.push(Signature { start: area.start, name, is_member });
    for (offset, magic, name) in MEMBERS {
        if area.has(*offset, magic)? {
            add(name, true);
        }
    }
    // LVM2: a label in one of the first four sectors. Source: LVM2 lib/label/label.h.
    for sector in 0..4 {
        if area.has(sector * 512, b"LABELONE")? && area.has(sector * 512 + 24, b"LVM2 001")? {
            add("LVM2_member", true);
        }
    }
    if is_md(area)? {
        add("linux_raid_member", true);
    }
    if is_zfs(area)? {
        add("zfs_member", true);
    }
    if is_drbd(area)? {
        add("drbd", true);
    }
    if area.has(0x1_0040, b"_BHRfS_M")? {
        // num_devices of the super block. Source: btrfs-progs kernel-shared/uapi/btrfs_tree.h.
        let devices = area.u64_le(0x1_0088)?.unwrap_or(1);
        add("btrfs", devices > 1);
    }
    for page in [4096, 8192, 16384, 65536] {
        // Source: Linux include/linux/swap.h; kernel/power/swap.c and user space hibernation.
        for magic in [b"SWAPSPACE2", b"SWAP-SPACE"] {
            if area.has(page - 10, magic)? {
                add("swap", false);
            }
        }
        for magic in [&b"S1SUSPEND"[..], b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001"] {
            if area.has(page - 10, magic)? {
                add("swsuspend", true);
            }
        }
    }
    for (offset, magic, name) in CONTENT {
        if area.has(*offset, magic)? {
            add(name, false);
        }
    }
    Ok(())
}

/// Signatures of members of objects on several disks, or of objects that a host may activate.
///
/// Sources: Ceph src/os/bluestore/BlueStore.cc; Linux drivers/md/bcache/bcache_ondisk.h;
/// mdadm super-intel.c and super-ddf.c; VMFS as libblkid's vmfs.c has it.
const MEMBERS: &[(i64, &[u8], &str)] = &[
    (0, b"bluestore block device", "ceph_bluestore"),
    (4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache"),
    (-1024, b"Intel Raid ISM Cfg Sig. ", "isw_raid_member"),
    (-512, b"\xde\x11\xde\x11", "ddf_raid_member"),
    (1 << 20, b"\x0d\xd0\x01\xc0", "VMFS_volume_member"),
    (2 << 20, b"\x5e\xf1\xab\x2f", "VMFS"),
];

/// Signatures of objects on one disk that no host activates by itself.
///
/// Sources: cryptsetup's LUKS format; Linux fs/ext4/ext4.h, fs/xfs, fs/fat, fs/exfat, fs/f2fs,
/// fs/isofs, fs/squashfs, fs/bcachefs; NTFS boot sector.
const CONTENT: &[(i64, &[u8], &str)] = &[
    (0, b"LUKS\xba\xbe", "crypto_LUKS"),
    (0x4000, b"SKUL\xba\xbe", "crypto_LUKS"),
    (1080, b"\x53\xef", "ext4"),
    (0, b"XFSB", "xfs"),
    (82, b"FAT32   ", "vfat"),
    (54, b"FAT16   ", "vfat"),
    (54, b"FAT12   ", "vfat"),
    (3, b"EXFAT   ", "exfat"),
    (3, b"NTFS    ", "ntfs"),
    (0x8001, b"CD001", "iso9660"),
    (1024, b"\x10\x20\xf5\xf2", "f2fs"),
    (0, b"hsqs", "squashfs"),
    (4096 + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", "bcachefs"),
];

/// Source: <https://raid.wiki.kernel.org/index.php/RAID_superblock_formats>: version 1.1 at the start,
/// 1.2 at 4 KiB, 1.0 at least 8 KiB from the end, 0.90 in the last complete 64 KiB, with the byte order of the machine
/// that wrote it.
fn is_md(area: Area<'_>) -> io::Result<bool> {
    const MAGIC: u32 = 0xa92b_4efc;
    let from_end = |size: u64, unit: u64| (size & !(unit - 1)).checked_sub(unit);
    let last = area.size.checked_sub(8192).map(|at| at & !4095);
    let places = [Some(0), Some(4096), last, from_end(area.size, 65536)];
    for place in places.into_iter().flatten() {
        let magic = area.u32_le(place as i64)?;
        if magic == Some(MAGIC) || magic == Some(MAGIC.swap_bytes()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// ZFS: four labels, two at each end of the disk; each has uberblocks of at least 1 KiB from 128 KiB on.
///
/// Source: OpenZFS include/sys/vdev_impl.h, include/sys/uberblock_impl.h.
fn is_zfs(area: Area<'_>) -> io::Result<bool> {
    const LABEL: u64 = 256 << 10;
    const RING: usize = 128 << 10;
    const MAGIC: u64 = 0x00ba_b10c;
    let aligned = area.size & !(LABEL - 1);
    let labels = [Some(0), Some(LABEL), aligned.checked_sub(2 * LABEL), aligned.checked_sub(LABEL)];
    for label in labels.into_iter().flatten() {
        let ring = area.bytes((label + RING as u64) as i64, RING)?;
        let is_block = |block: &[u8]| {
            let magic = block[..8].try_into().map_or(0, u64::from_le_bytes);
            magic == MAGIC || magic == MAGIC.swap_bytes()
        };
        if ring.chunks_exact(1024).any(is_block) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// DRBD: internal metadata in the last 4 KiB, with a magic number for version and state.
///
/// Source: drbd-utils user/shared/drbdmeta.c.
fn is_drbd(area: Area<'_>) -> io::Result<bool> {
    let magic = area.bytes(-4096 + 60, 4)?.try_into().ok().map(u32::from_be_bytes);
    Ok(magic.is_some_and(|magic| (0x8374_026b..=0x8374_026e).contains(&magic)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 8 << 20;

    fn found(write: impl Fn(&File)) -> Vec<(u64, &'static str, bool)> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        write(&file);
        let found = probe(&file, SIZE, 512, &[]).unwrap();
        found.into_iter().map(|s| (s.start, s.name, s.is_member)).collect()
    }

    fn at(offset: u64, bytes: &'static [u8]) -> impl Fn(&File) {
        move |file| file.write_all_at(bytes, offset).unwrap()
    }

    #[test]
    fn an_empty_disk_has_no_signature() {
        assert_eq!(found(|_| {}), []);
    }

    #[test]
    fn probe_marks_signatures_of_members_of_arrays_and_pools() {
        let lvm = |file: &File| {
            at(512, b"LABELONE")(file);
            at(512 + 24, b"LVM2 001")(file);
        };
        assert_eq!(found(lvm), [(0, "LVM2_member", true)]);
        assert_eq!(found(at(512, b"LABELONE")), []);
        let md = b"\xfc\x4e\x2b\xa9";
        for offset in [0, 4096, SIZE - 8192, SIZE - 65536] {
            assert_eq!(found(at(offset, md)), [(0, "linux_raid_member", true)], "{offset}");
        }
        assert_eq!(found(at(SIZE - 65536, b"\xa9\x2b\x4e\xfc")).len(), 1, "big endian 0.90");
        for offset in [128 << 10, (384 << 10) + 1024, SIZE - (384 << 10), SIZE - (128 << 10)] {
            let zfs = found(at(offset, b"\x0c\xb1\xba\0\0\0\0\0"));
            assert_eq!(zfs, [(0, "zfs_member", true)], "{offset}");
        }
        let drbd = found(at(SIZE - 4096 + 60, b"\x83\x74\x02\x6d"));
        assert_eq!(drbd, [(0, "drbd", true)]);
        for devices in [1, 2] {
            let btrfs = found(|file| {
                at(0x1_0040, b"_BHRfS_M")(file);
                file.write_all_at(&[devices], 0x1_0088).unwrap();
            });
            assert_eq!(btrfs, [(0, "btrfs", devices > 1)]);
        }
        assert_eq!(found(at(4086, b"SWAPSPACE2")), [(0, "swap", false)]);
        assert_eq!(found(at(4086, b"S1SUSPEND")), [(0, "swsuspend", true)]);
        for (offset, magic, name) in MEMBERS.iter().chain(CONTENT) {
            let offset = u64::try_from(*offset).unwrap_or_else(|_| SIZE - offset.unsigned_abs());
            let member = MEMBERS.iter().any(|(_, _, member)| member == name);
            assert_eq!(found(at(offset, magic)), [(0, *name, member)]);
        }
    }

    #[test]
    fn probe_finds_nothing_on_a_very_small_or_shrunken_disk() {
        for size in [0, 1, 511, 512, 4096, 65535] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(size).unwrap();
            assert_eq!(probe(&file, size, 512, &[]).unwrap(), []);
            // One that shrank meanwhile.
            assert_eq!(
                probe(&file, SIZE, 512, &[Span { start: 1 << 20, size: 1 << 20 }]).unwrap(),
                []
            );
        }
    }
}
