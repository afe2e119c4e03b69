//! `tdx-attest replay`: computes the registers from an event log, and compares them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use clap::Args;
use common::cli::Context;
use common::code::join_codes;
use common::document::output::Outcome;
use common::document::{Document, Item, input};
use common::td_quote::{self, TdReport};
use common::text::hex;
use common::{Code, Error, Result};
use schemars::JsonSchema;
use serde::Serialize;

use crate::event_log::comparison::{self, Comparison, ComparisonResult, Reference};
use crate::event_log::describe;
use crate::event_log::difference::Difference;
use crate::event_log::log::{self, EventLog, LoggedEvent};
use crate::event_log::text::TextStatus;
use crate::event_log::warnings;
use crate::prediction::Prediction;
use crate::register::Register;

const EXAMPLES: &str = "Examples:
  tdx-attest replay ccel.bin
  tdx-attest replay ccel.bin --quote quote.bin --expect expected.json
  ssh root@guest cat /sys/firmware/acpi/tables/data/CCEL | tdx-attest replay -
  tdx-attest replay ccel.bin --json | jq -r '.items[].events[].text'

The log is unsigned. If it gives the registers of a genuine quote, it lists what
the guest measured. tdx-attest verify verifies the quote; replay does not.";

/// Arguments of `replay`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ReplayArgs {
    /// The event log of a guest: its file /sys/firmware/acpi/tables/data/CCEL; - reads standard input
    #[arg(value_name = "LOG")]
    log: PathBuf,
    /// Compare with the registers of a quote, whose signature is not verified
    #[arg(long, value_name = "QUOTE")]
    quote: Option<PathBuf>,
    /// Compare with the expected values and events of FILE, the output of tdx-attest measure; - reads standard input
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// Require that the log gives RTMR3 of the quote. Without this option, a difference is only reported, because
    /// programs of the guest can extend RTMR3 without an entry in the log
    #[arg(long, requires = "quote")]
    require_rtmr3: bool,
}

/// A register in a document of `tdx-attest replay`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ReplayItem {
    /// The register: one of RTMR0 to RTMR3, or a register for which a value is expected.
    pub register: Register,
    /// The value computed from the log, in hexadecimal digits; null for a register that no event extends.
    pub value: Option<String>,
    /// The value in the quote, in hexadecimal digits; null without a quote.
    pub quote_value: Option<String>,
    /// The expected value, in hexadecimal digits; null if no value is expected.
    pub expected_value: Option<String>,
    /// The result of the comparisons.
    pub result: ComparisonResult,
    /// The codes of what was found.
    pub codes: Vec<Code>,
    /// The first difference; null if nothing differs.
    pub first_difference: Option<Difference>,
    /// The events of the register, in the order of the log.
    pub events: Vec<EventItem>,
}

/// An event in a [`ReplayItem`].
#[derive(Debug, Serialize, JsonSchema)]
pub struct EventItem {
    /// The position in the log, counted from 0 over all registers, and over events that were not measured.
    pub index: usize,
    /// The type of the event, such as `EV_SEPARATOR`; a number for a type that the specification does not name.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The digest that extended the register, in hexadecimal digits.
    pub digest: String,
    /// What was measured, according to the event's data; null if the data is no text and of no known structure.
    pub text: Option<String>,
    /// Whether the digest confirms the data that the text is taken from.
    pub text_status: TextStatus,
}

impl Item for ReplayItem {
    const COLUMNS: &'static [&'static str] =
        &["REGISTER", "RESULT", "EVENTS", "CHECKED", "CODES", "VALUE", "DIFFERENCE"];
    const IS_ON_HOST: bool = false;
    const WRAPPED: &'static [&'static str] = &["VALUE"];
    const DROPPED: &'static [&'static str] = &["CHECKED", "EVENTS"];
    const BELOW: Option<&'static str> = Some("DIFFERENCE");

    fn key(&self) -> Cow<'_, str> {
        self.register.as_str().into()
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.register.cmp(&other.register)
    }

    fn row(&self) -> Vec<String> {
        let is_checked = |event: &&EventItem| event.text_status == TextStatus::Checked;
        vec![
            self.register.to_string(),
            self.result.as_str().to_owned(),
            self.events.len().to_string(),
            self.events.iter().filter(is_checked).count().to_string(),
            join_codes(&self.codes),
            self.value.clone().or_else(|| self.quote_value.clone()).unwrap_or_default(),
            self.first_difference.as_ref().map_or_else(String::new, |d| d.description.clone()),
        ]
    }
}

impl From<Comparison<'_>> for ReplayItem {
    fn from(comparison: Comparison<'_>) -> Self {
        Self {
            register: comparison.register,
            value: comparison.value.map(|value| value.to_string()),
            quote_value: comparison.quote.map(hex),
            expected_value: comparison.expected.map(hex),
            result: comparison.result,
            codes: comparison.codes,
            first_difference: comparison.first_difference,
            events: comparison.events.iter().map(EventItem::from).collect(),
        }
    }
}

impl From<&LoggedEvent<'_>> for EventItem {
    fn from(event: &LoggedEvent<'_>) -> Self {
        Self {
            index: event.index,
            event_type: event.event_type.to_string(),
            digest: event.digest.to_string(),
            text: describe::text(event),
            text_status: TextStatus::of(event),
        }
    }
}

/// Replays the log. The answer is no if anything differs.
pub fn run(_: &Context, args: ReplayArgs) -> Result<Outcome> {
    let stdin = Some(Path::new(input::STDIN));
    let paths = [Some(args.log.as_path()), args.quote.as_deref(), args.expect.as_deref()];
    if paths.iter().filter(|path| **path == stdin).count() > 1 {
        return Err(Error::usage("only one argument can be -: standard input is read once"));
    }
    let bytes = input::bytes_from(&args.log, log::LIMIT, "an event log")?;
    let log = EventLog::parse(&bytes, &input::name(&args.log))?;
    let quote = args.quote.as_deref().map(|path| {
        input::bytes_from(path, td_quote::LIMIT, "a quote").map(|bytes| (bytes, input::name(path)))
    });
    let quote = quote.transpose()?;
    let report = quote.as_ref().map(|(bytes, name)| TdReport::parse(bytes, name)).transpose()?;
    let prediction = args.expect.as_deref().map(Prediction::read).transpose()?;
    let reference = Reference {
        quote: report,
        prediction: prediction.as_ref(),
        requires_rtmr3: args.require_rtmr3,
    };
    let comparisons = comparison::compare(&log, &reference);
    let warnings = warnings::warnings(&log, &comparisons, &input::name(&args.log));
    let items: Vec<ReplayItem> = comparisons.into_iter().map(ReplayItem::from).collect();
    let compares = |item: &ReplayItem| {
        item.expected_value.is_some() && item.result != ComparisonResult::NotCompared
    };
    if let Some((path, prediction)) = args.expect.as_deref().zip(prediction.as_ref())
        && !prediction.has_digests()
        && !items.iter().any(compares)
    {
        let message =
            format!("{} contains nothing to compare the event log with", input::name(path));
        return Err(Error::invalid_input(message)
            .hint("add --events to tdx-attest measure; to compare other registers, add --quote"));
    }
    let fits = items.iter().all(|item| item.result != ComparisonResult::Differs);
    Ok(Outcome::answer(Document::new("tdx.attest.replay", items).warnings(warnings), fits))
}
