//! The identity of the quoting enclave, which signs quotes: whether its report is that of Intel's enclave.

use dcap_qvl::QeIdentity;

use crate::quote::verification::failure::Failure;

/// Checks that the report of the quoting enclave is of the enclave that Intel describes. Its security version is a part
/// of the TCB and not checked here.
///
/// Source: Intel SGX PCK Certificate and Certificate Revocation List Profile and the API of the Provisioning
/// Certification Service, "Get Quoting Enclave Identity"; Intel SDM volume 3D, "REPORT".
pub(super) fn check(report: &[u8; 384], identity: &QeIdentity) -> Result<(), Failure> {
    let differs = |field: &str| Err(format!("the quoting enclave has another {field}").into());
    if identity.id != "TD_QE" {
        return Err(format!(
            "the identity in the collateral is of {:?}, not of TD_QE",
            identity.id
        )
        .into());
    }
    if report[128..160] != identity.mrsigner {
        return differs("signer (MRSIGNER)");
    }
    if report[256..258] != identity.isvprodid.to_le_bytes() {
        return differs("product number (ISVPRODID)");
    }
    if !matches(&report[16..20], &identity.miscselect, &identity.miscselect_mask) {
        return differs("selection of saved state (MISCSELECT)");
    }
    if !matches(&report[48..64], &identity.attributes, &identity.attributes_mask) {
        return differs("set of attributes (ATTRIBUTES)");
    }
    if report[48] & 2 != 0 {
        return Err("the quoting enclave is in debug mode".into());
    }
    Ok(())
}

/// Whether the bits of the mask are those of the expected bytes.
fn matches(found: &[u8], expected: &[u8], mask: &[u8]) -> bool {
    found
        .iter()
        .zip(expected)
        .zip(mask)
        .all(|((found, expected), mask)| (found ^ expected) & mask == 0)
}
