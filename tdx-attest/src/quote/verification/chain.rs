//! Certificate chains, up to a root certificate, and signatures by their keys.

use std::time::Duration;

use common::Code;
use dcap_qvl::verify::rustcrypto;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use crate::quote::verification::failure::Failure;
use crate::time::Time;

/// The most certificates of a chain: the time to find a path grows fast with their number, and Intel's chains have
/// three. It is the limit of dcap-qvl.
const LONGEST: usize = 5;

/// A certificate chain, the certified key's certificate first.
#[derive(Debug)]
pub(super) struct Chain {
    /// The chain's name in messages, such as `the certificate chain of the PCK`.
    pub(super) name: &'static str,
    pub(super) certificates: Vec<CertificateDer<'static>>,
}

impl Chain {
    /// Reads a chain in PEM. Bytes around the certificates are ignored.
    pub(super) fn read(name: &'static str, pem: &[u8]) -> Result<Self, Failure> {
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(pem).take(LONGEST + 1).collect();
        match certificates {
            Ok(certificates) if certificates.is_empty() => {
                Err(format!("{name} contains no certificate").into())
            }
            Ok(certificates) if certificates.len() > LONGEST => {
                Err(format!("{name} contains more than {LONGEST} certificates").into())
            }
            Ok(certificates) => Ok(Self { name, certificates }),
            Err(error) => Err(format!("{name} is not PEM: {error}").into()),
        }
    }

    /// Checks that the chain leads to the root certificate, and that its certificates are valid at a time. With
    /// revocation lists, also checks that each list is valid at that time and revokes none of the certificates.
    pub(super) fn check(
        &self,
        root: &CertificateDer<'_>,
        at: Time,
        lists: Option<&[CertRevocationList<'_>; 2]>,
    ) -> Result<(), Failure> {
        let lists = lists.map(|lists| lists.iter().collect::<Vec<_>>());
        let options = lists.as_ref().map(|lists| {
            RevocationOptionsBuilder::new(lists).map(|options| {
                options
                    .with_depth(RevocationCheckDepth::Chain)
                    .with_status_policy(UnknownStatusPolicy::Deny)
                    .with_expiration_policy(ExpirationPolicy::Enforce)
                    .build()
            })
        });
        let options = options
            .transpose()
            .map_err(|_| Failure::from("the collateral contains no revocation lists"))?;
        let (leaf, others) = self.split()?;
        let anchors: [TrustAnchor<'_>; 1] =
            [webpki::anchor_from_trusted_cert(root).map_err(|error| self.failure(&error))?];
        let algorithm = rustcrypto::backend().sig_algo;
        let usage = KeyUsage::server_auth();
        leaf.verify_for_usage(&[algorithm], &anchors, others, unix(at), usage, options, None)
            .map_err(|error| self.failure(&error))?;
        Ok(())
    }

    /// Whether the first certificate's key made this ECDSA signature, `r` and then `s`, of the bytes.
    pub(super) fn has_signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        let Ok((leaf, _)) = self.split() else { return false };
        let backend = rustcrypto::backend();
        (backend.encode_ecdsa)(signature)
            .is_ok_and(|der| leaf.verify_signature(backend.sig_algo, bytes, &der).is_ok())
    }

    /// The first certificate, and the others.
    fn split(&self) -> Result<(EndEntityCert<'_>, &[CertificateDer<'_>]), Failure> {
        let (leaf, others) = self
            .certificates
            .split_first()
            .ok_or_else(|| Failure::from(format!("{} contains no certificate", self.name)))?;
        let leaf = EndEntityCert::try_from(leaf).map_err(|error| self.failure(&error))?;
        Ok((leaf, others))
    }

    fn failure(&self, error: &webpki::Error) -> Failure {
        failure(self.name, error)
    }
}

/// Checks that the revocation lists do not revoke the root certificate itself.
pub(super) fn check_root(
    root: &CertificateDer<'_>,
    at: Time,
    lists: &[CertRevocationList<'_>; 2],
) -> Result<(), Failure> {
    let algorithm = rustcrypto::backend().sig_algo;
    webpki::check_single_cert_revocation(root, &lists.each_ref(), &[algorithm], unix(at))
        .map_err(|error| failure("the root certificate", &error))
}

fn unix(time: Time) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.0))
}

/// The failure of a check of `name` in words, and its code.
fn failure(name: &str, error: &webpki::Error) -> Failure {
    use webpki::Error as E;
    let time = |time: &UnixTime| Time(time.as_secs());
    let message = match error {
        E::CertExpired { not_after, .. } => {
            let message = format!("{name}: a certificate expired at {}", time(not_after));
            return Failure::of(Code::CollateralExpired, message);
        }
        E::CertNotValidYet { not_before, .. } => {
            let message =
                format!("{name}: a certificate is valid only from {} on", time(not_before));
            return Failure::of(Code::CollateralExpired, message);
        }
        E::CrlExpired { next_update, .. } => {
            let message = format!("{name}: a revocation list expired at {}", time(next_update));
            return Failure::of(Code::CollateralExpired, message);
        }
        E::CertRevoked => format!("{name}: a certificate is revoked"),
        E::UnknownRevocationStatus => {
            format!("{name}: found no revocation list of the issuer of a certificate")
        }
        E::UnknownIssuer => format!("{name} does not lead to the root certificate of Intel"),
        E::InvalidSignatureForPublicKey => {
            format!("{name}: the signature of a certificate is wrong")
        }
        E::InvalidCrlSignatureForPublicKey => {
            format!("{name}: the signature of a revocation list is wrong")
        }
        other => format!("{name} is not valid: {other:?}"),
    };
    message.into()
}
