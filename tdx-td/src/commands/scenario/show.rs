//! `tdx-td scenario show`: shows every setting of a scenario.

use std::borrow::Cow;

use clap::Args;
use common::Result;
use common::cli::Context;
use common::cli::config::Config;
use common::document::output::Outcome;
use common::document::{Document, Item};

use crate::capability::Security;
use crate::commands::args::scenario::AssignmentArgs;
use crate::scenario::conflicts;
use crate::scenario::layers::Setting;
use crate::scenario::library::Scenario;
use crate::scenario::value::display_value;

const EXAMPLES: &str = "Examples:
  tdx-td scenario show td
  tdx-td scenario show securevm --security sev --set guest.video=none";

/// Arguments of `scenario show`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ShowArgs {
    /// Name of the scenario
    name: String,
    /// Show the settings for guests with this protection [default: the first that the scenario allows]
    #[arg(long, value_enum)]
    security: Option<Security>,
    #[command(flatten)]
    assignments: AssignmentArgs,
}

impl Item for Setting {
    const COLUMNS: &'static [&'static str] = &["SETTING", "RECOMMENDED", "VALUE", "BY"];
    const IS_ON_HOST: bool = false;
    const WRAPPED: &'static [&'static str] = &["RECOMMENDED", "VALUE", "BY"];

    fn key(&self) -> Cow<'_, str> {
        self.setting.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let origin = if self.differs() { self.origin.clone() } else { String::new() };
        vec![
            self.setting.clone(),
            display_value(&self.recommended),
            display_value(&self.value),
            origin,
        ]
    }
}

/// Shows the values that a scenario recommends, and the values in effect after files and flags.
///
/// Errors: those of [`Scenario::find`] and
/// [`Assignments::put`](crate::scenario::assignments::Assignments::put); `usage` for settings that contradict
/// each other.
pub fn run(context: &Context, config: &Config, args: ShowArgs) -> Result<Outcome> {
    let scenario = Scenario::find(&context.host, &args.name)?;
    let security = args.security.or(scenario.security.first().copied());
    let security = security.unwrap_or(Security::None);
    let mut layers = scenario.layers(security)?;
    args.assignments.assignments().put(&mut layers, config, &[])?;
    let profile = layers.profile()?;
    conflicts::check(&profile, security)?;
    let warnings = conflicts::ignored_settings(&profile, &layers);
    Ok(Document::new("tdx.td.settings", layers.settings()).warnings(warnings).into())
}
