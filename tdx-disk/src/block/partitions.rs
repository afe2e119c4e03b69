//! Reads partition tables from the disk itself, even if the kernel has not read them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The most entries of a table, and the most tables of a chain, that are read: Linux's limit of partitions on one disk.
/// Source: Linux `include/linux/blkdev.h`, `DISK_MAX_PARTS`.
pub const MOST: u64 = 256;

/// The place of a partition on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The offset of the partition from the start of the disk. Unit: bytes.
    pub start: u64,
    /// The size of the partition. Unit: bytes.
    pub size: u64,
}

/// The partition table of a disk.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Table {
    /// The type of table: `gpt` or `dos`.
    pub kind: Option<&'static str>,
    /// The partitions, including partitions beyond the end of the disk.
    pub spans: Vec<Span>,
    /// Whether the table has more than [`MOST`] partitions, so that the others were not read.
    pub is_cut: bool,
}

/// Reads the partition table of a disk.
///
/// Errors: those of reading the disk.
/// Source: UEFI specification 2.10, chapter 5.
pub fn read(file: &File, size: u64, sector: u32) -> io::Result<Table> {
    // The table may have been written with another sector size, such as behind a USB bridge.
    let sectors = [u64::from(sector), 512, 4096];
    for unit in sectors {
        for header in [unit, size.saturating_sub(unit)] {
            if let Some(table) = gpt(file, header, unit)? {
                return Ok(table);
            }
        }
    }
    match mbr(file, 0)? {
        Some(entries) => dos(file, entries, u64::from(sector)),
        None => Ok(Table::default()),
    }
}

fn bytes(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    match file.read_exact_at(&mut bytes, offset) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes).into()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn gpt(file: &File, header: u64, unit: u64) -> io::Result<Option<Table>> {
    let header = bytes(file, header, 92)?;
    if !header.starts_with(b"EFI PART") {
        return Ok(None);
    }
    let (first, count, length) = (u64_at(&header, 72), u32_at(&header, 80), u32_at(&header, 84));
    let mut table = Table { kind: Some("gpt"), ..Table::default() };
    // The kernel does not read a table with entries of another size.
    if !(length.is_power_of_two() && (128..=4096).contains(&length)) {
        return Ok(Some(table));
    }
    let entry_offset = |index: u64| first.checked_mul(unit)?.checked_add(index * length);
    for index in 0..count.min(MOST) {
        let Some(at) = entry_offset(index).filter(|at| *at < i64::MAX as u64 - length) else {
            break;
        };
        let entry = bytes(file, at, 48)?;
        let (start, end) = (u64_at(&entry, 32), u64_at(&entry, 40));
        let is_used = entry.iter().take(16).any(|byte| *byte != 0) && end >= start;
        let sectors = end.saturating_sub(start).saturating_add(1);
        let size = sectors.saturating_mul(unit);
        let span = start.checked_mul(unit).map(|start| Span { start, size });
        table.spans.extend(span.filter(|_| is_used));
    }
    table.is_cut = count > MOST && has_more(file, entry_offset(MOST), (count - MOST) * length)?;
    Ok(Some(table))
}

/// Whether the entries beyond [`MOST`] contain anything other than zeros.
fn has_more(file: &File, start: Option<u64>, length: u64) -> io::Result<bool> {
    /// A longer table counts as a table with more partitions. Unit: bytes.
    const LIMIT: u64 = 1 << 20;
    match start {
        Some(start) if length <= LIMIT => {
            Ok(bytes(file, start, length as usize)?.iter().any(|byte| *byte != 0))
        }
        _ => Ok(true),
    }
}

/// Type, start and size of the entries in the table of one sector. Unit: sectors.
type Entries = Vec<(u8, u64, u64)>;

/// The entries of a sector that is a partition table; none for the boot sector of a file system, which looks similar.
fn mbr(file: &File, offset: u64) -> io::Result<Option<Entries>> {
    let sector = bytes(file, offset, 512)?;
    let is_fat = |at: usize| sector.get(at..at + 3).is_some_and(|text| text == b"FAT");
    let other = sector.get(3..11).is_some_and(|name| name == b"NTFS    " || name == b"EXFAT   ");
    if !sector.ends_with(&[0x55, 0xaa]) || is_fat(54) || is_fat(82) || other {
        return Ok(None);
    }
    let table = sector[446..510].chunks_exact(16);
    let is_table = table.clone().all(|entry| matches!(entry[0], 0 | 0x80));
    let entries = table.map(|entry| (entry[4], u32_at(entry, 8), u32_at(entry, 12)));
    let entries: Entries = entries.filter(|(kind, _, size)| *kind != 0 && *size != 0).collect();
    Ok((is_table && !entries.is_empty()).then_some(entries))
}

/// The primary partitions, and the logical partitions in the chain of an extended partition.
fn dos(file: &File, entries: Entries, unit: u64) -> io::Result<Table> {
    const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
    let mut found = Table { kind: Some("dos"), ..Table::default() };
    // The limit counts the tables of all chains, because empty tables can continue a chain as well.
    let mut tables = 0;
    for (kind, first, size) in entries {
        if !EXTENDED.contains(&kind) {
            found.spans.push(Span { start: first * unit, size: size * unit });
            continue;
        }
        let mut table = first;
        while let Some(inner) = mbr(file, table * unit)? {
            tables += 1;
            if tables > MOST {
                found.is_cut = true;
                return Ok(found);
            }
            let logical = inner.iter().find(|(kind, ..)| !EXTENDED.contains(kind));
            let logical = logical
                .map(|(_, start, size)| Span { start: (table + start) * unit, size: size * unit });
            found.spans.extend(logical);
            let next = inner.iter().find(|(kind, ..)| EXTENDED.contains(kind));
            match next {
                // A cyclic chain ends after the first round.
                Some((_, start, _)) if first + start > table => table = first + start,
                _ => break,
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn table(write: impl Fn(&File)) -> Table {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 * MIB).unwrap();
        write(&file);
        read(&file, 64 * MIB, 512).unwrap()
    }

    fn disk(write: impl Fn(&File)) -> (Option<&'static str>, Vec<(u64, u64)>) {
        let table = table(write);
        assert!(!table.is_cut);
        (table.kind, table.spans.iter().map(|span| (span.start, span.size)).collect())
    }

    /// A GPT of so many entries of 128 bytes; those that are named reach from sector to sector.
    fn gpt(file: &File, count: u32, used: &[(u64, u64, u64)]) {
        file.write_all_at(b"EFI PART", 512).unwrap();
        file.write_all_at(&2u64.to_le_bytes(), 512 + 72).unwrap();
        file.write_all_at(&count.to_le_bytes(), 512 + 80).unwrap();
        file.write_all_at(&128u32.to_le_bytes(), 512 + 84).unwrap();
        for (index, start, end) in used {
            let at = 1024 + index * 128;
            file.write_all_at(&[1], at).unwrap();
            file.write_all_at(&start.to_le_bytes(), at + 32).unwrap();
            file.write_all_at(&end.to_le_bytes(), at + 40).unwrap();
        }
    }

    #[test]
    fn impossible_gpt_ranges_do_not_overflow() {
        let found = disk(|file| gpt(file, 4, &[(0, 0, u64::MAX), (1, 8, u64::MAX), (2, 9, 8)]));
        assert_eq!(found.1, [(0, u64::MAX), (8 * 512, u64::MAX)]);
        let far = disk(|file| gpt(file, 4, &[(0, u64::MAX, u64::MAX)]));
        assert_eq!(far, (Some("gpt"), vec![]));
    }

    #[test]
    fn a_table_with_too_many_entries_is_reported() {
        assert!(!table(|file| gpt(file, 1024, &[(255, 8, 9)])).is_cut);
        assert!(table(|file| gpt(file, 1024, &[(256, 8, 9)])).is_cut);
        assert!(table(|file| gpt(file, u32::MAX, &[])).is_cut);
    }

    #[test]
    fn a_chain_of_empty_logical_partitions_ends_at_the_limit() {
        let chain = |length: u32| {
            table(|file| {
                entry(file, 0, 0, 0x05, 64, 64 << 10);
                for link in 0..length {
                    entry(file, u64::from(64 + link), 0, 0x05, link + 1, 1);
                }
            })
        };
        assert!(!chain(255).is_cut);
        let cut = chain(100_000);
        assert!(cut.is_cut && cut.spans.is_empty());
    }

    fn entry(file: &File, table: u64, index: u64, kind: u8, first: u32, size: u32) {
        let mut entry = [0; 16];
        entry[4] = kind;
        entry[8..12].copy_from_slice(&first.to_le_bytes());
        entry[12..].copy_from_slice(&size.to_le_bytes());
        file.write_all_at(&entry, table * 512 + 446 + index * 16).unwrap();
        file.write_all_at(&[0x55, 0xaa], table * 512 + 510).unwrap();
    }

    #[test]
    fn gpt_and_dos_tables_are_read() {
        assert_eq!(disk(|_| {}), (None, vec![]));
        for unit in [512, 4096] {
            let gpt = disk(|file| {
                file.write_all_at(b"EFI PART", unit).unwrap();
                file.write_all_at(&2u64.to_le_bytes(), unit + 72).unwrap();
                file.write_all_at(&4u32.to_le_bytes(), unit + 80).unwrap();
                file.write_all_at(&128u32.to_le_bytes(), unit + 84).unwrap();
                let second = 2 * unit + 128;
                file.write_all_at(&[1], second).unwrap();
                file.write_all_at(&(MIB / unit).to_le_bytes(), second + 32).unwrap();
                file.write_all_at(&(3 * MIB / unit - 1).to_le_bytes(), second + 40).unwrap();
            });
            assert_eq!(gpt, (Some("gpt"), vec![(MIB, 2 * MIB)]), "{unit}");
        }
        let dos = disk(|file| {
            entry(file, 0, 0, 0x83, 2048, 2048);
            entry(file, 0, 1, 0x05, 8192, 16384);
            entry(file, 8192, 0, 0x83, 2048, 1024);
            entry(file, 8192, 1, 0x05, 4096, 4096);
            entry(file, 8192 + 4096, 0, 0x8e, 2048, 512);
            entry(file, 8192 + 4096, 1, 0x05, 0, 4096);
        });
        let starts: Vec<u64> = dos.1.iter().map(|part| part.0 / 512).collect();
        assert_eq!((dos.0, starts), (Some("dos"), vec![2048, 10240, 14336]));
    }

    #[test]
    fn other_content_is_not_a_partition_table() {
        let file = |write: fn(&File)| disk(write);
        assert_eq!(file(|f| f.write_all_at(&[0x55, 0xaa], 510).unwrap()).0, None);
        let wild = file(|f| {
            f.write_all_at(b"EFI PART", 512).unwrap();
            f.write_all_at(&[0xff; 40], 512 + 60).unwrap();
        });
        assert_eq!(wild, (Some("gpt"), vec![]));
        let vfat = file(|f| {
            entry(f, 0, 0, 0x0c, 2048, 4096);
            f.write_all_at(b"FAT32   ", 82).unwrap();
        });
        assert_eq!(vfat.0, None);
    }
}
