//! Parser of Canonical's `setup-tdx-config`, a file of shell assignments. It is parsed, never executed.

use std::collections::BTreeMap;
use std::path::Path;

use common::{Error, Result};

use crate::scenario::library::read_text;

/// The assignments of a `setup-tdx-config` file.
#[derive(Debug, Default)]
pub(super) struct SetupConfig(BTreeMap<String, String>);

impl SetupConfig {
    /// Reads a `setup-tdx-config` file.
    ///
    /// Errors: those of reading the file; `invalid_input` for a line that is not a plain assignment.
    pub(super) fn read(path: &Path) -> Result<Self> {
        Self::parse(&read_text(path)?).map_err(|line| {
            Error::invalid_input(format!("{}: line {line} is not KEY=VALUE", path.display())).hint(
                "the file is parsed, not executed: a value is a plain word or a quoted string without \
                 $, ` and \\",
            )
        })
    }

    fn parse(text: &str) -> Result<Self, usize> {
        let mut values = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let line = line.strip_prefix("export ").unwrap_or(line);
            let (key, value) = assignment(line).ok_or(number + 1)?;
            values.insert(key.to_owned(), value);
        }
        Ok(Self(values))
    }

    /// Returns the value of a key; `None` if it is missing or empty.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// Parses one assignment. Its value must not need expansion by a shell.
fn assignment(line: &str) -> Option<(&str, String)> {
    let (key, rest) = line.split_once('=')?;
    let named = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let named = named && key.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    let (value, rest) = match rest.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let (value, rest) = rest[1..].split_once(quote)?;
            let plain = quote == '\'' || !value.contains(['$', '`', '\\']);
            plain.then_some((value, rest))?
        }
        _ => {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let (value, rest) = rest.split_at(end);
            let special = |c: char| "$`\\\"'&|;<>()".contains(c);
            (!value.contains(special)).then_some((value, rest))?
        }
    };
    let after = rest.trim_start();
    let ends = after.is_empty() || (after.starts_with('#') && after.len() < rest.len());
    (named && ends).then(|| (key, value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_accepts_assignments_and_expands_nothing() {
        let text = "# a comment\n\nTDX_SETUP_ATTESTATION=0\nexport GUEST_USER=tdx # who\n\
                    GUEST_PASSWORD='$a \"b\"'\nGUEST_HOSTNAME=\"tdx guest\"\nEMPTY=\n";
        let config = SetupConfig::parse(text).unwrap();
        for (key, value) in [
            ("TDX_SETUP_ATTESTATION", Some("0")),
            ("GUEST_USER", Some("tdx")),
            ("GUEST_PASSWORD", Some("$a \"b\"")),
            ("GUEST_HOSTNAME", Some("tdx guest")),
            ("EMPTY", None),
            ("ABSENT", None),
        ] {
            assert_eq!(config.get(key), value, "{key}");
        }
        for line in [
            "rm -rf /",
            "A=$(id)",
            "A=`id`",
            "A=\"$B\"",
            "A=b c",
            "A=b;c",
            "A='b",
            "1A=b",
            "=b",
            "A B=c",
            "A='b'c",
            "if [ x ]; then",
        ] {
            assert_eq!(SetupConfig::parse(&format!("X=1\n{line}\n")).unwrap_err(), 2, "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parse_does_not_panic_on_any_text(text in "\\PC*", line in "[A-Z=\"' #$a\u{e9}]{0,20}") {
            let _ = SetupConfig::parse(&text);
            let _ = SetupConfig::parse(&line);
        }
    }
}
