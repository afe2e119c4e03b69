//! Names of domains, pools, volumes and devices, as they come from users and documents.

use serde::{Deserialize, Deserializer, de};

use crate::error::{Error, Result};

/// The most bytes of a name. libvirt makes file names of names. Source: path_resolution(7), `NAME_MAX`.
const LONGEST: usize = 255;

/// The most bytes of a path. Source: path_resolution(7), `PATH_MAX`.
const LONGEST_PATH: usize = 4096;

/// Why nothing can have this name.
fn flaw(name: &str, longest: usize) -> Option<String> {
    match name {
        "" => Some("it is empty".to_owned()),
        _ if name.contains('\0') => Some("it holds a NUL byte".to_owned()),
        _ if name.len() > longest => Some(format!("it is longer than {longest} bytes")),
        _ => None,
    }
}

/// The name as a message shows it.
fn shown(name: &str) -> String {
    const LENGTH: usize = 40;
    match name.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{:?}…", &name[..end]),
        None => format!("{name:?}"),
    }
}

/// Checks a name from the command line. `what` says what it is a name of.
///
/// Errors: `usage`, with the reason.
pub fn check(what: &str, name: &str) -> Result<()> {
    match flaw(name, LONGEST) {
        None => Ok(()),
        Some(why) => {
            Err(Error::usage(format!("{} cannot be the name of a {what}: {why}", shown(name))))
        }
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
        Some(why) => Err(E::custom(format_args!("{} cannot be a name: {why}", shown(&name)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nothing_can_have_are_refused() {
        for name in ["a", "日本", &"x".repeat(255)] {
            assert!(check("domain", name).is_ok(), "{name}");
        }
        for (name, why) in [("", "empty"), ("a\0b", "NUL"), (&*"x".repeat(256), "255 bytes")] {
            assert!(check("domain", name).unwrap_err().message().contains(why), "{name:?}");
        }
    }
}
