//! The certificate of the platform's key (PCK), and what it vouches for: the key that signed a quote.

use common::{Code, Error, Result, text};
use dcap_qvl::intel;
use dcap_qvl::quote::{AuthDataV3, Quote, Report};
use dcap_qvl::verify::rustcrypto;
use rustls_pki_types::CertificateDer;

use crate::quote::verification::chain::Chain;
use crate::quote::verification::failure::Failure;
use crate::time::Time;

/// The type of certification data that is a chain of certificates in PEM.
///
/// Source: Intel TDX DCAP Quoting Library API, "QE Certification Data".
const CHAIN: u16 = 5;

/// The platform that made a quote, by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// The identifier of the platform's family (FMSPC). Unit: 12 hexadecimal digits in upper case.
    pub fmspc: String,
    /// The name of the authority that issued the certificate, as it stands in addresses of a PCCS: `platform` or
    /// `processor`.
    pub authority: &'static str,
    /// The versions of the processor's microcode and of other firmware.
    pub(super) cpu_svn: [u8; 16],
    /// The version of the provisioning certification enclave.
    pub(super) pce_svn: u16,
}

/// The signatures of a quote, and the certificate chain in it.
#[derive(Debug)]
pub(super) struct Signed<'a> {
    /// The bytes that the attestation key signed.
    bytes: &'a [u8],
    report: Report,
    signatures: AuthDataV3,
}

impl<'a> Signed<'a> {
    /// Parses the signatures.
    ///
    /// Errors: `invalid_input` for signatures that cannot be parsed.
    pub(super) fn parse(quote: &'a [u8]) -> Result<Self> {
        let invalid = || Error::invalid_input("the signature data of the quote is malformed");
        let parsed =
            Quote::parse(quote).map_err(|error| invalid().because(error.into_boxed_dyn_error()))?;
        let bytes = quote.get(..parsed.signed_length()).ok_or_else(invalid)?;
        Ok(Self { bytes, report: parsed.report, signatures: parsed.auth_data.into_v3() })
    }

    /// The report of the trust domain.
    pub(super) fn report(&self) -> &Report {
        &self.report
    }

    /// The bytes of the quoting enclave's report.
    pub(super) fn qe_report(&self) -> &[u8; 384] {
        &self.signatures.qe_report
    }

    /// The certificate chain of the platform's key: the given one, or otherwise that in the quote.
    pub(super) fn pck(&self, given: Option<&str>) -> Result<Chain, Failure> {
        let data = &self.signatures.certification_data;
        let pem = match given {
            Some(pem) => pem.as_bytes(),
            None if data.cert_type == CHAIN => &data.body.data,
            None => {
                return Err(format!(
                    "the quote contains certification data of type {}, expected certificates",
                    data.cert_type
                )
                .into());
            }
        };
        Chain::read("the certificate chain of the platform", pem)
    }

    /// Checks that the attestation key in the quote signed the quote.
    pub(super) fn check_signature(&self) -> Result<(), Failure> {
        let backend = rustcrypto::backend();
        // The form of a public key without compression. Source: SEC 1, section 2.3.3.
        let key = [&[4], &self.signatures.ecdsa_attestation_key[..]].concat();
        let is_valid = (backend.encode_ecdsa)(&self.signatures.ecdsa_signature)
            .is_ok_and(|der| backend.sig_algo.verify_signature(&key, self.bytes, &der).is_ok());
        match is_valid {
            true => Ok(()),
            false => Err(Failure::of(
                Code::QuoteSignature,
                "the attestation key in the quote does not verify the signature of the quote",
            )),
        }
    }

    /// Checks that the root certificate vouches for the attestation key: the root certificate for the platform's key,
    /// that key for the report of the quoting enclave, and the report for the attestation key. Revocation lists are not
    /// looked at.
    pub(super) fn check_chain(
        &self,
        pck: Result<&Chain, &Failure>,
        root: &CertificateDer<'_>,
        at: Time,
    ) -> Result<(), Failure> {
        let coded = |failure: Failure| Failure {
            code: failure.code.or(Some(Code::QuoteSignature)),
            ..failure
        };
        let pck = pck.map_err(|failure| coded(failure.clone()))?;
        let signatures = &self.signatures;
        let key = [&signatures.ecdsa_attestation_key[..], &signatures.qe_auth_data.data].concat();
        let digest = (rustcrypto::backend().sha256)(&key);
        // The first half of the report data of the report. Source: the same, "QE Report".
        if self.qe_report()[320..352] != digest {
            let message = "the report of the quoting enclave names a different attestation key";
            return Err(Failure::of(Code::QuoteSignature, message));
        }
        if !pck.has_signed(self.qe_report(), &signatures.qe_report_signature) {
            let message = "the report of the quoting enclave is not signed by the platform's key";
            return Err(Failure::of(Code::QuoteSignature, message));
        }
        pck.check(root, at, None).map_err(coded)
    }
}

/// The platform that a certificate chain is of.
pub(super) fn platform(pck: &Chain) -> Result<Platform, Failure> {
    let invalid =
        |error| Failure::from(format!("{} does not belong to a platform: {error:#}", pck.name));
    let leaf = pck.certificates.first().map(AsRef::as_ref).unwrap_or_default();
    let extension = intel::parse_pck_extension(leaf).map_err(invalid)?;
    let authority = intel::pck_ca(leaf).map_err(invalid)?.as_id_str();
    Ok(Platform {
        fmspc: text::hex(extension.fmspc).to_uppercase(),
        authority,
        cpu_svn: extension.cpu_svn,
        pce_svn: extension.pce_svn,
    })
}

/// The platform that made a quote, by the certificate in the quote. Nothing is verified.
///
/// Errors: `invalid_input` for a quote whose signature data cannot be parsed, and for a quote without the certificate.
pub fn platform_of(quote: &[u8]) -> Result<Platform> {
    let signed = Signed::parse(quote)?;
    let platform = signed.pck(None).and_then(|pck| platform(&pck));
    platform.map_err(|failure| Error::invalid_input(failure.message))
}
