//! Event logs and quotes, written and read without the code under test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use sha2::{Digest, Sha384};

/// An event of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The index of the measurement register: 1 for RTMR0.
    pub(crate) register: u32,
    pub(crate) event_type: u32,
    pub(crate) digest: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

/// The SHA-384 digest of bytes.
pub(crate) fn sha384(bytes: &[u8]) -> Vec<u8> {
    Sha384::digest(bytes).to_vec()
}

/// The bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The events of a log whose only digests are of SHA-384, up to its padding.
pub(crate) fn read(log: &[u8]) -> Vec<Entry> {
    let number = |at: usize| u32::from_le_bytes(log[at..at + 4].try_into().unwrap());
    let mut at = 32 + number(28) as usize;
    let mut entries = Vec::new();
    while at < log.len() && number(at) != u32::MAX {
        let (register, event_type) = (number(at), number(at + 4));
        assert_eq!((number(at + 8), &log[at + 12..at + 14]), (1, &[0xc, 0][..]));
        let size = number(at + 62) as usize;
        let (digest, data) =
            (log[at + 14..at + 62].to_vec(), log[at + 66..at + 66 + size].to_vec());
        entries.push(Entry { register, event_type, digest, data });
        at += 66 + size;
    }
    entries
}

/// A log of these events, with padding, as edk2 writes it.
pub(crate) fn write(entries: &[Entry]) -> Vec<u8> {
    let spec_id = b"Spec ID Event03\0\0\0\0\0\x00\x02\x00\x02\x01\0\0\0\x0c\0\x30\0\0";
    let size = u32::try_from(spec_id.len()).unwrap().to_le_bytes();
    let mut log = [&[1, 0, 0, 0, 3, 0, 0, 0][..], &[0; 20], &size, spec_id].concat();
    for Entry { register, event_type, digest, data } in entries {
        log.extend([*register, *event_type, 1].map(u32::to_le_bytes).concat());
        log.extend([0xc, 0]);
        log.extend(digest);
        log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        log.extend(data);
    }
    log.resize(log.len().next_multiple_of(4096), 0xff);
    log
}

/// The value of a register after the events of a log.
pub(crate) fn replay(entries: &[Entry], register: u32) -> Vec<u8> {
    let entries = entries.iter().filter(|entry| entry.register == register);
    entries.fold(vec![0; 48], |value, entry| sha384(&[&value[..], &entry.digest].concat()))
}

/// A quote of version 4, which nobody signed, of a trust domain with these RTMRs.
pub(crate) fn quote(rtmrs: [&[u8]; 4]) -> Vec<u8> {
    let mut body = [0; 584];
    body[328..][..4 * 48].copy_from_slice(&rtmrs.concat());
    super::quote::quote(4, &body)
}
