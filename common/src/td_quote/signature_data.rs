//! The signature data of a quote: whether all its parts are there.

use crate::fields;

/// The type of certification data that contains the report of the quoting enclave.
const QE_REPORT: u16 = 6;

/// Checks that the signature data of a quote consists of its parts, each complete, and of nothing else.
///
/// Errors: the reason, for data that ends early or late, and for certification data of another type.
/// Source: Intel DCAP, `sgx_ecdsa_sig_data_v4_t`, `sgx_ql_certification_data_t` and
/// `sgx_qe_report_certification_data_t`.
pub(super) fn check(mut data: &[u8]) -> Result<(), String> {
    let cut = |part: &str| format!("its signature data ends within the {part}");
    let data = &mut data;
    fields::take(data, 64).ok_or_else(|| cut("signature"))?;
    fields::take(data, 64).ok_or_else(|| cut("attestation key"))?;
    let (kind, mut certification) =
        certification_data(data).ok_or_else(|| cut("certification data"))?;
    if kind != QE_REPORT {
        return Err(format!("its certification data has type {kind}, expected {QE_REPORT}"));
    }
    let rest = &mut certification;
    fields::take(rest, 384 + 64).ok_or_else(|| cut("report of the quoting enclave"))?;
    let authentication = fields::u16(rest).and_then(|size| fields::take(rest, size.into()));
    authentication.ok_or_else(|| cut("authentication data of the quoting enclave"))?;
    certification_data(rest).ok_or_else(|| cut("certificates"))?;
    match data.len() + rest.len() {
        0 => Ok(()),
        count => Err(format!("its signature data has {count} bytes after its last part")),
    }
}

/// Takes certification data: its type, and its bytes.
fn certification_data<'a>(bytes: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    Some((fields::u16(bytes)?, fields::sized(bytes)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::td_quote::sample::{SIGNATURE_DATA, signature_data};

    #[test]
    fn each_part_that_is_cut_off_is_named() {
        let whole = signature_data();
        assert_eq!(whole.len(), SIGNATURE_DATA);
        assert_eq!(check(&whole), Ok(()));
        for (length, part) in [
            (63, "signature"),
            (127, "attestation key"),
            (130, "certification data"),
            (whole.len() - 1, "certification data"),
        ] {
            let message = format!("its signature data ends within the {part}");
            assert_eq!(check(&whole[..length]), Err(message), "{length}");
        }
        // The size of the certification data is that of what remains.
        for (length, part) in [
            (581, "report of the quoting enclave"),
            (583, "authentication data of the quoting enclave"),
            (615, "authentication data of the quoting enclave"),
            (whole.len() - 1, "certificates"),
        ] {
            let mut data = whole[..length].to_vec();
            data[130..134].copy_from_slice(&(length as u32 - 134).to_le_bytes());
            let message = format!("its signature data ends within the {part}");
            assert_eq!(check(&data), Err(message), "{length}");
        }
    }

    #[test]
    fn other_certification_data_and_bytes_after_the_last_part_are_refused() {
        let mut data = signature_data();
        data.push(0);
        let message = "its signature data has 1 bytes after its last part";
        assert_eq!(check(&data), Err(message.to_owned()));
        data[128] = 5;
        let message = "its certification data has type 5, expected 6";
        assert_eq!(check(&data), Err(message.to_owned()));
    }
}
