//! The types of the command line. The arguments of each verb are in the module of the verb.

use clap::{Parser, Subcommand};
use common::Result;
use common::cli::{Context, Globals, Tool};
use common::document::Item;
use common::document::output::Outcome;

use crate::check::Check;
use crate::commands::{collateral, measure, replay, verify};
use crate::measurement::MeasurementItem;

/// Predict the measurements of trust domains, replay event logs, and verify quotes
///
/// A trust domain is a guest that Intel TDX protects. The TDX module measures a trust domain into registers: MRTD covers
/// the firmware, and RTMR0 to RTMR3 cover what runs later. A quote is a signed statement of these registers. The event
/// log of the guest lists what was measured into RTMR0 to RTMR3.
#[derive(Debug, Parser)]
#[command(name = "tdx-attest", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "Examples:
  tdx-td render -i guest.qcow2 | tdx-attest measure - >expected.json
  tdx-attest replay ccel.bin --quote quote.bin
  tdx-attest collateral quote.bin --pccs https://pccs.example:8081 >collateral.json
  tdx-attest verify quote.bin --collateral collateral.json --expect expected.json";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Predict the values of a trust domain's registers from its definition and firmware
    Measure(measure::MeasureArgs),
    /// Compute the registers from an event log, and compare them; exit status 0 if equal, 10 if not
    Replay(replay::ReplayArgs),
    /// Verify a quote; exit status 0 if everything that was asked holds, 10 if not
    Verify(verify::VerifyArgs),
    /// Fetch the collateral that verify needs for a quote
    Collateral(collateral::CollateralArgs),
}

impl Tool for Cli {
    const NAME: &'static str = "tdx-attest";

    fn globals(&self) -> &Globals {
        &self.globals
    }

    fn columns(&self) -> &'static [&'static str] {
        match &self.verb {
            Verb::Measure(_) => MeasurementItem::COLUMNS,
            Verb::Replay(_) => replay::ReplayItem::COLUMNS,
            Verb::Verify(_) => Check::COLUMNS,
            // Collateral is printed as it is.
            Verb::Collateral(_) => &[],
        }
    }

    fn run(self, context: &Context) -> Result<Outcome> {
        match self.verb {
            Verb::Measure(args) => measure::run(context, args),
            Verb::Replay(args) => replay::run(context, args),
            Verb::Verify(args) => verify::run(context, args),
            Verb::Collateral(args) => collateral::run(context, args),
        }
    }
}
