//! The verification of a quote, check by check.

use common::Result;
use rustls_pki_types::CertificateDer;

use crate::quote::verification::collateral::Collateral;
use crate::quote::verification::failure::Failure;
use crate::quote::verification::pck::{self, Platform, Signed};
use crate::quote::verification::qe_identity;
use crate::quote::verification::tcb::{self, Tcb};
use crate::time::Time;

/// The certificate "Intel SGX Root CA", the only root of the chains of real quotes.
///
/// Its SHA-256 fingerprint is 44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3.
/// Source: <https://certificates.trustedservices.intel.com/IntelSGXRootCA.der> and the certificate in dcap-qvl.
const INTEL_ROOT: &[u8] = include_bytes!("intel_root.der");

/// Verifies quotes against a root certificate.
#[derive(Debug)]
pub struct Verifier {
    root: CertificateDer<'static>,
}

/// The results of the checks. None is a check that was not made: without collateral, or because another check failed that
/// it depends on.
#[derive(Debug)]
pub struct Verification {
    /// Whether the attestation key in the quote signed the quote.
    pub signature: Result<(), Failure>,
    /// Whether Intel's root certificate vouches for that key; and the platform that made the quote.
    pub chain: Result<Platform, Failure>,
    /// Whether Intel signed the collateral, and whether it is valid at the time.
    pub collateral: Option<Result<(), Failure>>,
    /// Whether no certificate is revoked.
    pub revocation: Option<Result<(), Failure>>,
    /// Whether the collateral is about platforms such as the one that made the quote.
    pub fmspc: Option<Result<(), Failure>>,
    /// Whether the enclave that signed the quote is Intel's.
    pub qe_identity: Option<Result<(), Failure>>,
    /// The state of the platform by dcap-qvl, or the reason why dcap-qvl refuses the quote.
    pub tcb: Option<Result<Tcb, Failure>>,
}

impl Verifier {
    /// A verifier with Intel's root certificate.
    pub fn intel() -> Self {
        Self { root: CertificateDer::from_slice(INTEL_ROOT) }
    }

    /// A verifier with a root certificate of a test.
    #[cfg(test)]
    pub(crate) fn with_root(root: CertificateDer<'static>) -> Self {
        Self { root }
    }

    /// Verifies the bytes of a quote at a time. Bytes after the quote are ignored. Without collateral, only the signature and the chain are checked.
    ///
    /// Errors: `invalid_input` for a quote whose signature data cannot be parsed.
    pub fn verify(
        &self,
        quote: &[u8],
        collateral: Option<&Collateral>,
        at: Time,
    ) -> Result<Verification> {
        let signed = Signed::parse(quote)?;
        let given = collateral.and_then(|given| given.parts().pck_certificate_chain.as_deref());
        let pck = signed.pck(given);
        let chain = signed.check_chain(pck.as_ref(), &self.root, at);
        let platform = pck.as_ref().map_err(Clone::clone).and_then(pck::platform);
        let mut verification = Verification {
            signature: signed.check_signature(),
            chain: chain.and(platform),
            collateral: None,
            revocation: None,
            fmspc: None,
            qe_identity: None,
            tcb: None,
        };
        let Some(collateral) = collateral else { return Ok(verification) };
        verification.collateral = Some(collateral.check(&self.root, at));
        if let (Ok(platform), Ok(pck)) = (&verification.chain, &pck) {
            verification.fmspc = Some(check_fmspc(platform, collateral));
            verification.revocation = Some(collateral.check_revocation(pck, &self.root, at));
        }
        if matches!(verification.collateral, Some(Ok(()))) {
            let identity = collateral.qe_identity();
            verification.qe_identity = Some(qe_identity::check(signed.qe_report(), identity));
        }
        if let (Ok(platform), true) = (&verification.chain, verification.holds()) {
            let tcb = tcb::verify(quote, collateral, &self.root, at);
            let failure = |message| tcb::failure(message, &signed, platform, collateral);
            verification.tcb = Some(tcb.map_err(failure));
        }
        Ok(verification)
    }
}

impl Verification {
    /// Whether all checks before that of the TCB were made and passed.
    fn holds(&self) -> bool {
        let others = [&self.collateral, &self.revocation, &self.fmspc, &self.qe_identity];
        self.signature.is_ok()
            && self.chain.is_ok()
            && others.iter().all(|result| matches!(result, Some(Ok(()))))
    }
}

fn check_fmspc(platform: &Platform, collateral: &Collateral) -> Result<(), Failure> {
    match platform.fmspc == collateral.fmspc() {
        true => Ok(()),
        false => Err("the collateral is about platforms of another family (FMSPC)".into()),
    }
}
