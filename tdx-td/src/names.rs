//! The domains a verb is about: named on the command line or in a document on standard input.

use clap::Args;
use common::libvirt::{Context, Libvirt, is_gone};
use common::{Error, Result, input, name};
use serde::Deserialize;
use virt::domain::Domain;

/// Which domains.
#[derive(Debug, Clone, Args)]
pub struct NameArgs {
    /// Domains by name, or - for items with a name on standard input
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(deserialize_with = "name::deserialize")]
    name: String,
}

impl NameArgs {
    /// The names, each once, in the order given.
    ///
    /// Errors: `usage` for a `-` beside names, `invalid_input` for what is no document of domains.
    pub fn read(self) -> Result<Vec<String>> {
        read(self.names)
    }
}

/// The same for a list that need not be there.
pub fn read(words: Vec<String>) -> Result<Vec<String>> {
    let names = match words.iter().any(|word| word == input::STDIN) {
        false => {
            words.iter().try_for_each(|word| name::check("domain", word))?;
            words
        }
        true if words.len() > 1 => {
            return Err(Error::usage(
                "- stands alone: name domains or read them from standard input",
            ));
        }
        true => {
            let items: Vec<Named> = input::items(&["tdx.td."], "domains with a name")?;
            items.into_iter().map(|item| item.name).collect()
        }
    };
    let mut seen = std::collections::HashSet::new();
    Ok(names.into_iter().filter(|name| seen.insert(name.clone())).collect())
}

/// The domain of this name, if there is one.
///
/// Errors: `usage` for a name that no domain can have; whatever libvirt says.
pub fn find(libvirt: &Libvirt, name: &str) -> Result<Option<Domain>> {
    name::check("domain", name)?;
    match libvirt.connect().lookup_domain_by_name(name) {
        Err(error) if is_gone(&error) => Ok(None),
        found => found.context(format_args!("look up domain '{name}'")).map(Some),
    }
}

/// The domain of this name.
///
/// Errors: `not_found` (exit 4) as well.
pub fn get(libvirt: &Libvirt, name: &str) -> Result<Domain> {
    find(libvirt, name)?.ok_or_else(|| absent(name))
}

/// The error for a domain that is not there (exit 4).
pub fn absent(name: &str) -> Error {
    Error::not_found(format!("no domain '{name}'")).hint("tdx-td list shows those there are")
}
