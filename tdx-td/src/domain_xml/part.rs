//! An element or attribute of a definition, named so that a person finds it.

use std::fmt;
use std::ops::Range;

use common::xml::{Document, Node};

/// An element or attribute of a document. It outlives the document, and holds for any document whose
/// text is the same up to there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Names from the root down to the element, joined by `/`.
    pub path: String,
    /// The attribute's name; none: the element itself.
    pub attribute: Option<String>,
    /// The line it begins on, counted from one.
    pub line: usize,
    /// Where the element begins in the text, bytes.
    start: usize,
}

impl Part {
    /// Names an element.
    pub fn element(node: Node<'_>) -> Self {
        Self { path: node.path(), attribute: None, line: node.line(), start: node.span().start }
    }

    /// Names an attribute.
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

    /// Returns where it lies in the document's text, bytes; an empty range if it is not there.
    pub fn span(&self, document: &Document) -> Range<usize> {
        let node = self.node(document);
        let span = node.and_then(|node| match &self.attribute {
            Some(name) => node.attr_span(name),
            None => Some(node.span()),
        });
        span.unwrap_or_default()
    }

    /// Returns the element's own name, without prefix.
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
