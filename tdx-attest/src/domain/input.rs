//! Reading a definition: domain XML, or the document of another tool.

use std::path::PathBuf;

use common::document::input::{self, STDIN_NAME};
use common::{Error, Result};
use serde::Deserialize;

/// The largest file with domain XML that is read. Unit: bytes.
const LIMIT: usize = 16 << 20;

const EXPECTED: &str = "the output of tdx-td render or show, or domain XML";

/// Where a definition is read from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Standard input.
    Stdin,
    /// A file.
    File(PathBuf),
}

/// A domain XML, and the firmware that a document names beside it.
#[derive(Debug)]
pub struct Definition {
    /// The domain XML.
    pub xml: String,
    /// The path of the firmware, if the document resolved it.
    pub firmware: Option<PathBuf>,
}

/// An item of the documents of `tdx-td render` and `show`.
#[derive(Debug, Deserialize)]
struct Item {
    name: String,
    xml: Option<String>,
    firmware: Option<PathBuf>,
}

impl Definition {
    /// Reads a definition.
    ///
    /// Errors: those of [`input::file`] and [`input::items`]; `invalid_input` for a document without exactly one domain,
    /// and for a domain without its XML.
    pub fn read(source: &Source) -> Result<Self> {
        match source {
            Source::Stdin => Self::parse(input::stdin(EXPECTED)?, STDIN_NAME),
            Source::File(path) => {
                let shown = path.display().to_string();
                let text = String::from_utf8(input::file(path, LIMIT)?).map_err(|error| {
                    Error::invalid_input(format!("{shown} is not UTF-8")).because(error)
                })?;
                Self::parse(text, &shown)
            }
        }
    }

    /// `source` names the file, or standard input, in messages.
    fn parse(text: String, source: &str) -> Result<Self> {
        let start = text.trim_start_matches('\u{feff}').trim_start();
        if start.starts_with('<') {
            return Ok(Self { xml: start.to_owned(), firmware: None });
        }
        let kinds = ["tdx.td.render", "tdx.td.domains"];
        let items: Vec<Item> = input::parse(&text, source, &kinds, EXPECTED)?;
        let [Item { name, xml, firmware }] = <[Item; 1]>::try_from(items).map_err(|items| {
            let count = items.len();
            Error::invalid_input(format!("{source} contains {count} domains: expected one"))
        })?;
        let xml = xml.ok_or_else(|| {
            Error::invalid_input(format!("the item of domain '{name}' has no XML")).hint(format!(
                "run tdx-td show {} | tdx-attest measure -",
                common::shell::quote(&name)
            ))
        })?;
        Ok(Self { xml, firmware })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Definition> {
        Definition::parse(text.to_owned(), STDIN_NAME)
    }

    #[test]
    fn xml_and_documents_are_told_apart() {
        for text in ["<domain/>", "\u{feff}<domain/>", "\n <domain/>"] {
            let definition = parse(text).unwrap();
            assert_eq!((&*definition.xml, definition.firmware), ("<domain/>", None));
        }
        let item = r#"{"name":"a","xml":"<domain/>","firmware":"/f.fd"}"#;
        let document =
            |kind: &str| format!(r#"{{"schema_version":"1.1","kind":"{kind}","items":[{item}]}}"#);
        for text in
            [item, &format!("[{item}]"), &document("tdx.td.render"), &document("tdx.td.domains")]
        {
            let definition = parse(text).unwrap();
            assert_eq!(definition.xml, "<domain/>");
            assert_eq!(definition.firmware, Some("/f.fd".into()));
        }
        assert!(parse(&document("tdx.pool.volumes")).is_err());
    }

    #[test]
    fn documents_without_exactly_one_definition_are_refused() {
        for (text, says) in [
            ("", "standard input is empty"),
            ("domain", "standard input is not JSON"),
            ("[]", "standard input contains 0 domains: expected one"),
            (r#"{"name":"a"}{"name":"b"}"#, "standard input contains 2 domains: expected one"),
            (r#"{"name":"a","xml":null}"#, "the item of domain 'a' has no XML"),
            (r#"{"xml":"<domain/>"}"#, "item 1 on standard input is invalid"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.message().starts_with(says), "{text}: {error}");
        }
    }
}
