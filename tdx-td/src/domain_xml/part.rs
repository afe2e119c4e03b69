//! An element or attribute of a definition, with its path and line for messages.

use std::fmt;
use std::ops::Range;

use common::xml::{Document, Node};

/// An element or attribute of a document. It is valid after the document is dropped, and for any document with
/// the same text up to the element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The element names from the root down to the element, joined by `/`.
    pub path: String,
    /// Name of the attribute; `None` for the element itself.
    pub attribute: Option<String>,
    /// The line on which the element or attribute begins, counted from one.
    pub line: usize,
    /// Offset of the element in the text, in bytes.
    start: usize,
}

impl Part {
    /// Returns the part of an element.
    pub fn element(node: Node<'_>) -> Self {
        Self { path: node.path(), attribute: None, line: node.line(), start: node.span().start }
    }

    /// Returns the part of an attribute.
    pub fn attribute(node: Node<'_>, name: &str) -> Self {
        let attribute = Some(name.to_owned());
        Self { attribute, line: node.attr_line(name), ..Self::element(node) }
    }

    /// Returns the element, or the element that has the attribute.
    pub fn node<'a>(&self, document: &'a Document) -> Option<Node<'a>> {
        let root = document.root();
        let mut nodes = std::iter::once(root).chain(root.descendants());
        nodes.find(|node| node.span().start == self.start)
    }

    /// Returns the range of the part in the document's text, in bytes; an empty range if it is not there.
    pub fn span(&self, document: &Document) -> Range<usize> {
        let node = self.node(document);
        let span = node.and_then(|node| match &self.attribute {
            Some(name) => node.attr_span(name),
            None => Some(node.span()),
        });
        span.unwrap_or_default()
    }

    /// Returns the name of the element, without path and namespace prefix.
    pub fn element_name(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name.rsplit(':').next().unwrap_or_default()
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, attribute, line, .. } = self;
        match attribute {
            Some(attribute) => write!(f, "attribute {attribute} of {path} (line {line})"),
            None => write!(f, "element {path} (line {line})"),
        }
    }
}
