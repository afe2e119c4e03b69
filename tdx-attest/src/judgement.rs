//! The judgement of a quote: every check, by what a relying party demands.

use common::td_quote::{ReportData, TdReport};
use common::{Code, text};

use crate::attributes::{DEBUG, MIGRATABLE, PROFILING, SEPT_VE_DISABLE, SERVTD_EXT};
use crate::check::{Check, CheckResult};
use crate::event_log::comparison::{Comparison, ComparisonResult};
use crate::policy::{Masked, Policy};
use crate::prediction::{ExpectedRegister, Prediction};
use crate::quote::verification::TcbStatus;
use crate::quote::verification::failure::Failure;
use crate::quote::verification::tcb::Tcb;
use crate::quote::verification::verifier::Verification;
use crate::register::Register;

/// The name of the check of the event log.
const EVENT_LOG: &str = "event_log";

/// What is demanded of a quote.
#[derive(Debug, Default)]
pub struct Demands {
    /// The policy.
    pub policy: Policy,
    /// The predicted values and events of registers.
    pub prediction: Prediction,
    /// The report data of the command line.
    pub report_data: Option<ReportData>,
}

/// All checks of the quote with this report.
pub fn checks(report: TdReport<'_>, verification: &Verification, demands: &Demands) -> Vec<Check> {
    let mut checks = vec![
        Check::made("signature", verification.signature.clone()),
        Check::made("chain", verification.chain.as_ref().map(|_| ()).map_err(Clone::clone)),
    ];
    checks.extend(collateral_checks(verification));
    checks.extend(tcb_checks(verification, &demands.policy));
    checks.push(xfam(report, demands.policy.xfam));
    checks.push(report_data(report, demands));
    checks.extend(Register::ALL.map(|register| self::register(report, register, demands)));
    checks
}

/// The check whether an event log gives the registers of the quote, and contains the expected events. `comparisons` are
/// those of the log with the quote and the prediction.
pub fn event_log(comparisons: Vec<Comparison<'_>>) -> Check {
    let is_unlogged = comparisons.iter().any(|it| it.result == ComparisonResult::Unlogged);
    let differs = comparisons.into_iter().find(|comparison| {
        comparison.register.is_rtmr() && comparison.result == ComparisonResult::Differs
    });
    if let Some(comparison) = differs {
        let description = comparison.first_difference.map(|found| found.description);
        let message = description.unwrap_or_else(|| format!("{} differs", comparison.register));
        let code = comparison.codes.first().copied();
        return Check::made(EVENT_LOG, Err(Failure { code, message }));
    }
    let check = Check::made(EVENT_LOG, Ok(()));
    if is_unlogged { check.noted(Code::Rtmr3Unlogged) } else { check }
}

/// The check of [`event_log`] if no log was given.
pub fn no_event_log() -> Check {
    Check::not_made(EVENT_LOG, "no event log was given")
}

/// Whether the answer is yes: no check failed, and with collateral the TCB passed.
pub fn holds(checks: &[Check], with_collateral: bool) -> bool {
    let of = |name: &str| checks.iter().find(|check| check.check == name).map(|check| check.result);
    let needed: &[&str] = match with_collateral {
        true => &["signature", "chain", "collateral", "revocation", "fmspc", "qe_identity", "tcb"],
        false => &["signature", "chain"],
    };
    checks.iter().all(|check| check.result != CheckResult::Failed)
        && needed.iter().all(|name| of(name) == Some(CheckResult::Passed))
}

fn collateral_checks(verification: &Verification) -> [Check; 4] {
    let why = why_not_made(verification);
    let check = |name, result: &Option<Result<(), Failure>>| match result {
        Some(result) => Check::made(name, result.clone()),
        None => Check::not_made(name, why),
    };
    let tcb = verification.tcb.as_ref().and_then(|tcb| tcb.as_ref().ok());
    let until = tcb.map(|tcb| tcb.valid_until.to_string());
    let fmspc = verification.chain.as_ref().ok().map(|platform| platform.fmspc.clone());
    [
        check("collateral", &verification.collateral).found(until),
        check("revocation", &verification.revocation),
        check("fmspc", &verification.fmspc).found(fmspc),
        check("qe_identity", &verification.qe_identity),
    ]
}

/// The reason why a check was not made that needs collateral.
fn why_not_made(verification: &Verification) -> &'static str {
    match verification.collateral {
        Some(_) => "not checked, because a check before it failed",
        None => "not checked, because no collateral was given",
    }
}

fn tcb_checks(verification: &Verification, policy: &Policy) -> Vec<Check> {
    let accepted: Vec<String> = policy.statuses().iter().map(ToString::to_string).collect();
    let tcb = match &verification.tcb {
        Some(Ok(tcb)) => tcb,
        other => {
            let why = why_not_made(verification);
            let status = match other {
                Some(Err(failure)) => Check::made("tcb", Err(failure.clone())),
                _ => Check::not_made("tcb", why),
            };
            let others = ["tcb_date", "advisories"].map(|name| Check::not_made(name, why));
            return [status.expected(accepted)].into_iter().chain(others).collect();
        }
    };
    vec![
        Check::made("tcb", tcb_status(tcb, policy))
            .expected(accepted)
            .found([tcb.status.to_string()]),
        tcb_date(tcb, policy),
        advisories(tcb, policy),
    ]
}

fn tcb_status(tcb: &Tcb, policy: &Policy) -> Result<(), Failure> {
    if policy.statuses().contains(&tcb.status) {
        return Ok(());
    }
    let is_old =
        matches!(tcb.status, TcbStatus::OutOfDate | TcbStatus::OutOfDateConfigurationNeeded);
    Err(Failure {
        code: is_old.then_some(Code::TcbOutOfDate),
        message: format!("the policy does not accept a TCB with status {}", tcb.status),
    })
}

fn tcb_date(tcb: &Tcb, policy: &Policy) -> Check {
    let check = match policy.min_tcb_date {
        None => Check::not_made("tcb_date", "the policy sets no min_tcb_date"),
        Some(min) if tcb.date >= min => Check::made("tcb_date", Ok(())),
        Some(min) => {
            let message =
                format!("the TCB level has the date {}, expected {min} or later", tcb.date);
            Check::made("tcb_date", Err(Failure::of(Code::TcbOutOfDate, message)))
        }
    };
    check.expected(policy.min_tcb_date.map(|min| min.to_string())).found([tcb.date.to_string()])
}

fn advisories(tcb: &Tcb, policy: &Policy) -> Check {
    let check = match &policy.accept_advisories {
        None => Check::not_made("advisories", "the policy sets no accept_advisories"),
        Some(accepted) => {
            let others = tcb.advisories.iter().filter(|id| !accepted.contains(id));
            let others: Vec<&str> = others.map(String::as_str).collect();
            let message = || format!("the policy does not accept {}", others.join(", "));
            let result = others.is_empty().then_some(()).ok_or_else(|| message().into());
            Check::made("advisories", result)
        }
    };
    check.expected(policy.accept_advisories.iter().flatten().cloned()).found(tcb.advisories.clone())
}

/// The rules for attributes that always hold, and those of the policy.
///
/// DEBUG and profiling are refused unless the policy has them in its mask. The other rules are those of Intel's library,
/// which dcap-qvl enforces.
fn attributes(report: TdReport<'_>, policy: &Policy) -> Result<(), Failure> {
    let found = u64::from_le_bytes(*report.attributes);
    let mask = policy.attributes.map_or(0, |masked| masked.mask);
    let has = |bits: u64| found & bits != 0;
    let debug =
        |what: &str| Err(Failure::of(Code::TdDebug, format!("the trust domain is in {what} mode")));
    if has(DEBUG & !mask) {
        return debug("debug");
    }
    if has(PROFILING & !mask) {
        return debug("profiling");
    }
    if has(MIGRATABLE) {
        return Err("the trust domain may be migrated to another host".into());
    }
    if !has(SEPT_VE_DISABLE) {
        return Err("attribute SEPT_VE_DISABLE is not set".into());
    }
    let is_bound = report.service_td.is_some_and(|hash| hash.iter().any(|byte| *byte != 0));
    if has(SERVTD_EXT) || is_bound {
        return Err("a service trust domain is bound to the trust domain".into());
    }
    match policy.attributes {
        Some(masked) if found & masked.mask != masked.value => {
            Err("the attributes are not those of the policy".into())
        }
        _ => Ok(()),
    }
}

fn xfam(report: TdReport<'_>, policy: Option<Masked>) -> Check {
    let found = u64::from_le_bytes(*report.xfam);
    let check = match policy {
        None => Check::not_made("xfam", "the policy sets no xfam"),
        Some(masked) => {
            let differs = found & masked.mask != masked.value;
            let message = "the processor features (XFAM) are not those of the policy";
            Check::made("xfam", if differs { Err(message.into()) } else { Ok(()) })
        }
    };
    check.found([text::hex(report.xfam)])
}

fn report_data(report: TdReport<'_>, demands: &Demands) -> Check {
    let demanded = demands.report_data.iter().chain(&demands.policy.report_data);
    let demanded: Vec<&[u8]> = demanded.map(|data| &data.0[..]).collect();
    let check = match compare(report.report_data, &demanded) {
        Some(true) => Check::made("report_data", Ok(())),
        Some(false) => Check::made("report_data", Err("the report data differs from the expected report data: the quote may be an old one".into())),
        None => Check::not_made("report_data", "no report data was given to compare with"),
    };
    check.expected(demanded.into_iter().map(text::hex)).found([text::hex(report.report_data)])
}

/// Whether all expected values are the value found; none without an expected value.
fn compare(found: &[u8], expected: &[&[u8]]) -> Option<bool> {
    (!expected.is_empty()).then(|| expected.iter().all(|expected| *expected == found))
}

fn register(report: TdReport<'_>, register: Register, demands: &Demands) -> Check {
    let found = register.value_in(&report);
    let predicted = demands.prediction.0.get(&register);
    let policy = &demands.policy;
    let given = policy.registers.get(&register).map(|bytes| bytes.0.as_slice());
    let expected: Vec<&[u8]> =
        demands.prediction.value(register).into_iter().chain(given).collect();
    let name = register.as_str();
    let is_required = policy.required_registers.contains(&register);
    let absent = match predicted {
        Some(_) => "the value was not predicted",
        None => "no value was given to compare with",
    };
    let compared = match compare(found, &expected) {
        Some(true) => Some(Ok(())),
        Some(false) => Some(Err(difference(found, given, predicted))),
        None if is_required => {
            Some(Err(format!("the policy requires {name}, but {absent}").into()))
        }
        None => None,
    };
    let result = match register {
        Register::Attributes => Some(attributes(report, policy).and(compared.unwrap_or(Ok(())))),
        _ => compared,
    };
    let check = match result {
        Some(result) => Check::made(name, result),
        None => Check::not_made(name, absent),
    };
    check.expected(expected.into_iter().map(text::hex)).found([text::hex(found)])
}

/// Why a register has another value than the policy (`given`) or the prediction demands.
fn difference(found: &[u8], given: Option<&[u8]>, predicted: Option<&ExpectedRegister>) -> Failure {
    match predicted.and_then(|predicted| predicted.page_order_mismatch(found)) {
        // The page order does not explain why the value differs from that of the policy.
        Some(message) if given.is_none_or(|given| given == found) => {
            Failure::of(Code::MrtdPageOrder, message)
        }
        _ => "the value differs from the expected value".into(),
    }
}
