//! YAML, as people write settings and as records are kept: a document is read into a tree of nodes, and types
//! from that.
//!
//! What a plain scalar means is settled by the type that asks for it: where it wants text, that is the very
//! characters that were typed, be they `0800` or `off`. Keys are text, and none is there twice. Aliases and
//! merge keys are followed; tags other than YAML's own are refused.
//!
//! Source: YAML 1.2.2; 1.1 for merge keys and for the words that are booleans.

mod node;
mod read;
mod scalar;
mod tree;

#[cfg(test)]
mod tests;

pub use scalar::boolean;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Why a text is not what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// From 1; unknown until the innermost node on the way out has told its own.
    line: Option<usize>,
    message: String,
}

impl Error {
    fn new(line: usize, message: String) -> Self {
        Self { line: Some(line), message }
    }

    /// The same, of this line unless it has one.
    fn at(mut self, line: usize) -> Self {
        self.line.get_or_insert(line);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { line: None, message: message.to_string() }
    }
}

/// Reads a document. One without anything in it is null.
///
/// Errors: what is no YAML, and what `T` does not take, with the line.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    T::deserialize(tree::parse(text)?)
}

/// Writes a record of a few keys, a line each.
///
/// Errors: what no document can hold, such as a path that is not UTF-8.
pub fn to_string<T: Serialize>(record: &T) -> serde_json::Result<String> {
    Ok(match serde_json::to_value(record)? {
        Value::Object(record) => {
            record.iter().map(|(key, value)| format!("{key}: {}\n", shown(value))).collect()
        }
        other => format!("{other}\n"),
    })
}

/// A value behind a key: text without quotes where no reader takes it for anything else, the rest as JSON,
/// which is YAML as well.
fn shown(value: &Value) -> String {
    let is_plain = |text: &str| {
        let read = from_str::<BTreeMap<String, Value>>(&format!("key: {text}\n"));
        let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
        begins && read.is_ok_and(|read| read.len() == 1 && read.get("key") == Some(value))
    };
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        _ => value.to_string(),
    }
}
