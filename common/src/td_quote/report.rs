//! The report of a trust domain in a quote.

use crate::error::{Error, Result};
use crate::fields;
use crate::td_quote::signature_data;

/// The TEE type of a trust domain.
const TEE_TYPE_TDX: u32 = 0x81;

/// The TEE type of an SGX enclave.
const TEE_TYPE_SGX: u32 = 0;

/// The attestation key type of quotes that a key of the curve P-256 signed, by ECDSA.
const ECDSA_P256: u16 = 2;

/// The size of the report of TDX 1.0, to which later reports add fields. Unit: bytes.
const SIZE: u32 = 584;

/// The report of a trust domain in a complete quote of version 4 or 5: what the quote's signature is about.
///
/// Source: Intel DCAP, `sgx_report2_body_t`, `sgx_report2_body_v1_5_t` and `sgx_report2_body_v1_5_ex_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TdReport<'a> {
    /// The whole report. Size: 584 bytes for TDX 1.0, 648 for TDX 1.5, 885 for TDX 1.5ex.
    pub bytes: &'a [u8],
    /// The attributes of the trust domain, such as DEBUG.
    pub attributes: &'a [u8; 8],
    /// The processor features that the trust domain may use.
    pub xfam: &'a [u8; 8],
    /// The measurement of the initial memory.
    pub mrtd: &'a [u8; 48],
    /// The identity of the configuration, which the host sets.
    pub mrconfigid: &'a [u8; 48],
    /// The identity of the owner, which the host sets.
    pub mrowner: &'a [u8; 48],
    /// The identity of the owner's configuration, which the host sets.
    pub mrownerconfig: &'a [u8; 48],
    /// The runtime measurement registers RTMR0 to RTMR3.
    pub rtmrs: [&'a [u8; 48]; 4],
    /// The data that the trust domain itself put into the quote, such as a nonce.
    pub report_data: &'a [u8; 64],
    /// The measurement of the service trust domains that are bound to the trust domain. None in a report of TDX 1.0,
    /// which has no such field.
    pub service_td: Option<&'a [u8; 48]>,
}

impl<'a> TdReport<'a> {
    /// Finds the report in a quote, as [`Self::read`] does. `source` names the quote in messages.
    ///
    /// Errors: `invalid_input` for what [`Self::read`] refuses.
    pub fn parse(bytes: &'a [u8], source: &str) -> Result<Self> {
        Self::read(bytes).map_err(|why| {
            Error::invalid_input(format!("{source} is not the quote of a trust domain: {why}"))
        })
    }

    /// Finds the report in a quote whose signature data is complete. Bytes after the quote are ignored, because guests
    /// pad quotes.
    ///
    /// Errors: the reason, for a quote of an SGX enclave; of another version, body type or attestation key type; for a
    /// quote that ends early, and for sizes in it that contradict each other.
    pub fn read(mut quote: &'a [u8]) -> Result<Self, String> {
        let bytes = &mut quote;
        let cut = |part: &str| format!("it ends within the {part}");
        let size = match Header::take(bytes).ok_or_else(|| cut("header"))? {
            Header { version: 3, .. } | Header { version: 4 | 5, tee_type: TEE_TYPE_SGX, .. } => {
                return Err("it is that of an SGX enclave".to_owned());
            }
            Header { version, .. } if !matches!(version, 4 | 5) => {
                return Err(format!("its version is {version}, expected 4 or 5"));
            }
            Header { tee_type, .. } if tee_type != TEE_TYPE_TDX => {
                return Err(format!("its TEE type {tee_type:#x} is unknown"));
            }
            Header { key_type, .. } if key_type != ECDSA_P256 => {
                return Err(format!(
                    "its attestation key type is {key_type}, expected {ECDSA_P256} (ECDSA with P-256)"
                ));
            }
            Header { version: 4, .. } => SIZE,
            _ => body_size(bytes).ok_or_else(|| cut("body"))??,
        };
        let body = fields::take(bytes, size as usize).ok_or_else(|| cut("body"))?;
        let report = Self::of(body).ok_or_else(|| cut("body"))?;
        let signature_data = fields::sized(bytes).ok_or_else(|| cut("signature data"))?;
        signature_data::check(signature_data).map(|()| report)
    }

    /// Reads the fields of a report; none if it has fewer than 584 bytes.
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        let rest = &mut rest;
        let _tcb_svn = fields::take(rest, 16)?;
        let _module = fields::take(rest, 48 + 48 + 8)?;
        Some(Self {
            bytes,
            attributes: fields::array_ref(rest)?,
            xfam: fields::array_ref(rest)?,
            mrtd: fields::array_ref(rest)?,
            mrconfigid: fields::array_ref(rest)?,
            mrowner: fields::array_ref(rest)?,
            mrownerconfig: fields::array_ref(rest)?,
            rtmrs: [
                fields::array_ref(rest)?,
                fields::array_ref(rest)?,
                fields::array_ref(rest)?,
                fields::array_ref(rest)?,
            ],
            report_data: fields::array_ref(rest)?,
            service_td: fields::take(rest, 16).and_then(|_tcb_svn_2| fields::array_ref(rest)),
        })
    }
}

struct Header {
    version: u16,
    key_type: u16,
    tee_type: u32,
}

impl Header {
    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let mut header = fields::take(bytes, 48)?;
        Some(Self {
            version: fields::u16(&mut header)?,
            key_type: fields::u16(&mut header)?,
            tee_type: fields::u32(&mut header)?,
        })
    }
}

/// Takes the type and the size of the body of a quote of version 5, and returns the size; none if the quote ends early.
///
/// Errors: the reason, for a body that is no report of a trust domain, and for a size that is not of the type.
fn body_size(bytes: &mut &[u8]) -> Option<Result<u32, String>> {
    let (body_type, size) = (fields::u16(bytes)?, fields::u32(bytes)?);
    let expected = match body_type {
        2 => SIZE,
        3 => 648,
        4 => 885,
        _ => {
            return Some(Err(format!(
                "its body has type {body_type} and {size} bytes, expected type 2, 3 or 4"
            )));
        }
    };
    Some(match size == expected {
        true => Ok(size),
        false => Err(format!("its body of type {body_type} has {size} bytes, expected {expected}")),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::td_quote::sample::{self, SIGNATURE_DATA};

    /// Version and size of the body of each kind of quote.
    const KINDS: [(u16, usize); 4] = [(4, 584), (5, 584), (5, 648), (5, 885)];

    /// A quote in whose body each byte is its offset, in units of 8 bytes.
    fn quote((version, size): (u16, usize)) -> Vec<u8> {
        let body: Vec<u8> = (0..size).map(|at| (at / 8) as u8).collect();
        sample::quote(version, &body)
    }

    /// The offset of the size of the signature data.
    fn signature_size_at((version, size): (u16, usize)) -> usize {
        if version == 5 { 54 + size } else { 48 + size }
    }

    #[test]
    fn fields_are_at_the_offsets_of_the_report() {
        for kind in KINDS {
            let quote = quote(kind);
            let report = TdReport::read(&quote).unwrap();
            assert_eq!(report.bytes.len(), kind.1);
            for (field, offset) in [
                (&report.attributes[..], 120),
                (report.xfam, 128),
                (report.mrtd, 136),
                (report.mrconfigid, 184),
                (report.mrowner, 232),
                (report.mrownerconfig, 280),
                (report.rtmrs[0], 328),
                (report.rtmrs[3], 472),
                (report.report_data, 520),
            ] {
                assert_eq!(field, &report.bytes[offset..][..field.len()], "{offset}");
            }
            let service_td = report.service_td.map(|hash| hash[0]);
            assert_eq!(service_td, (kind.1 > 584).then_some(75), "{kind:?}");
        }
    }

    #[test]
    fn a_padded_quote_is_read_and_a_truncated_one_is_not() {
        for kind in KINDS {
            let mut quote = quote(kind);
            for length in 0..quote.len() {
                let error = TdReport::read(&quote[..length]).unwrap_err();
                assert!(error.starts_with("it ends within the "), "{length} {error}");
            }
            quote.extend([0; 100]);
            TdReport::read(&quote).unwrap();
        }
    }

    #[test]
    fn other_quotes_are_refused_with_the_reason() {
        let message = |at: usize, byte: u8, version| {
            let mut quote = quote((version, 648 - 64 * usize::from(version == 4)));
            quote[at] = byte;
            TdReport::read(&quote).unwrap_err()
        };
        assert_eq!(message(0, 3, 4), "it is that of an SGX enclave");
        assert_eq!(message(0, 6, 4), "its version is 6, expected 4 or 5");
        assert_eq!(
            message(2, 3, 4),
            "its attestation key type is 3, expected 2 (ECDSA with P-256)"
        );
        assert_eq!(message(4, 0, 4), "it is that of an SGX enclave");
        assert_eq!(message(4, 1, 4), "its TEE type 0x1 is unknown");
        assert_eq!(message(48, 1, 5), "its body has type 1 and 648 bytes, expected type 2, 3 or 4");
        assert_eq!(message(48, 5, 5), "its body has type 5 and 648 bytes, expected type 2, 3 or 4");
        assert_eq!(message(48, 4, 5), "its body of type 4 has 648 bytes, expected 885");
        assert_eq!(message(50, 0, 5), "its body of type 3 has 512 bytes, expected 648");
    }

    #[test]
    fn every_other_size_in_a_quote_is_refused() {
        for kind in [KINDS[0], KINDS[3]] {
            let mut quote = [quote(kind), vec![0; 70_000]].concat();
            let at = signature_size_at(kind);
            let (certification, authentication) = (at + 4 + 130, at + 4 + 134 + 448);
            let certificates = authentication + 2 + 32 + 2;
            let body = (kind.0 == 5).then_some(50);
            for at in body.into_iter().chain([at, certification, authentication, certificates]) {
                // Every value of the lower two bytes, and some of the upper two.
                let is_short = at == authentication;
                let real = u32::from(u16::from_le_bytes([quote[at], quote[at + 1]]));
                let others = (0..=0xffff).filter(|size| *size != real);
                let large = [real + 0x1_0000, 0x7fff_ffff, u32::MAX].into_iter();
                let width = if is_short { 2 } else { 4 };
                let mut put = |size: u32| {
                    quote[at..][..width].copy_from_slice(&size.to_le_bytes()[..width]);
                    TdReport::read(&quote).is_ok()
                };
                for size in others.chain(large.filter(|_| !is_short)) {
                    assert!(!put(size), "{kind:?}: {size} at {at}");
                }
                assert!(put(real), "{kind:?}: {real} at {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..900),
            kind in proptest::sample::select(KINDS.to_vec()),
            changes in proptest::collection::vec((0..885 + SIGNATURE_DATA, any::<u8>()), 0..8),
        ) {
            let _ = TdReport::read(&bytes);
            let mut quote = quote(kind);
            for (at, byte) in changes {
                if let Some(place) = quote.get_mut(at) {
                    *place = byte;
                }
            }
            let _ = TdReport::read(&quote);
        }
    }
}
