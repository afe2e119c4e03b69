//! `tdx-td scenario`: what a guest is to be used for, and what its definition, its disk and the host
//! are to be like for that.

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
    /// Show the scenarios there are
    List(list::ListArgs),
    /// Show every setting of a scenario, as recommended and as it would be
    Show(show::ShowArgs),
}

impl ScenarioVerb {
    /// Titles of the columns that a table of the verb's items has.
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
