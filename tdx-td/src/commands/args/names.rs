//! Domains named on the command line, or by a document on standard input.

use clap::Args;
use common::document::{identity, input};
use common::{Error, Result, name};
use serde::Deserialize;

use crate::domain::lookup::{DomainClaim, NamedDomain};

/// Which domains.
#[derive(Debug, Clone, Args)]
pub struct NameArgs {
    /// Domains by name, or - for items with a name on standard input
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// The documents whose items are domains, by the key `name`.
const KINDS: [&str; 6] = [
    "tdx.td.domains",
    "tdx.td.new",
    "tdx.td.start",
    "tdx.td.stop",
    "tdx.td.delete",
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
    /// The domains, each once, in the order given.
    ///
    /// Errors: `usage` for a `-` beside names, `invalid_input` for what is no document of domains.
    pub fn read(self) -> Result<Vec<NamedDomain>> {
        read(self.names)
    }
}

/// Reads a list of domains that may be empty.
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
                "- stands alone: name domains or read them from standard input",
            ));
        }
        true => {
            let items: Vec<Item> = input::items(&KINDS, "domains with a name")?;
            items.into_iter().map(|item| (item.name, Some(item.claim))).collect()
        }
    };
    let named = identity::by_name(named).into_iter();
    Ok(named.map(|(name, claims)| NamedDomain::with_claims(name, claims)).collect())
}
