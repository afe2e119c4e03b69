//! Collateral: what Intel states about the platforms of a family, with certificates and revocation lists.

use std::path::Path;

use common::document::input;
use common::{Code, Error, Result};
use dcap_qvl::{QeIdentity, TcbInfo};
use rustls_pki_types::CertificateDer;
use webpki::{CertRevocationList, OwnedCertRevocationList};

use crate::quote::verification::chain::{self, Chain};
use crate::quote::verification::failure::Failure;
use crate::quote::verification::pck::Platform;
use crate::time::Time;

/// The parts of collateral as they stand in a file: the form of dcap-qvl.
///
/// Chains are in PEM, the certified key's certificate first. Revocation lists are in DER. Signatures are `r` and `s`,
/// 32 bytes each. In JSON, bytes are hexadecimal digits.
pub use dcap_qvl::QuoteCollateralV3 as Parts;

/// The most that is read of a file with collateral, which has about 25 kB. Unit: bytes.
const LIMIT: usize = 16 << 20;

/// Collateral whose parts are well-formed. Nothing is verified.
#[derive(Debug)]
pub struct Collateral {
    parts: Parts,
    tcb_info: TcbInfo,
    qe_identity: QeIdentity,
    /// The revocation lists of the root certificate's authority, and of the platforms' authority.
    lists: [CertRevocationList<'static>; 2],
}

/// A text that Intel signed, and that is valid for a time.
struct Statement<'a> {
    name: &'static str,
    text: &'a str,
    signature: &'a [u8],
    chain: &'a str,
    chain_name: &'static str,
    issued: &'a str,
    next_update: &'a str,
}

impl Collateral {
    /// Reads collateral from a file, as `tdx-attest collateral` writes it.
    ///
    /// Errors: those of [`input::file`]; `invalid_input` for a file that is no collateral.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let parts = serde_json::from_slice(&input::file(path, LIMIT)?).map_err(|error| {
            Error::invalid_input(format!("{name} is not collateral in JSON"))
                .because(error)
                .hint("run tdx-attest collateral QUOTE --pccs URL >FILE to write collateral")
        })?;
        Self::new(parts, &name)
    }

    /// Collateral of these parts. `source` names the file or server in messages.
    ///
    /// Errors: `invalid_input` for a part that is malformed.
    pub fn new(parts: Parts, source: &str) -> Result<Self> {
        let invalid = |part: &str| {
            Error::invalid_input(format!("the {part} in the collateral of {source} is malformed"))
        };
        let tcb_info = serde_json::from_str(&parts.tcb_info)
            .map_err(|error| invalid("TCB info").because(error))?;
        let qe_identity = serde_json::from_str(&parts.qe_identity)
            .map_err(|error| invalid("identity of the quoting enclave").because(error))?;
        let list = |der: &[u8], part| match OwnedCertRevocationList::from_der(der) {
            Ok(list) => Ok(CertRevocationList::from(list)),
            Err(error) => Err(invalid(part).because(error.to_string())),
        };
        let lists = [
            list(&parts.root_ca_crl, "revocation list of the root authority")?,
            list(&parts.pck_crl, "revocation list of the platforms' authority")?,
        ];
        Ok(Self { parts, tcb_info, qe_identity, lists })
    }

    /// The collateral as the text of a file.
    pub fn to_json(&self) -> String {
        // Serialising a struct of text and bytes cannot fail.
        serde_json::to_string(&self.parts).unwrap_or_default() + "\n"
    }

    /// The identifier of the family of platforms (FMSPC) that the collateral is of. Unit: hexadecimal digits.
    pub fn fmspc(&self) -> String {
        self.tcb_info.fmspc.to_uppercase()
    }

    /// Whether the platform, with this version of the TDX module, has reached no TCB level that Intel describes.
    pub(super) fn is_older_than_every_level(&self, platform: &Platform, module: &[u8; 16]) -> bool {
        self.tcb_info.tcb_levels.iter().all(|level| {
            level
                .shortfalls(&platform.cpu_svn, platform.pce_svn, Some(module))
                .is_ok_and(|shortfalls| !shortfalls.is_empty())
        })
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.parts
    }

    pub(super) fn qe_identity(&self) -> &QeIdentity {
        &self.qe_identity
    }

    /// Checks that Intel signed the statements, and that they are valid at a time.
    pub(super) fn check(&self, root: &CertificateDer<'_>, at: Time) -> Result<(), Failure> {
        self.statements().iter().try_for_each(|statement| statement.check(root, at))
    }

    /// Checks that no certificate is revoked: those of the platform's chain, those of the chains in the collateral, and
    /// the root certificate. Also checks that the revocation lists are valid at a time.
    pub(super) fn check_revocation(
        &self,
        pck: &Chain,
        root: &CertificateDer<'_>,
        at: Time,
    ) -> Result<(), Failure> {
        chain::check_root(root, at, &self.lists)?;
        pck.check(root, at, Some(&self.lists))?;
        let statements = self.statements();
        let mut chains = statements.iter().map(|statement| statement.chain());
        chains.try_for_each(|chain| chain?.check(root, at, Some(&self.lists)))
    }

    fn statements(&self) -> [Statement<'_>; 2] {
        let (parts, tcb_info, qe_identity) = (&self.parts, &self.tcb_info, &self.qe_identity);
        [
            Statement {
                name: "the TCB info of the collateral",
                text: &parts.tcb_info,
                signature: &parts.tcb_info_signature,
                chain: &parts.tcb_info_issuer_chain,
                chain_name: "the certificate chain of the TCB info",
                issued: &tcb_info.issue_date,
                next_update: &tcb_info.next_update,
            },
            Statement {
                name: "the identity of the quoting enclave in the collateral",
                text: &parts.qe_identity,
                signature: &parts.qe_identity_signature,
                chain: &parts.qe_identity_issuer_chain,
                chain_name: "the certificate chain of the quoting enclave's identity",
                issued: &qe_identity.issue_date,
                next_update: &qe_identity.next_update,
            },
        ]
    }
}

impl Statement<'_> {
    fn chain(&self) -> Result<Chain, Failure> {
        Chain::read(self.chain_name, self.chain.as_bytes())
    }

    fn check(&self, root: &CertificateDer<'_>, at: Time) -> Result<(), Failure> {
        let date = |text: &str| {
            let message = || format!("{} has a date that is not of RFC 3339: {text:?}", self.name);
            Time::from_rfc3339(text).ok_or_else(|| Failure::from(message()))
        };
        let (issued, next_update) = (date(self.issued)?, date(self.next_update)?);
        if at < issued {
            let message = format!("{} is valid only from {issued} on", self.name);
            return Err(Failure::of(Code::CollateralExpired, message));
        }
        if at > next_update {
            let message = format!("{} expired at {next_update}", self.name);
            return Err(Failure::of(Code::CollateralExpired, message));
        }
        let chain = self.chain()?;
        chain.check(root, at, None)?;
        match chain.has_signed(self.text.as_bytes(), self.signature) {
            true => Ok(()),
            false => Err(format!("the signature of {} is wrong", self.name).into()),
        }
    }
}
