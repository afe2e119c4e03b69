//! A parsed document: its text and the positions of its elements.

use super::entry::Entry;
use super::parse::{Scope, parse};
use crate::error::Result;

/// An XML document that keeps the exact text from which it was parsed.
#[derive(Debug, Clone)]
pub struct Document {
    text: String,
    entries: Vec<Entry>,
}

impl Document {
    /// Parses a whole document.
    ///
    /// A byte order mark is accepted. A DOCTYPE is refused, so that only XML's own five entities exist.
    ///
    /// Errors: `invalid_input`, with line and column, if the text is not well-formed, uses an undeclared
    /// namespace prefix, has a DOCTYPE, or nests deeper than 256 elements.
    pub fn parse(text: impl Into<String>) -> Result<Self> {
        Self::with_scope(text.into(), Scope::Document)
    }

    /// Parses content that can stand between two tags: any number of elements, text, comments.
    pub(super) fn fragment(text: &str) -> Result<Self> {
        Self::with_scope(text.to_owned(), Scope::Fragment)
    }

    fn with_scope(text: String, scope: Scope) -> Result<Self> {
        match parse(&text, scope) {
            Ok(entries) => Ok(Self { text, entries }),
            Err(fault) => Err(fault.into_error(&text)),
        }
    }

    /// Returns the text that was parsed, byte for byte.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn parse_accepts_well_formed_documents() {
        let cases = [
            "<a/>",
            "\u{feff}<a/>",
            "\u{feff}<?xml version='1.0' encoding=\"UTF-8\"?>\r\n<a/>\r\n",
            "<!-- c --><?p i?><a ></a ><!-- c -->\n",
            "<a b='>' c=\"/>\"/>",
            "<a>&lt;&#65;<![CDATA[</a> & ]]><!-- <b> --></a>",
            "<x:a xmlns:x='u' x:b='1' b='2' xml:lang='en'/>",
            "<größe/>",
        ];
        for text in cases {
            let document = Document::parse(text).unwrap();
            assert_eq!(document.text(), text);
        }
    }

    #[test]
    fn parse_names_the_line_and_column_of_a_fault() {
        let cases = [
            ("", "1:1: no root element"),
            ("<!-- -->\n", "2:1: no root element"),
            ("x<a/>", "1:1: text outside"),
            ("<a/>\nx", "1:5: text outside"),
            ("<a/>&lt;", "1:5: text outside"),
            ("<a/><![CDATA[]]>", "1:5: text outside"),
            ("<a/><b/>", "1:5: second root"),
            ("<a>\n  <b>\n</a>", "3:1: expected `</b>`"),
            ("<a>\n  <b></b>", "1:1: <a> is not closed"),
            ("</a>", "1:1: close tag"),
            ("<a", "1:1: tag not closed"),
            ("<>", "1:1: invalid element name"),
            ("< a/>", "1:1: invalid element name"),
            ("<a/b/>", "1:1: invalid element name"),
            ("<a></a b='1'>", "1:4: expected `</a>`"),
            ("<a b='1' b='2'/>", "1:10: duplicate attribute b"),
            ("<a b='1'c='2'/>", "1:9: no space"),
            ("<ä b='&x;'/>", "1:7: unknown reference"),
            ("<a>&nbsp;</a>", "1:4: unknown reference"),
            ("<a>&#1;</a>", "1:4: unknown reference"),
            ("<a>a & b</a>", "1:6: entity or character reference not closed"),
            ("<a>]]></a>", "1:4: ]]> outside"),
            ("<a>\0</a>", "1:4: character U+0000"),
            ("<a>\u{ffff}</a>", "1:4: character U+FFFF"),
            ("<a><!-- -- --></a>", "1:9: forbidden string `--`"),
            ("<a><!-- </a>", "1:4: comment not closed"),
            ("<a><![cdata[]]></a>", "1:4: CDATA not closed"),
            ("<a>\n<?xml version='1.0'?></a>", "2:1: XML declaration"),
            (" <?xml version='1.0'?><a/>", "1:2: XML declaration"),
            ("<?xml encoding='UTF-8'?><a/>", "1:1: XML declaration"),
            ("<?XML version='1.0'?><a/>", "1:1: processing instruction"),
            ("\u{feff}\u{feff}<a/>", "1:2: text outside"),
            ("<x:a/>", "1:1: the namespace prefix of x:a"),
            ("<a x:b='1'><b xmlns:x='u'/></a>", "1:4: the namespace prefix of x:b"),
            ("<!DOCTYPE a><a/>", "1:1: DOCTYPE"),
            ("<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>", "1:1: DOCTYPE"),
            ("<!doctype a><a/>", "1:1: DOCTYPE"),
        ];
        for (text, expected) in cases {
            let error = Document::parse(text).unwrap_err();
            let expected = format!("malformed XML at {expected}");
            assert!(error.message().starts_with(&expected), "{text}: {error}");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn parse_refuses_elements_that_are_nested_too_deep() {
        let nested = |depth| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
        assert!(Document::parse(nested(256)).is_ok());
        let error = Document::parse(nested(257)).unwrap_err();
        assert!(error.message().contains("1:769: elements are nested deeper than 256"), "{error}");
        assert!(Document::parse("<a>".repeat(1_000_000)).is_err());
    }

    #[test]
    fn parse_fragment_accepts_only_balanced_content() {
        for text in ["", "<a/>\n<b/>", "text <q:a/>", "<!-- c -->"] {
            assert!(Document::fragment(text).is_ok(), "{text}");
        }
        for text in ["</a><a>", "<a>", "<?xml version='1.0'?><a/>", "<!DOCTYPE a>", "a & b"] {
            assert!(Document::fragment(text).is_err(), "{text}");
        }
    }
}
