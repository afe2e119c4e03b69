//! `tdx-td scenario`: shows scenarios. A scenario supplies defaults for a kind of guest: its definition, its
//! disk and the settings of its host.

pub mod list;
pub mod show;

use crate::scenario::layers;
use clap::Subcommand;
use common::Result;
use common::cli::Context;
use common::cli::config::Config;
use common::document::Item;
use common::document::output::Outcome;

/// Verbs on scenarios.
#[derive(Debug, Subcommand)]
pub enum ScenarioVerb {
    /// List the scenarios
    List(list::ListArgs),
    /// Show every setting of a scenario: the recommended value and the value in effect
    Show(show::ShowArgs),
}

impl ScenarioVerb {
    /// Returns the column titles of the verb's table.
    pub fn columns(&self) -> &'static [&'static str] {
        match self {
            Self::List(_) => list::ScenarioItem::COLUMNS,
            Self::Show(_) => layers::Setting::COLUMNS,
        }
    }
}

/// Runs a verb on scenarios. None of them needs libvirt.
pub fn run(context: &Context, config: &Config, verb: ScenarioVerb) -> Result<Outcome> {
    match verb {
        ScenarioVerb::List(args) => list::run(context, args),
        ScenarioVerb::Show(args) => show::run(context, config, args),
    }
}
