//! The report of a trust domain in a quote. Nothing here verifies the quote.
//!
//! Source: Intel TDX DCAP Quoting Library API, A.3: a header of 48 bytes; in version 5 a type of 2 bytes and a size of
//! 4 bytes; then the body. Numbers are little-endian.

use crate::evidence::nonce::REPORT_DATA;

/// The most bytes of a quote. A quote has about 5 kB, most of it certificates.
pub const LIMIT: usize = 64 << 10;

const HEADER: usize = 48;

/// The size of the type and the size of a body in a quote of version 5, in bytes.
const DESCRIPTOR: usize = 6;

/// The TEE type of a trust domain, at byte 4 of the header.
const TEE_TYPE_TDX: u32 = 0x81;

/// The size of the report of TDX 1.0, in bytes. The longer report of TDX 1.5 begins with the same fields.
const SHORT_BODY: usize = 584;
const LONG_BODY: usize = 648;

/// The offset of the report data in the report.
const REPORT_DATA_AT: usize = 520;

/// Returns the signed report of a quote: measurements, attributes and report data.
///
/// Errors: the reason for bytes that are not a quote of a trust domain, of version 4 or 5.
pub fn report(quote: &[u8]) -> Result<&[u8], String> {
    let header = quote.get(..HEADER).ok_or("it ends within the header")?;
    let version = u16::from_le_bytes([header[0], header[1]]);
    let tee_type = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    if !matches!(version, 4 | 5) {
        return Err(format!("its version is {version}, expected 4 or 5"));
    }
    if tee_type != TEE_TYPE_TDX {
        return Err(format!("its TEE type is {tee_type:#x}, expected {TEE_TYPE_TDX:#x}"));
    }
    let (at, size) = if version == 4 { (HEADER, SHORT_BODY) } else { long_body(quote)? };
    quote.get(at..at + size).ok_or_else(|| "it ends within the report".to_owned())
}

/// Returns the offset and the size of the report in a quote of version 5.
fn long_body(quote: &[u8]) -> Result<(usize, usize), String> {
    let at = HEADER + DESCRIPTOR;
    let descriptor = quote.get(HEADER..at).ok_or("it ends within the type of its report")?;
    let kind = u16::from_le_bytes([descriptor[0], descriptor[1]]);
    let size = u32::from_le_bytes([descriptor[2], descriptor[3], descriptor[4], descriptor[5]]);
    match (kind, size as usize) {
        (2, SHORT_BODY) => Ok((at, SHORT_BODY)),
        (3, LONG_BODY) => Ok((at, LONG_BODY)),
        _ => Err(format!("its report of type {kind} and {size} bytes is unknown")),
    }
}

/// Returns the report data of a quote.
///
/// Errors: those of [`report`].
pub fn report_data(quote: &[u8]) -> Result<&[u8], String> {
    report(quote).map(|report| &report[REPORT_DATA_AT..REPORT_DATA_AT + REPORT_DATA])
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A quote of a version with this report data; every other byte of the report is `filling`.
    pub(crate) fn quote(version: u16, filling: u8, data: [u8; REPORT_DATA]) -> Vec<u8> {
        let mut quote = vec![0; HEADER];
        quote[..2].copy_from_slice(&version.to_le_bytes());
        quote[4] = 0x81;
        let size = if version == 5 { LONG_BODY } else { SHORT_BODY };
        if version == 5 {
            quote.extend(3u16.to_le_bytes());
            quote.extend((size as u32).to_le_bytes());
        }
        let mut body = vec![filling; size];
        body[REPORT_DATA_AT..][..REPORT_DATA].copy_from_slice(&data);
        quote.extend(body);
        quote.extend([7; 100]);
        quote
    }

    #[test]
    fn report_data_is_found_in_both_versions() {
        let data: [u8; REPORT_DATA] = std::array::from_fn(|at| at as u8);
        for version in [4, 5] {
            assert_eq!(report_data(&quote(version, 9, data)).unwrap(), data);
        }
    }

    #[test]
    fn a_truncated_quote_and_a_quote_of_another_kind_are_refused() {
        for version in [4, 5] {
            let whole = quote(version, 9, [1; REPORT_DATA]);
            for length in 0..whole.len() - 100 {
                let why = report(&whole[..length]).unwrap_err();
                assert!(why.starts_with("it ends within the "), "{length} {why}");
            }
        }
        let changed = |at: usize, byte: u8, version| {
            let mut quote = quote(version, 9, [1; REPORT_DATA]);
            quote[at] = byte;
            report(&quote).unwrap_err()
        };
        assert_eq!(changed(0, 3, 4), "its version is 3, expected 4 or 5");
        assert_eq!(changed(4, 0, 4), "its TEE type is 0x0, expected 0x81");
        assert_eq!(changed(48, 1, 5), "its report of type 1 and 648 bytes is unknown");
        assert_eq!(changed(50, 0, 5), "its report of type 3 and 512 bytes is unknown");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..800),
            version in 3u16..7,
            changes in proptest::collection::vec((0usize..60, any::<u8>()), 0..6),
        ) {
            let _ = report_data(&bytes);
            let mut quote = quote(version, 9, [1; REPORT_DATA]);
            for (at, byte) in changes {
                quote[at] = byte;
            }
            if let Ok(data) = report_data(&quote) {
                prop_assert_eq!(data.len(), REPORT_DATA);
            }
        }
    }
}
