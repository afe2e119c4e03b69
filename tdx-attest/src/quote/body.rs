//! Reads the registers that a quote states, without verifying its signature.
//!
//! Source: Intel SGX and TDX DCAP Quote Generation Library, `sgx_quote_4.h` and `sgx_quote_5.h`: header of 48 bytes, in
//! version 5 type and size of the body, body, size of the signature data, signature data. Numbers are little-endian.

use common::{Error, Result};

use crate::fields;
use crate::register::Register;

/// The most that is read of a quote, which has about 5 kB: most of it are certificates. Unit: bytes.
pub const LIMIT: usize = 1 << 20;

/// The TEE type of a trust domain.
const TEE_TYPE_TDX: u32 = 0x81;

/// The TEE type of an SGX enclave.
const TEE_TYPE_SGX: u32 = 0;

/// The size of the report of TDX 1.0. Later reports begin with the same fields. Unit: bytes.
const SIZE: usize = 584;

/// The report of a trust domain in a quote of version 4 or 5. It has 584 bytes or more.
#[derive(Debug, Clone, Copy)]
pub struct TdReport<'a>(&'a [u8]);

impl<'a> TdReport<'a> {
    /// Finds the report in a quote. Bytes after the quote are ignored, because guests pad quotes. `source` names the
    /// file in messages.
    ///
    /// Errors: `invalid_input` for a quote of an SGX enclave, of another version or of an unknown body type, and for a
    /// quote that ends early.
    pub fn parse(bytes: &'a [u8], source: &str) -> Result<Self> {
        Self::read(bytes).map_err(|why| {
            Error::invalid_input(format!("{source} is not the quote of a trust domain: {why}"))
        })
    }

    fn read(mut bytes: &'a [u8]) -> Result<Self, String> {
        let bytes = &mut bytes;
        let cut = |part: &str| format!("it ends within the {part}");
        let Some(Header { version, tee_type }) = Header::take(bytes) else {
            return Err(cut("header"));
        };
        let size = match (version, tee_type) {
            (4, TEE_TYPE_TDX) => SIZE,
            // The bodies of TDX 1.0, of TDX 1.5, and of TDX 1.5 with the fields of service trust domains.
            (5, TEE_TYPE_TDX) => match body_descriptor(bytes).ok_or_else(|| cut("body"))? {
                (2, 584) => 584,
                (3, 648) => 648,
                (4, 885) => 885,
                (body_type, size) => {
                    return Err(format!("its body type {body_type} of {size} bytes is unknown"));
                }
            },
            (3, _) | (4 | 5, TEE_TYPE_SGX) => return Err("it is that of an SGX enclave".to_owned()),
            (4 | 5, _) => return Err(format!("its TEE type {tee_type:#x} is unknown")),
            _ => return Err(format!("its version is {version}, expected 4 or 5")),
        };
        let report = Self(fields::take(bytes, size).ok_or_else(|| cut("body"))?);
        fields::sized(bytes).map(|_| report).ok_or_else(|| cut("signature data"))
    }

    /// The value of a register.
    pub fn register(&self, register: Register) -> &'a [u8] {
        let offset = match register {
            Register::Attributes => 120,
            Register::Mrtd => 136,
            Register::MrConfigId => 184,
            Register::MrOwner => 232,
            Register::MrOwnerConfig => 280,
            Register::Rtmr0 => 328,
            Register::Rtmr1 => 376,
            Register::Rtmr2 => 424,
            Register::Rtmr3 => 472,
        };
        self.field(offset, register.size())
    }

    /// The attributes of the trust domain, such as DEBUG: the number in the register of that name.
    pub fn attributes(&self) -> u64 {
        number(self.register(Register::Attributes))
    }

    /// The processor features that the trust domain may use (XFAM).
    pub fn xfam(&self) -> u64 {
        number(self.field(128, 8))
    }

    /// The data that the trust domain itself put into the quote, such as a nonce. Size: 64 bytes.
    pub fn report_data(&self) -> &'a [u8] {
        self.field(520, 64)
    }

    /// The measurement of the service trust domains that are bound to the trust domain. Size: 48 bytes. None in a
    /// report of TDX 1.0, which has no such field.
    pub fn service_td(&self) -> Option<&'a [u8]> {
        (self.0.len() > SIZE).then(|| self.field(600, 48))
    }

    fn field(&self, offset: usize, size: usize) -> &'a [u8] {
        &self.0[offset..][..size]
    }
}

struct Header {
    version: u16,
    tee_type: u32,
}

impl Header {
    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let mut header = fields::take(bytes, 48)?;
        let (version, _key_type) = (fields::u16(&mut header)?, fields::u16(&mut header)?);
        Some(Self { version, tee_type: fields::u32(&mut header)? })
    }
}

/// The type and size of the body of a quote of version 5.
fn body_descriptor(bytes: &mut &[u8]) -> Option<(u16, u32)> {
    Some((fields::u16(bytes)?, fields::u32(bytes)?))
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A quote of this version, with a body of this type in version 5. Each register is filled with its offset in the
    /// report, in units of 8 bytes.
    fn quote(version: u16, body_type: u16) -> Vec<u8> {
        let mut header = [0; 48];
        header[..2].copy_from_slice(&version.to_le_bytes());
        header[4] = 0x81;
        let size: u32 = match (version, body_type) {
            (5, 3) => 648,
            (5, 4) => 885,
            _ => 584,
        };
        let descriptor = [&body_type.to_le_bytes()[..], &size.to_le_bytes()].concat();
        let descriptor = if version == 5 { &descriptor[..] } else { &[] };
        let body: Vec<u8> = (0..size).map(|at| (at / 8) as u8).collect();
        [&header[..], descriptor, &body, &3u32.to_le_bytes(), b"sig"].concat()
    }

    const QUOTES: [(u16, u16); 4] = [(4, 0), (5, 2), (5, 3), (5, 4)];

    #[test]
    fn registers_are_at_the_offsets_of_the_report() {
        for (version, body_type) in QUOTES {
            let quote = quote(version, body_type);
            let report = TdReport::read(&quote).unwrap();
            for (register, offset) in [
                (Register::Attributes, 120),
                (Register::Mrtd, 136),
                (Register::MrOwnerConfig, 280),
                (Register::Rtmr0, 328),
                (Register::Rtmr3, 472),
            ] {
                let value = report.register(register);
                assert_eq!((value[0], value.len()), ((offset / 8) as u8, register.size()));
            }
        }
    }

    #[test]
    fn a_padded_quote_is_read_and_a_truncated_one_is_not() {
        for (version, body_type) in QUOTES {
            let mut quote = quote(version, body_type);
            for length in 0..quote.len() {
                let error = TdReport::read(&quote[..length]).unwrap_err();
                assert!(error.starts_with("it ends within the "), "{length} {error}");
            }
            quote.extend([0; 100]);
            TdReport::read(&quote).unwrap();
        }
    }

    #[test]
    fn other_quotes_are_refused() {
        let message = |at: usize, byte: u8, version| {
            let mut quote = quote(version, 3);
            quote[at] = byte;
            TdReport::read(&quote).unwrap_err()
        };
        assert_eq!(message(0, 3, 4), "it is that of an SGX enclave");
        assert_eq!(message(0, 6, 4), "its version is 6, expected 4 or 5");
        assert_eq!(message(4, 0, 4), "it is that of an SGX enclave");
        assert_eq!(message(4, 1, 4), "its TEE type 0x1 is unknown");
        assert_eq!(message(48, 1, 5), "its body type 1 of 648 bytes is unknown");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_parse_panic(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..900),
            version in 3u16..7,
            body_type in 1u16..6,
            changes in proptest::collection::vec((0usize..800, proptest::num::u8::ANY), 0..8),
        ) {
            let _ = TdReport::read(&bytes);
            let mut quote = quote(version, body_type);
            for (at, byte) in changes {
                if let Some(place) = quote.get_mut(at) {
                    *place = byte;
                }
            }
            if let Ok(report) = TdReport::read(&quote) {
                for register in Register::ALL {
                    assert_eq!(report.register(register).len(), register.size());
                }
            }
        }
    }
}
