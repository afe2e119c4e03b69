//! Compares the content of two files.

use std::fs::File;

use common::error::Result;

use super::extents::{Extents, PIECE};
use super::reader::read_at;
use super::state::State;

/// Whether two files have the same content. Stops at the first difference. Holes that both files share are not read.
/// Moves the positions of both files.
///
/// Errors: `io`; those of the interrupt.
pub fn same_content(a: &File, b: &File, interrupt: &dyn Fn() -> Result<()>) -> Result<bool> {
    let size = State::read(a)?.size;
    if State::read(b)?.size != size {
        return Ok(false);
    }
    let mut files = [Extents::new(a, size), Extents::new(b, size)];
    let mut bytes = [vec![0; PIECE as usize], vec![0; PIECE as usize]];
    let mut at = 0;
    while at < size {
        interrupt()?;
        let extents = files.each_mut().map(|file| file.find(at));
        at = extents[0].start.min(extents[1].start).max(at);
        let here = extents.iter().filter(|extent| extent.start <= at);
        let end = here.map(|extent| extent.end).max().unwrap_or(size).min(at + PIECE);
        let length = (end - at) as usize;
        for (file, bytes) in [a, b].into_iter().zip(&mut bytes) {
            if read_at(file, &mut bytes[..length], at)? < length {
                return Ok(false);
            }
        }
        if bytes[0][..length] != bytes[1][..length] {
            return Ok(false);
        }
        at = end;
    }
    Ok(true)
}
