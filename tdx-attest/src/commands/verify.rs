//! `tdx-attest verify`: verifies a quote, check by check.

use std::path::{Path, PathBuf};

use clap::Args;
use common::cli::Context;
use common::document::Document;
use common::document::input;
use common::document::output::Outcome;
use common::td_quote::{self, ReportData, TdReport};
use common::{Error, Result};

use crate::check::Check;
use crate::event_log::comparison::{self, Reference};
use crate::event_log::log::{self, EventLog};
use crate::event_log::warnings;
use crate::judgement::{self, Demands};
use crate::policy::Policy;
use crate::prediction::Prediction;
use crate::quote::verification::collateral::Collateral;
use crate::quote::verification::verifier::Verifier;
use crate::time::Time;

const EXAMPLES: &str = "Examples:
  tdx-attest verify quote.bin --collateral collateral.json
  tdx-td render -i guest.qcow2 | tdx-attest measure - | tdx-attest verify quote.bin --collateral c.json --expect -
  tdx-attest verify quote.bin --collateral collateral.json --event-log ccel.bin --report-data 0f1e2d
  tdx-attest verify quote.bin --collateral c.json | jq '.items[] | select(.result==\"failed\")'
  tdx-attest verify quote.bin --collateral c.json | jq -r '.items[] | select(.check==\"mrtd\").found[]'

Policy, in YAML; every key is optional:
  accept_status: [UpToDate, SWHardeningNeeded]   # default: UpToDate
  min_tcb_date: 2024-11-13
  accept_advisories: [INTEL-SA-00837]            # default: any
  attributes: {mask: ffffffffffffffff, value: '0000001000000000'}
  xfam: {mask: '0300000000000000', value: '0300000000000000'}
  registers: {mrtd: a7a1…}
  required_registers: [mrtd, rtmr0]
  report_data: 00ff…";

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct VerifyArgs {
    /// The file with the quote; - reads standard input
    #[arg(value_name = "QUOTE")]
    quote: PathBuf,
    /// The file with the collateral: the output of tdx-attest collateral
    #[arg(long, value_name = "FILE", required_unless_present = "no_collateral")]
    collateral: Option<PathBuf>,
    /// Check only the signature and the certificate chain. Whoever controls a genuine platform can forge such a quote:
    /// only collateral tells Intel's quoting enclave from another enclave
    #[arg(long, conflicts_with = "collateral")]
    no_collateral: bool,
    /// Verify as of this time, in RFC 3339 or in seconds since 1970 [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<Time>,
    /// Check that the guest's event log gives RTMR0 to RTMR2 of the quote; - reads standard input
    #[arg(long, value_name = "LOG")]
    event_log: Option<PathBuf>,
    /// Require that the event log gives RTMR3 of the quote. Without this option, a difference is only reported, because
    /// programs of the guest can extend RTMR3 without an entry in the log
    #[arg(long, requires = "event_log")]
    require_rtmr3: bool,
    /// Compare the registers with the values in this output of tdx-attest measure; - reads standard input
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// The file with the policy [default: a TCB with status UpToDate, no debug mode]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Compare the report data with these bytes, such as a nonce; bytes that are not given must be zero
    #[arg(long, value_name = "HEX")]
    report_data: Option<ReportData>,
}

/// Verifies the quote. The answer is yes if everything that was asked holds.
///
/// Errors: `invalid_input` for a file of another form; `usage` for a policy that needs collateral.
pub fn run(_: &Context, args: VerifyArgs) -> Result<Outcome> {
    let paths = [Some(&args.quote), args.event_log.as_ref(), args.expect.as_ref()];
    let is_stdin = |path: &&PathBuf| path.as_path() == Path::new(input::STDIN);
    for (option, path) in [("--collateral", &args.collateral), ("--policy", &args.policy)] {
        if path.as_ref().is_some_and(|path| is_stdin(&path)) {
            return Err(Error::usage(format!("{option} cannot be read from standard input")));
        }
    }
    if paths.into_iter().flatten().filter(is_stdin).count() > 1 {
        return Err(Error::usage("only one argument can be -: standard input is read once"));
    }
    let demands = Demands {
        policy: args.policy.as_deref().map(Policy::read).transpose()?.unwrap_or_default(),
        prediction: args.expect.as_deref().map(prediction).transpose()?.unwrap_or_default(),
        report_data: args.report_data,
    };
    let mut warnings = not_checked(&args, &demands);
    let keys = demands.policy.keys_about_tcb();
    if args.no_collateral && !keys.is_empty() {
        let message =
            format!("without collateral, the policy's {} cannot be checked", keys.join(", "));
        return Err(Error::usage(message).hint("add --collateral FILE, or remove these keys"));
    }
    let quote = input::bytes_from(&args.quote, td_quote::LIMIT, "a quote")?;
    let report = TdReport::parse(&quote, &input::name(&args.quote))?;
    let collateral = args.collateral.as_deref().map(Collateral::read).transpose()?;
    let at = args.at.unwrap_or_else(Time::now);
    let verification = Verifier::intel().verify(&quote, collateral.as_ref(), at)?;
    let mut checks = judgement::checks(report, &verification, &demands);
    let (event_log, log_warnings) = event_log_check(&args, report, &demands.prediction)?;
    checks.push(event_log);
    warnings.extend(log_warnings);
    let holds = judgement::holds(&checks, collateral.is_some());
    let document = Document::new("tdx.attest.verify", checks).warnings(warnings);
    Ok(Outcome::answer(document, holds))
}

/// Warnings about what is not checked although it matters.
fn not_checked(args: &VerifyArgs, demands: &Demands) -> Vec<String> {
    let mut warnings = Vec::new();
    if args.no_collateral {
        warnings.push(
            "tcb: not checked. Without collateral, an outdated platform, a revoked certificate and a quote that the host \
             forged go unnoticed"
                .to_owned(),
        );
    }
    if args.event_log.is_none() && demands.prediction.has_digests() {
        warnings.push(
            "the expected events were not compared: no event log was given (--event-log LOG)"
                .to_owned(),
        );
    }
    warnings
}

/// The check of the event log, and the warnings about it.
///
/// Errors: `invalid_input` for a file that is no event log.
fn event_log_check(
    args: &VerifyArgs,
    report: TdReport<'_>,
    prediction: &Prediction,
) -> Result<(Check, Vec<String>)> {
    let Some(path) = &args.event_log else { return Ok((judgement::no_event_log(), Vec::new())) };
    let bytes = input::bytes_from(path, log::LIMIT, "an event log")?;
    let source = input::name(path);
    let log = EventLog::parse(&bytes, &source)?;
    let reference = Reference {
        quote: Some(report),
        prediction: Some(prediction),
        requires_rtmr3: args.require_rtmr3,
    };
    let comparisons = comparison::compare(&log, &reference);
    let warnings = warnings::warnings(&log, &comparisons, &source);
    Ok((judgement::event_log(comparisons), warnings))
}

/// Reads a prediction.
///
/// Errors: those of [`Prediction::read`]; `invalid_input` if no register has a value.
fn prediction(path: &Path) -> Result<Prediction> {
    let prediction = Prediction::read(path)?;
    if prediction.has_values() {
        return Ok(prediction);
    }
    let message = format!("{} contains no value of a register", path.display());
    Err(Error::invalid_input(message)
        .hint("run tdx-attest measure to predict the values of registers"))
}
