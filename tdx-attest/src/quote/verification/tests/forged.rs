//! What is forged is refused, and the check that fails names the reason.

use std::sync::LazyLock;

use common::Code;
use common::td_quote::TdReport;
use serde_json::json;

use super::forge::{AT, AUTHORITY, Forge, Forged, PCK, ROOT, SIGNER};
use crate::check::{Check, CheckResult};
use crate::judgement::{self, Demands};
use crate::policy::Policy;
use crate::quote::verification::collateral::{Collateral, Parts};
use crate::quote::verification::verifier::Verifier;
use crate::time::Time;

/// The checks of what is forged, and whether it is accepted.
fn judge(forge: &Forge, at: Time, policy: &str) -> (Vec<Check>, bool) {
    let forged = forge.make();
    let collateral = Collateral::new(forged.parts, "forged").unwrap();
    let verifier = Verifier::with_root(forged.root);
    let verification = verifier.verify(&forged.quote, Some(&collateral), at).unwrap();
    let policy = match policy {
        "" => Policy::default(),
        text => Policy::parse(text, "policy").unwrap(),
    };
    let demands = Demands { policy, ..Demands::default() };
    let checks = judgement::checks(
        TdReport::parse(&forged.quote, "forged").unwrap(),
        &verification,
        &demands,
    );
    let holds = judgement::holds(&checks, true);
    (checks, holds)
}

/// The check of this name.
#[track_caller]
fn check<'a>(checks: &'a [Check], name: &str) -> &'a Check {
    checks.iter().find(|check| check.check == name).unwrap()
}

/// Expects that the only failed check is this one, and returns its code and message.
#[track_caller]
fn failure(forge: &Forge, at: Time, policy: &str, name: &str) -> (Option<Code>, String) {
    let (checks, holds) = judge(forge, at, policy);
    let failed = checks.iter().filter(|check| check.result == CheckResult::Failed);
    let failed: Vec<&Check> = failed.collect();
    assert_eq!(failed.iter().map(|check| check.check).collect::<Vec<_>>(), [name], "{failed:#?}");
    assert!(!holds);
    (failed[0].code, failed[0].message.clone().unwrap())
}

#[test]
fn an_unchanged_forgery_is_accepted_under_its_own_root() {
    for size in [584, 648] {
        let mut forge = Forge::default();
        forge.report.resize(size, 0);
        // The current version of the TDX module, in reports of TDX 1.5.
        if size > 584 {
            forge.report[584] = 3;
        }
        let (checks, holds) = judge(&forge, AT, "");
        assert!(holds, "{checks:#?}");
        assert_eq!(check(&checks, "tcb").found, ["UpToDate"]);
        assert_eq!(check(&checks, "tcb_date").found, ["2025-05-14T00:00:00Z"]);
        assert_eq!(check(&checks, "fmspc").found, ["0A0B0C0D0E0F"]);
        assert_eq!(check(&checks, "collateral").found, ["2026-02-01T00:00:00Z"]);
    }
}

#[test]
fn the_root_of_intel_does_not_vouch_for_a_forgery() {
    let forged = Forge::default().make();
    let collateral = Collateral::new(forged.parts, "forged").unwrap();
    let verification = Verifier::intel().verify(&forged.quote, Some(&collateral), AT).unwrap();
    assert!(verification.signature.is_ok());
    assert_eq!(verification.chain.unwrap_err().code, Some(Code::QuoteSignature));
    assert!(verification.collateral.unwrap().is_err());
    assert!(verification.tcb.is_none());
}

#[test]
fn another_root_of_the_same_name_is_not_trusted() {
    let forge = Forge { trusted: 77, ..Forge::default() };
    let (checks, holds) = judge(&forge, AT, "");
    assert!(!holds);
    for name in ["chain", "collateral"] {
        assert_eq!(check(&checks, name).result, CheckResult::Failed);
    }
    for name in ["revocation", "fmspc", "qe_identity", "tcb"] {
        assert_eq!(check(&checks, name).result, CheckResult::NotChecked);
    }
}

#[test]
fn a_revoked_certificate_is_refused_wherever_it_is_in_a_chain() {
    for (serial, says) in [
        (PCK, "the certificate chain of the platform: a certificate is revoked"),
        (AUTHORITY, "the certificate chain of the platform: a certificate is revoked"),
        (SIGNER, "the certificate chain of the TCB info: a certificate is revoked"),
        (ROOT, "the root certificate: a certificate is revoked"),
    ] {
        let forge = Forge { revoked: vec![serial], ..Forge::default() };
        assert_eq!(failure(&forge, AT, "", "revocation"), (None, says.to_owned()));
    }
    let forge = Forge { revoked: vec![100], ..Forge::default() };
    assert!(judge(&forge, AT, "").1, "another serial number is revoked");
}

#[test]
fn a_quoting_enclave_of_another_identity_is_refused() {
    for (at, byte, says) in [
        (130, 0, "another signer (MRSIGNER)"),
        (256, 3, "another product number (ISVPRODID)"),
        (16, 1, "another selection of saved state (MISCSELECT)"),
        (48, 0x01, "another set of attributes (ATTRIBUTES)"),
        (48, 0x13, "another set of attributes (ATTRIBUTES)"),
    ] {
        let mut forge = Forge::default();
        forge.qe_report[at] = byte;
        let (_, message) = failure(&forge, AT, "", "qe_identity");
        assert_eq!(message, format!("the quoting enclave has {says}"));
    }
    // Bits outside the mask do not count.
    let mut forge = Forge::default();
    forge.qe_report[60] = 1;
    assert!(judge(&forge, AT, "").1);
    let mut forge = Forge::default();
    forge.qe_identity["id"] = json!("QE");
    assert!(failure(&forge, AT, "", "qe_identity").1.contains("\"QE\", not of TD_QE"));
}

#[test]
fn a_quoting_enclave_in_debug_mode_is_refused_even_if_the_mask_omits_the_bit() {
    let mut forge = Forge::default();
    forge.qe_report[48] = 0x13;
    forge.qe_identity["attributesMask"] = json!("00".repeat(16));
    assert_eq!(failure(&forge, AT, "", "qe_identity").1, "the quoting enclave is in debug mode");
}

#[test]
fn a_quoting_enclave_whose_report_the_platform_did_not_sign_is_refused() {
    let forge = Forge { qe_signer: 50, ..Forge::default() };
    let (checks, holds) = judge(&forge, AT, "");
    assert!(!holds);
    assert_eq!(check(&checks, "chain").code, Some(Code::QuoteSignature));
    assert_eq!(check(&checks, "tcb").result, CheckResult::NotChecked);
}

#[test]
fn collateral_of_another_family_of_platforms_is_refused() {
    let mut forge = Forge::default();
    forge.tcb_info["fmspc"] = json!("0A0B0C0D0E00");
    let (_, message) = failure(&forge, AT, "", "fmspc");
    assert!(message.contains("another family (FMSPC)"), "{message}");
}

#[test]
fn collateral_that_intel_did_not_sign_is_refused() {
    let forge = Forge { statement_signer: PCK, ..Forge::default() };
    let (_, message) = failure(&forge, AT, "", "collateral");
    assert_eq!(message, "the signature of the TCB info of the collateral is wrong");
}

#[test]
fn collateral_outside_its_time_is_refused() {
    let expired = Some(Code::CollateralExpired);
    for at in ["2025-12-31T23:59:59Z", "2026-02-01T00:00:01Z"] {
        let (checks, holds) = judge(&Forge::default(), at.parse().unwrap(), "");
        assert!(!holds);
        assert_eq!(check(&checks, "collateral").code, expired, "{at}");
    }
    let forge = Forge { lists_until: (2026, 1, 10), ..Forge::default() };
    let (code, message) = failure(&forge, AT, "", "revocation");
    assert_eq!(code, expired);
    assert!(message.ends_with("a revocation list expired at 2026-01-10T00:00:00Z"), "{message}");
    let forge = Forge { pck_until: (2026, 1, 10), ..Forge::default() };
    let (checks, holds) = judge(&forge, AT, "");
    assert!(!holds);
    assert_eq!(check(&checks, "chain").code, expired);
}

#[test]
fn a_trust_domain_in_debug_mode_is_refused_unless_the_policy_accepts_it() {
    for (bits, mode) in [(1, "debug"), (1 << 5, "profiling")] {
        let mut forge = Forge::default();
        forge.report[120] = bits;
        let says = (Some(Code::TdDebug), format!("the trust domain is in {mode} mode"));
        assert_eq!(failure(&forge, AT, "", "attributes"), says);
        let value = format!("{bits:02x}00000000000000");
        let accepts = format!("attributes: {{mask: '{value}', value: '{value}'}}");
        assert!(judge(&forge, AT, &accepts).1);
        let refuses = format!("attributes: {{mask: '{value}', value: '{}'}}", "00".repeat(8));
        failure(&forge, AT, &refuses, "attributes");
    }
}

#[test]
fn attributes_that_no_policy_accepts_are_refused() {
    for (at, byte) in [(123, 0x30), (123, 0x00), (121, 0x01)] {
        let mut forge = Forge::default();
        forge.report[at] = byte;
        let any = format!("attributes: {{mask: '{0}', value: '{0}'}}", "00".repeat(8));
        let (_, holds) = judge(&forge, AT, &any);
        assert!(!holds, "byte {at} {byte:#x}");
    }
    // MRSERVICETD, and the attribute SERVTD_EXT.
    for at in [600, 122] {
        let mut forge = Forge::default();
        forge.report.resize(648, 0);
        forge.report[584] = 3;
        forge.report[at] = 2;
        let (_, message) = failure(&forge, AT, "", "attributes");
        assert_eq!(message, "a service trust domain is bound to the trust domain");
    }
}

#[test]
fn a_policy_decides_which_state_of_the_platform_is_accepted() {
    let mut forge = Forge::default();
    forge.report[0] = 2;
    let old = Some(Code::TcbOutOfDate);
    assert_eq!(failure(&forge, AT, "", "tcb").0, old);
    let accepts = "accept_status: [UpToDate, OutOfDate]\n";
    assert!(judge(&forge, AT, accepts).1);
    let policy = format!("{accepts}min_tcb_date: 2024-03-13");
    assert!(judge(&forge, AT, &policy).1);
    let policy = format!("{accepts}min_tcb_date: 2024-03-14");
    assert_eq!(failure(&forge, AT, &policy, "tcb_date").0, old);
    let policy = format!("{accepts}accept_advisories: [INTEL-SA-00001]");
    assert!(judge(&forge, AT, &policy).1);
    let policy = format!("{accepts}accept_advisories: [INTEL-SA-00002]");
    assert!(failure(&forge, AT, &policy, "advisories").1.contains("INTEL-SA-00001"));
    // Older than every level of the TCB info.
    forge.report[0] = 1;
    let (code, message) = failure(&forge, AT, accepts, "tcb");
    assert_eq!(code, old);
    assert!(message.starts_with("the platform is older than every TCB level"), "{message}");
}

#[test]
fn revoked_platforms_are_refused() {
    let mut forge = Forge::default();
    forge.tcb_info["tcbLevels"][0]["tcbStatus"] = json!("Revoked");
    let (code, message) = failure(&forge, AT, "", "tcb");
    assert_eq!(code, None);
    assert!(
        message.starts_with("the quote cannot be verified with this collateral: "),
        "{message}"
    );
}

#[test]
fn an_old_quoting_enclave_makes_the_tcb_out_of_date() {
    let mut forge = Forge::default();
    forge.qe_identity["tcbLevels"][0]["tcbStatus"] = json!("OutOfDate");
    forge.qe_identity["tcbLevels"][0]["tcbDate"] = json!("2023-01-01T00:00:00Z");
    assert_eq!(failure(&forge, AT, "", "tcb").0, Some(Code::TcbOutOfDate));
    let (checks, _) = judge(&forge, AT, "accept_status: [OutOfDate]");
    assert_eq!(check(&checks, "tcb_date").found, ["2023-01-01T00:00:00Z"]);
}

#[test]
fn malformed_collateral_is_invalid_input() {
    let change = |change: fn(&mut Parts)| {
        let mut parts = Forge::default().make().parts;
        change(&mut parts);
        Collateral::new(parts, "c.json").unwrap_err().message().to_owned()
    };
    assert!(change(|parts| parts.tcb_info.truncate(10)).contains("the TCB info in"));
    assert!(
        change(|parts| parts.qe_identity.clear())
            .contains("the identity of the quoting enclave in")
    );
    assert!(
        change(|parts| parts.pck_crl.truncate(20)).contains("list of the platforms' authority in")
    );
    assert!(change(|parts| parts.root_ca_crl.clear()).contains("list of the root authority in"));
}

proptest::proptest! {
    #[test]
    fn no_collateral_and_no_quote_make_the_verifier_panic(
        changes in proptest::collection::vec((0usize..8, 0usize..9000, proptest::num::u8::ANY), 0..6),
        cut in 0usize..12000,
    ) {
        static FORGED: LazyLock<Forged> = LazyLock::new(|| Forge::default().make());
        let (mut quote, mut parts) = (FORGED.quote.clone(), FORGED.parts.clone());
        for (part, at, byte) in changes {
            let bytes = match part {
                0 => &mut parts.root_ca_crl,
                1 => &mut parts.pck_crl,
                2 => &mut parts.tcb_info_signature,
                3 => &mut parts.qe_identity_signature,
                _ => &mut quote,
            };
            let at = at % bytes.len().max(1);
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        quote.truncate(cut);
        let verifier = Verifier::with_root(FORGED.root.clone());
        if let Ok(collateral) = Collateral::new(parts, "forged") {
            let _ = verifier.verify(&quote, Some(&collateral), AT);
        }
    }
}
