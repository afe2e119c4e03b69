//! `tdx-td scenario list`: lists the scenarios.

use std::borrow::Cow;

use clap::Args;
use common::Result;
use common::cli::Context;
use common::document::output::Outcome;
use common::document::{Document, Item};
use schemars::JsonSchema;
use serde::Serialize;

use crate::scenario::library;
use crate::scenario::library::{DEFAULT, Scenario};

const EXAMPLES: &str = "Examples:
  tdx-td scenario list";

/// Arguments of `scenario list`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ListArgs {}

/// A scenario.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ScenarioItem {
    /// Name of the scenario.
    name: String,
    /// What the scenario is for, in one line.
    description: String,
    /// Protections that the scenario allows for its guests, the best first.
    security: Vec<&'static str>,
    /// Files that define or change the scenario; empty for an unchanged built-in one.
    files: Vec<String>,
}

impl Item for ScenarioItem {
    const COLUMNS: &'static [&'static str] = &["NAME", "SECURITY", "DESCRIPTION", "FILES"];
    const IS_ON_HOST: bool = false;
    const WRAPPED: &'static [&'static str] = &["DESCRIPTION", "FILES"];
    const DROPPED: &'static [&'static str] = &["FILES"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let Self { name, description, security, files } = self;
        vec![name.clone(), security.join(","), description.clone(), files.join(" ")]
    }
}

/// Lists the scenarios, built-in and in files.
///
/// Errors: those of [`Scenario::find`] for a file that is not a valid scenario.
pub fn run(context: &Context, _: ListArgs) -> Result<Outcome> {
    let names = library::names(&context.host)?.into_iter().filter(|name| name != DEFAULT);
    let items: Result<Vec<ScenarioItem>> = names.map(|name| item(context, &name)).collect();
    Ok(Document::new("tdx.td.scenarios", items?).into())
}

fn item(context: &Context, name: &str) -> Result<ScenarioItem> {
    let Scenario { name, description, security, files, .. } = Scenario::find(&context.host, name)?;
    Ok(ScenarioItem {
        name,
        description,
        security: security.into_iter().map(|security| security.as_str()).collect(),
        files: files.iter().map(|file| file.display().to_string()).collect(),
    })
}
