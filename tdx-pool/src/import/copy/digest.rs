//! Computes the SHA-256 digest of a file.

use std::fs::File;
use std::sync::mpsc::Receiver;

use common::cli::interrupt;
use common::error::Result;
use common::text::hex;
use sha2::{Digest, Sha256};

use super::reader::{Piece, read};
use super::state::State;
use super::watch::Watch;

/// Computes the digest of all bytes of `file`, in lowercase hexadecimal digits. Holes are not read.
///
/// Errors: `io`; `conflict` if the file changed during the read; those of the interrupt.
pub fn sha256(file: &File, watch: &mut Watch<'_>) -> Result<String> {
    let before = State::read(file)?;
    let mut hasher = Sha256::new();
    read(file, before.size, watch, |piece| {
        feed(&mut hasher, &piece);
        true
    })?;
    before.check(file)?;
    Ok(hex(hasher.finalize()))
}

/// Computes the digest of all bytes of `file`, without reporting progress. A signal ends the computation.
///
/// Errors: `io`; `conflict` if the file changed during the read; those of the interrupt.
pub fn sha256_of(file: &File) -> Result<String> {
    sha256(file, &mut Watch { progress: &mut |_, _| {}, interrupt: &interrupt::check })
}

/// Computes the digest of the pieces of a file, which are received in order.
pub(super) fn hash(pieces: Receiver<Piece>) -> String {
    let mut hasher = Sha256::new();
    pieces.iter().for_each(|piece| feed(&mut hasher, &piece));
    hex(hasher.finalize())
}

fn feed(hasher: &mut Sha256, piece: &Piece) {
    static ZEROS: [u8; 4 << 10] = [0; 4 << 10];
    if let Some(bytes) = &piece.bytes {
        return hasher.update(&bytes[..piece.length as usize]);
    }
    let mut left = piece.length as usize;
    while left > 0 {
        let length = left.min(ZEROS.len());
        hasher.update(&ZEROS[..length]);
        left -= length;
    }
}
