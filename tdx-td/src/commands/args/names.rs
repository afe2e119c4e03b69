//! Domains named on the command line, or by a document on standard input.

use clap::Args;
use common::document::{identity, input};
use common::{Error, Result, name};
use serde::Deserialize;

use crate::domain::lookup::{DomainClaim, NamedDomain};

/// The argument that names domains.
#[derive(Debug, Clone, Args)]
pub struct NameArgs {
    /// Names of domains; - reads JSON output of tdx-td, such as that of tdx-td list, from standard input
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// The documents whose items are domains, by the key `name`.
const KINDS: [&str; 7] = [
    "tdx.td.domains",
    "tdx.td.new",
    "tdx.td.start",
    "tdx.td.stop",
    "tdx.td.delete",
    "tdx.td.evidence",
    "tdx.td.hostdevs",
];

#[derive(Deserialize)]
struct Item {
    #[serde(deserialize_with = "name::deserialize")]
    name: String,
    #[serde(flatten)]
    claim: DomainClaim,
}

impl NameArgs {
    /// Returns the domains, each once, in the order given.
    ///
    /// Errors: `usage` for `-` beside names, `invalid_input` unless standard input is a document of domains.
    pub fn read(self) -> Result<Vec<NamedDomain>> {
        read(self.names)
    }
}

/// Returns the domains that `words` name, none if it is empty.
///
/// Errors: those of [`NameArgs::read`].
pub fn read(words: Vec<String>) -> Result<Vec<NamedDomain>> {
    let named: Vec<(String, Option<DomainClaim>)> = match words.iter().any(|w| w == input::STDIN) {
        false => {
            words.iter().try_for_each(|word| name::check("domain", word))?;
            words.into_iter().map(|word| (word, None)).collect()
        }
        true if words.len() > 1 => {
            return Err(Error::usage(
                "- and names of domains cannot be combined: - reads the names from standard input",
            ));
        }
        true => {
            let items: Vec<Item> =
                input::items(&KINDS, "JSON items of domains, each with the key 'name'")?;
            items.into_iter().map(|item| (item.name, Some(item.claim))).collect()
        }
    };
    let named = identity::by_name(named).into_iter();
    Ok(named.map(|(name, claims)| NamedDomain::with_claims(name, claims)).collect())
}
