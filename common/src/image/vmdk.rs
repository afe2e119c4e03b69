//! VMDK: a text description, in a file of its own or inside an image, that names extents and a parent.
//!
//! Source: QEMU `block/vmdk.c`. A description in a file of its own names extents. A description inside an
//! image does so only if the image says that it holds no sectors itself. QEMU looks for the name of the
//! parent in the first 20 sectors of the description.

use std::fs::File;
use std::io;

use super::header::{Header, Role, le64, read_at};

/// The number of bytes of a description that QEMU reads.
const MAX_DESCRIPTION: usize = (1 << 20) - 1;
const SECTOR: u64 = 512;
/// The offset of the description in an image with sectors of its own, and the number of bytes that are read.
const INSIDE: (u64, usize) = (0x200, 20 * SECTOR as usize);
/// The largest number of extents that are read from one description.
const MAX_EXTENTS: usize = 4096;

/// Reads the files that a VMDK image names. `start` is the beginning of the file.
pub(super) fn read(file: &File, start: &[u8]) -> io::Result<Header> {
    let mut header = Header::default();
    if start.starts_with(b"KDMV") || start.starts_with(b"COWD") {
        add_parent(&mut header, &read_at(file, INSIDE.0, INSIDE.1)?);
        let (capacity, description) = (le64(start, 12), le64(start, 28));
        if start.starts_with(b"KDMV") && capacity == 0 && description != 0 {
            let text = read_at(file, description.saturating_mul(SECTOR), MAX_DESCRIPTION)?;
            add_extents(&mut header, &text);
        }
    } else if is_description(start) {
        let text = match start.len() < 4096 {
            true => start.to_vec(),
            false => read_at(file, 0, MAX_DESCRIPTION)?,
        };
        add_parent(&mut header, &text[..text.len().min(INSIDE.1)]);
        add_extents(&mut header, &text);
    }
    Ok(header)
}

/// Whether a file may be a description: text, or bytes that contain the word of every description.
fn is_description(start: &[u8]) -> bool {
    let first = &start[..start.len().min(512)];
    let is_text = |byte: &u8| *byte >= b' ' || byte.is_ascii_whitespace();
    (!first.is_empty() && first.iter().all(is_text)) || find(start, b"createType").is_some()
}

fn add_parent(header: &mut Header, text: &[u8]) {
    const KEY: &[u8] = b"parentFileNameHint";
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    // The key is followed by an equals sign and a quotation mark, which QEMU skips without a check.
    let Some(at) = find(text, KEY) else { return };
    let name = text.get(at + KEY.len() + 2..).unwrap_or_default();
    if let Some(end) = name.iter().position(|byte| *byte == b'"') {
        header.add(Role::Backing, &name[..end]);
    }
}

/// Adds the files of lines such as `RW 2048 FLAT "name" 0`.
fn add_extents(header: &mut Header, text: &[u8]) {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    for line in text.split(|byte| *byte == b'\n').take(1 << 16) {
        if header.references.len() >= MAX_EXTENTS {
            return;
        }
        let line = line.trim_ascii_start();
        if !line.starts_with(b"RW") && !line.starts_with(b"RDONLY") {
            continue;
        }
        let mut parts = line.splitn(3, |byte| *byte == b'"');
        if let (Some(_), Some(name), Some(_)) = (parts.next(), parts.next(), parts.next()) {
            header.add(Role::Data, name);
        }
    }
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window == word)
}
