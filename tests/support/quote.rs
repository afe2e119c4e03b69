//! Quotes that are complete in form, and that nobody signed.

/// The size of the signature data of these quotes. Unit: bytes.
pub(crate) const SIGNATURE_DATA: usize = 64 + 64 + 6 + 384 + 64 + 2 + 32 + 6 + 100;

/// A quote of version 4, or of version 5 with the body type that is of the body's size.
pub(crate) fn quote(version: u16, body: &[u8]) -> Vec<u8> {
    let mut quote = vec![0; 48];
    quote[..2].copy_from_slice(&version.to_le_bytes());
    (quote[2], quote[4]) = (2, 0x81);
    if version == 5 {
        let body_type: u16 = match body.len() {
            584 => 2,
            648 => 3,
            885 => 4,
            size => panic!("no body has {size} bytes"),
        };
        quote.extend(body_type.to_le_bytes());
        quote.extend((body.len() as u32).to_le_bytes());
    }
    let signatures = signature_data();
    quote.extend(body);
    quote.extend((signatures.len() as u32).to_le_bytes());
    quote.extend(signatures);
    quote
}

/// A quote of version 4 (TDX 1.0) or 5 (TDX 1.5) with this report data. Every other byte of the report is `filling`.
pub(crate) fn quote_with(version: u16, filling: u8, report_data: [u8; 64]) -> Vec<u8> {
    let mut body = vec![filling; if version == 5 { 648 } else { 584 }];
    body[520..584].copy_from_slice(&report_data);
    quote(version, &body)
}

/// Signature data: signature and key, then certification data of type 6 with the report of the quoting enclave, its
/// signature, 32 bytes of authentication data, and "certificates". Every byte of a part is 7.
pub(crate) fn signature_data() -> Vec<u8> {
    let certification = [
        &[7; 384 + 64][..],
        &32u16.to_le_bytes(),
        &[7; 32],
        &5u16.to_le_bytes(),
        &100u32.to_le_bytes(),
        &[7; 100],
    ]
    .concat();
    let size = (certification.len() as u32).to_le_bytes();
    [&[7; 128][..], &6u16.to_le_bytes(), &size, &certification].concat()
}
