//! `tdx-pool delete`: volumes that nothing needs.

use std::borrow::Cow;

use clap::Args;
use common::cli::{Change, Context};
use common::config::Config;
use common::document::{Action, Document, Item};
use common::libvirt::{Context as _, Libvirt, is_gone};
use common::output::Outcome;
use common::{Error, Result, input, interrupt, log};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cli::PoolArgs;
use crate::pool::Pool;
use crate::volume::Survey;

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Volumes to delete, or - for a document of volumes on standard input
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
    #[command(flatten)]
    pool: PoolArgs,
    #[command(flatten)]
    change: Change,
}

/// A volume and what was done to it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DeleteItem {
    /// Name within the pool.
    name: String,
    /// The pool's name.
    pool: String,
    /// Where it was; null when it was not there.
    path: Option<String>,
    /// `delete`, or `none` for a volume that was not there.
    action: Action,
}

impl Item for DeleteItem {
    const COLUMNS: &'static [&'static str] = &["NAME", "ACTION", "PATH"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let path = self.path.clone().unwrap_or_default();
        vec![self.name.clone(), self.action.0.to_owned(), path]
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// Deletes each volume unless a domain or another volume needs it. All are tried.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    config: &Config,
    args: DeleteArgs,
) -> Result<Outcome> {
    let names = names(args.volumes)?;
    interrupt::guard();
    let libvirt = connect()?;
    let pool = Pool::resolve(&libvirt, config, &args.pool)?;
    let mut survey = Survey::take(&libvirt, &pool)?;
    context.confirm(
        args.change,
        &format!("delete from pool '{}': {}?", pool.name, names.join(", ")),
    )?;
    let mut items = Vec::new();
    let mut failed: Option<Error> = None;
    for name in names {
        let done = interrupt::check()
            .and_then(|()| delete(&mut survey, &pool, &name, args.change.dry_run));
        match done {
            Ok(item) => items.push(item),
            Err(error) => failed = Some(failed.unwrap_or(error)),
        }
    }
    if let Some(error) = failed {
        let deleted =
            items.iter().filter(|item| item.action != Action::NONE && !args.change.dry_run);
        return Err(error.applied(deleted.map(|item| format!("deleted volume '{}'", item.name))));
    }
    Ok(Document::new("tdx.pool.delete", items).dry_run(args.change.dry_run).into())
}

fn names(words: Vec<String>) -> Result<Vec<String>> {
    if !words.iter().any(|word| word == input::STDIN) {
        return Ok(words);
    }
    if words.len() > 1 {
        return Err(Error::usage("- stands alone: name volumes or read them from standard input"));
    }
    let items: Vec<Named> = input::items(&["tdx.pool."], "volumes with a name")?;
    Ok(items.into_iter().map(|item| item.name).collect())
}

fn delete(survey: &mut Survey, pool: &Pool, name: &str, dry_run: bool) -> Result<DeleteItem> {
    let Some(volume) = survey.volumes.iter().find(|volume| volume.name == name) else {
        let (name, pool) = (name.to_owned(), pool.name.clone());
        return Ok(DeleteItem { name, pool, path: None, action: Action::NONE });
    };
    let (handle, path) = (volume.handle.clone(), volume.path.clone());
    let needed = survey.needed_by(&path)?;
    if !needed.is_empty() {
        return Err(Error::conflict(format!("volume '{name}' is needed by {}", needed.join(", ")))
            .hint("delete those first; tdx-pool volumes shows what needs what"));
    }
    if !dry_run {
        log::step(format_args!("delete volume '{name}'"));
        match handle.delete(0) {
            Err(error) if is_gone(&error) => {}
            done => done.context(format_args!("delete volume '{name}'"))?,
        }
        // What stood on others no longer does.
        survey.volumes.retain(|volume| volume.name != name);
    }
    let path = Some(path.display().to_string());
    Ok(DeleteItem {
        name: name.to_owned(),
        pool: pool.name.clone(),
        path,
        action: Action("delete"),
    })
}
