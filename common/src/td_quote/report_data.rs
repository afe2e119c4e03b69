//! The report data of a quote: a nonce, in hexadecimal digits.

use std::str::FromStr;

use crate::text::from_hex;

/// The size of report data. Unit: bytes.
///
/// Source: Intel TDX Module ABI Specification, REPORTMACSTRUCT, field REPORTDATA.
const SIZE: usize = 64;

/// The report data that a quote must contain: a nonce, padded with zero bytes at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportData(pub [u8; SIZE]);

impl FromStr for ReportData {
    type Err = String;

    /// Reads a nonce of 1 to 64 bytes in hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, String> {
        if !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err("expected hexadecimal digits only".to_owned());
        }
        let nonce = from_hex(text).filter(|nonce| (1..=SIZE).contains(&nonce.len()));
        let nonce = nonce.ok_or_else(|| {
            format!(
                "expected 1 to {SIZE} bytes, two hexadecimal digits each; found {} digits",
                text.len()
            )
        })?;
        let mut data = [0; SIZE];
        data[..nonce.len()].copy_from_slice(&nonce);
        Ok(Self(data))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::hex;

    #[test]
    fn a_nonce_is_padded_with_zero_bytes_at_its_end() {
        let data: ReportData = "0aFf".parse().unwrap();
        assert_eq!(data.0[..3], [0x0a, 0xff, 0]);
        assert_eq!(data.0[2..], [0; 62]);
    }

    #[test]
    fn a_nonce_of_another_size_or_with_other_characters_is_refused() {
        let longest = "ab".repeat(64);
        assert_eq!(longest.parse::<ReportData>().unwrap().0, [0xab; 64]);
        for text in ["", "a", "abc", "0x12", "zz", " 12", "1é", &format!("{longest}00")] {
            text.parse::<ReportData>().unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn hexadecimal_digits_of_any_bytes_are_read_back(
            bytes in proptest::collection::vec(any::<u8>(), 1..=64),
        ) {
            let data: ReportData = hex(&bytes).parse().unwrap();
            prop_assert_eq!(&data.0[..bytes.len()], &bytes);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,140}") {
            let _ = text.parse::<ReportData>();
        }
    }
}
