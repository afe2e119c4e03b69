//! Checks where the tables of a qcow2 image point to, to detect a truncated file.

use common::cli::interrupt;
use common::error::Result;

use crate::image::qcow2::{Header, MAX_L1_BYTES, be32, be64, damaged};
use crate::image::source::Source;

/// How much of a table is read at once.
const PIECE: u64 = 64 << 10;
const SECTOR: u64 = 512;
const OFFSET_BITS: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const READS_AS_ZERO: u64 = 1;

/// The size of the fixed fields of an entry in the snapshot table. Unit: bytes.
const SNAPSHOT: u64 = 40;
/// Source: QEMU `block/qcow2.h`, `QCOW_MAX_SNAPSHOT_EXTRA_DATA`.
const MAX_SNAPSHOT_EXTRA: u64 = 1024;

/// Refuses an image whose L1, refcount or snapshot table is outside the file.
pub(super) fn check_places(source: &Source<'_>, header: &Header) -> Result<()> {
    let l1 = header.l1_offset.saturating_add(header.l1_entries * 8);
    let refcounts = header.refcount_offset.saturating_add(header.refcount_entries * 8);
    let snapshots = match header.snapshots {
        0 => 0,
        count => header.snapshots_offset.saturating_add(count * SNAPSHOT),
    };
    check_end(source, l1.max(refcounts).max(snapshots))
}

/// Refuses an image with a snapshot, or the L1 table of a snapshot, outside the file.
fn check_snapshots(source: &Source<'_>, header: &Header) -> Result<()> {
    let mut at = header.snapshots_offset;
    for _ in 0..header.snapshots {
        interrupt::check()?;
        let entry = source.read(at, SNAPSHOT as usize)?;
        if (entry.len() as u64) < SNAPSHOT {
            return Err(source.truncated(at.saturating_add(SNAPSHOT)));
        }
        let (l1_offset, l1_bytes) = (be64(&entry, 0), u64::from(be32(&entry, 8)) * 8);
        let texts = u64::from(be32(&entry, 12) >> 16) + u64::from(be32(&entry, 12) & 0xffff);
        let extra = u64::from(be32(&entry, 36));
        if l1_bytes > MAX_L1_BYTES || extra > MAX_SNAPSHOT_EXTRA {
            return Err(damaged(source, "a snapshot entry is larger than QEMU accepts"));
        }
        if !l1_offset.is_multiple_of(header.cluster_size) {
            return Err(damaged(source, "the offset of the L1 table of a snapshot is invalid"));
        }
        let end = at + SNAPSHOT + extra + texts;
        check_end(source, end.max(l1_offset.saturating_add(l1_bytes)))?;
        at = end.next_multiple_of(8);
    }
    Ok(())
}

/// Refuses an image with a table, a refcount block or guest data beyond the end of the file.
///
/// Reads each table once, without its holes. Memory: 8 bytes per L2 table, usually a few KiB, at most 32 MiB.
pub(super) fn check(source: &Source<'_>, header: &Header) -> Result<()> {
    check_places(source, header)?;
    check_snapshots(source, header)?;
    let misplaced = |what| Err(damaged(source, &format!("the offset of {what} is invalid")));
    let aligned = |offset: u64| offset.is_multiple_of(header.cluster_size);
    let mut end = 0;

    let mut l2_tables = Vec::new();
    for_each(source, header.l1_offset, header.l1_entries * 8, 8, |entry| {
        match be64(entry, 0) & OFFSET_BITS {
            0 => {}
            table if aligned(table) => l2_tables.push(table),
            _ => return misplaced("an L2 table"),
        }
        Ok(())
    })?;
    for_each(source, header.refcount_offset, header.refcount_entries * 8, 8, |entry| {
        match be64(entry, 0) {
            0 => {}
            block if aligned(block) => end = end.max(block.saturating_add(header.cluster_size)),
            _ => return misplaced("a refcount block"),
        }
        Ok(())
    })?;

    // Each table is used only once, so that no more is read than the file contains.
    l2_tables.sort_unstable();
    if l2_tables.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(damaged(source, "an L2 table is used twice"));
    }
    for &table in &l2_tables {
        let table_end = table.saturating_add(header.cluster_size);
        end = end.max(table_end);
        if table_end > source.size {
            break;
        }
        for_each(source, table, header.cluster_size, header.l2_entry_size(), |entry| {
            match data_end(header, entry) {
                Some(data_end) => end = end.max(data_end),
                None => return misplaced("a cluster"),
            }
            Ok(())
        })?;
    }
    check_end(source, end)
}

fn check_end(source: &Source<'_>, end: u64) -> Result<()> {
    if end > source.size { Err(source.truncated(end)) } else { Ok(()) }
}

/// Calls `visit` with every entry of a table, except for entries in long holes, which are zero.
fn for_each(
    source: &Source<'_>,
    table: u64,
    length: u64,
    entry_size: usize,
    mut visit: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let end = table.saturating_add(length);
    let mut at = table;
    while at < end {
        interrupt::check()?;
        let hole = source.next_data(at).saturating_sub(at);
        at += hole / PIECE * PIECE;
        if at < end {
            let piece = PIECE.min(end - at);
            let bytes = source.read(at, piece as usize)?;
            bytes.chunks_exact(entry_size).try_for_each(&mut visit)?;
            at += piece;
        }
    }
    Ok(())
}

/// The least length of the file for the guest data of one L2 entry: up to the first byte of the last object, because
/// QEMU may leave the last cluster incomplete. `None` for an invalid offset.
fn data_end(header: &Header, entry: &[u8]) -> Option<u64> {
    let descriptor = be64(entry, 0);
    if descriptor & COMPRESSED != 0 {
        let sectors_shift = 70 - header.cluster_size.ilog2();
        let start = descriptor & ((1 << sectors_shift) - 1);
        let more_sectors = (descriptor & (COMPRESSED - 1)) >> sectors_shift;
        let last_sector = (start / SECTOR + more_sectors) * SECTOR;
        return Some(last_sector.max(start) + 1);
    }
    let start = descriptor & OFFSET_BITS;
    if !start.is_multiple_of(header.cluster_size) {
        return None;
    }
    let last = if entry.len() == 16 {
        let allocated = be64(entry, 8) as u32;
        allocated.checked_ilog2().map(|last| u64::from(last) * (header.cluster_size / 32))
    } else {
        (start != 0 && descriptor & READS_AS_ZERO == 0).then_some(0)
    };
    Some(last.map_or(0, |last| start + last + 1))
}
