//! Checks names of domains, pools, volumes and devices that come from users and documents.

use serde::{Deserialize, Deserializer, de};

use crate::error::{Error, Result};

/// The longest name. libvirt uses names as file names. Unit: bytes. Source: path_resolution(7), `NAME_MAX`.
const LONGEST: usize = 255;

/// The longest path. Unit: bytes. Source: path_resolution(7), `PATH_MAX`.
const LONGEST_PATH: usize = 4096;

/// The reason why a name is invalid; none for a valid name.
fn flaw(name: &str, longest: usize) -> Option<String> {
    match name {
        "" => Some("the name is empty".to_owned()),
        _ if name.contains('\0') => Some("the name contains a NUL byte".to_owned()),
        _ if name.len() > longest => Some(format!("the name is longer than {longest} bytes")),
        _ => None,
    }
}

/// A name as a message shows it: quoted, and shortened if it is long.
fn shown(name: &str) -> String {
    const LENGTH: usize = 40;
    match name.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{:?}…", &name[..end]),
        None => format!("{name:?}"),
    }
}

/// Checks a name from the command line. `what` is the kind of object, such as `domain`.
///
/// Errors: `usage`, with the reason, for an invalid name.
pub fn check(what: &str, name: &str) -> Result<()> {
    match flaw(name, LONGEST) {
        None => Ok(()),
        Some(why) => Err(Error::usage(format!("invalid {what} name {}: {why}", shown(name)))),
    }
}

/// Reads a name in a document, for serde's `deserialize_with`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    bounded(String::deserialize(deserializer)?, LONGEST)
}

/// Reads a name in a document, or null.
pub fn deserialize_option<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    name.map(|name| bounded(name, LONGEST)).transpose()
}

/// Reads the path of a device in a document.
pub fn deserialize_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    bounded(String::deserialize(deserializer)?, LONGEST_PATH)
}

fn bounded<E: de::Error>(name: String, longest: usize) -> Result<String, E> {
    match flaw(&name, longest) {
        None => Ok(name),
        Some(why) => Err(E::custom(format_args!("invalid name {}: {why}", shown(&name)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_refuses_names_that_are_empty_too_long_or_contain_nul() {
        for name in ["a", "日本", &"x".repeat(255)] {
            assert!(check("domain", name).is_ok(), "{name}");
        }
        for (name, why) in [("", "empty"), ("a\0b", "NUL"), (&*"x".repeat(256), "255 bytes")] {
            assert!(check("domain", name).unwrap_err().message().contains(why), "{name:?}");
        }
    }
}
