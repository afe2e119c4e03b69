//! The trusted computing base (TCB) of the platform that made a quote, by dcap-qvl.

use common::Code;
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{QuotePolicy, TcbStatus};
use rustls_pki_types::CertificateDer;

use crate::quote::verification::collateral::Collateral;
use crate::quote::verification::failure::Failure;
use crate::quote::verification::pck::{Platform, Signed};
use crate::time::Time;

/// The state of the platform's TCB: of its firmware, TDX module and quoting enclave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcb {
    /// The status of the level that the platform has.
    pub status: TcbStatus,
    /// The date of that level: the oldest of the dates of the platform, of the TDX module and of the quoting enclave.
    pub date: Time,
    /// The identifiers of Intel's security advisories that concern the level, sorted.
    pub advisories: Vec<String>,
    /// The end of the time in which all collateral and certificates are valid.
    pub valid_until: Time,
}

/// Verifies a quote with dcap-qvl, which makes all checks again. Returns the state of the platform.
///
/// Attributes that a policy may accept are no matter here.
pub(super) fn verify(
    quote: &[u8],
    collateral: &Collateral,
    root: &CertificateDer<'_>,
    at: Time,
) -> Result<Tcb, String> {
    let verifier = QuoteVerifier::new(root.to_vec()).allow_debug(true).allow_service_td(true);
    let any = QuotePolicy::claims_only(at.0);
    let claims = verifier
        .verify_with_policy(quote, collateral.parts(), at.0, &any)
        .map_err(|error| format!("the quote cannot be verified with this collateral: {error:#}"))?;
    let platform = &claims.platform;
    let current = platform.current_tcb_level.as_ref();
    let levels = [Some(&platform.tcb_level), current];
    let dates = levels.iter().flatten().map(|level| &level.tcb_date);
    let dates: Option<Vec<Time>> =
        dates.chain([&claims.qe.tcb_level.tcb_date]).map(|date| Time::from_rfc3339(date)).collect();
    let date = dates.and_then(|dates| dates.into_iter().min());
    let mut advisories = claims.tcb.advisory_ids.clone();
    advisories.extend(current.into_iter().flat_map(|level| level.advisory_ids.clone()));
    advisories.sort();
    advisories.dedup();
    Ok(Tcb {
        status: claims.tcb.status,
        date: date.ok_or("a TCB level of the collateral has no valid date")?,
        advisories,
        valid_until: Time(claims.earliest_expiration_date),
    })
}

/// The failure of [`verify`]. It has a code if the platform is older than every TCB level that Intel describes.
pub(super) fn failure(
    message: String,
    signed: &Signed<'_>,
    platform: &Platform,
    collateral: &Collateral,
) -> Failure {
    let report = signed.report();
    let launch = report.as_td10().map(|report| &report.tee_tcb_svn);
    let current = report.as_td15().map(|report| &report.tee_tcb_svn2);
    let is_older = |svn| collateral.is_older_than_every_level(platform, svn);
    match launch.into_iter().chain(current).any(is_older) {
        true => Failure::of(
            Code::TcbOutOfDate,
            format!("the platform is older than every TCB level of the collateral; {message}"),
        ),
        false => message.into(),
    }
}
