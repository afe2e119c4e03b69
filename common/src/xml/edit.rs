//! Changes to a document that keep every other byte.

use std::collections::BTreeMap;
use std::ops::Range;

use super::chars::{SPACE, check_chars, escape_text, escape_value, is_qualified_name};
use super::document::Document;
use super::fault::line_column;
use super::layout::{
    break_before, child_indent, content_end, indent, line_break, line_end, own_indent, reindent,
    whole_line,
};
use super::node::Node;
use crate::error::{Error, Result};

/// A set of changes to one document, made together by [`Edit::finish`].
///
/// All nodes are nodes of the document as it was parsed: an edit does not see the changes before it.
/// Insertions at the same place keep the order of the calls. [`Edit::finish`] reports the first error of a
/// call.
///
/// XML to insert is any balanced content: elements, comments, text. Space around it is removed. If the
/// document has one element per line, the inserted XML gets lines of its own, indented like its siblings.
#[derive(Debug)]
pub struct Edit<'a> {
    document: &'a Document,
    splices: Vec<Splice>,
    /// New content for the end of elements. A self-closing element must be opened only once.
    appended: BTreeMap<usize, Vec<Document>>,
    error: Option<Error>,
}

/// Text that replaces a range of the document.
#[derive(Debug)]
struct Splice {
    range: Range<usize>,
    side: Side,
    text: String,
}

/// The order of two insertions at the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    /// Belongs to the content before it.
    After,
    Within,
    /// Belongs to the content after it.
    Before,
}

impl Document {
    /// Begins an edit of this document. The document itself does not change.
    pub fn edit(&self) -> Edit<'_> {
        Edit::new(self)
    }
}

impl<'a> Edit<'a> {
    pub(super) fn new(document: &'a Document) -> Self {
        Self { document, splices: Vec::new(), appended: BTreeMap::new(), error: None }
    }

    /// Removes `node`. Also removes its line if nothing else is on it.
    pub fn remove(&mut self, node: Node<'a>) -> &mut Self {
        self.record(node, |edit| {
            let range = whole_line(node).unwrap_or_else(|| node.span());
            edit.splice(range, Side::Within, String::new());
            Ok(())
        })
    }

    /// Replaces `node` by `xml`.
    pub fn replace(&mut self, node: Node<'a>, xml: &str) -> &mut Self {
        self.record(node, |edit| {
            let xml = edit.laid_out(&fragment(xml)?, own_indent(node));
            edit.splice(node.span(), Side::Within, xml);
            Ok(())
        })
    }

    /// Inserts `xml` at the end of the content of `parent`.
    pub fn insert_into(&mut self, parent: Node<'a>, xml: &str) -> &mut Self {
        self.record(parent, |edit| {
            edit.appended.entry(parent.id).or_default().push(fragment(xml)?);
            Ok(())
        })
    }

    /// Inserts `xml` after `node`, and after the comments that follow `node` on its line.
    pub fn insert_after(&mut self, node: Node<'a>, xml: &str) -> &mut Self {
        self.record(node, |edit| {
            let end = node.span().end;
            let line = own_indent(node).zip(line_end(edit.document.text(), end));
            let at = line.map_or(end, |(_, line_end)| line_end);
            let xml = edit.on_own_line(&fragment(xml)?, line.map(|(indent, _)| indent));
            edit.splice(at..at, Side::After, xml);
            Ok(())
        })
    }

    /// Inserts `xml` before `node`.
    pub fn insert_before(&mut self, node: Node<'a>, xml: &str) -> &mut Self {
        self.record(node, |edit| {
            let line = own_indent(node).zip(break_before(node));
            let at = line.map_or(node.span().start, |(_, line_break)| line_break);
            let xml = edit.on_own_line(&fragment(xml)?, line.map(|(indent, _)| indent));
            edit.splice(at..at, Side::Before, xml);
            Ok(())
        })
    }

    /// Sets an attribute. An existing attribute keeps its place and its quotes.
    pub fn set_attr(&mut self, node: Node<'a>, name: &str, value: &str) -> &mut Self {
        self.record(node, |edit| {
            if !is_qualified_name(name) {
                return Err(Error::invalid_input(format!(
                    "{name:?} is not a valid attribute name"
                )));
            }
            check_chars(value, || format!("the value of attribute {name}"))?;
            let text = edit.document.text();
            match node.raw_attrs().find(|raw| &text[raw.name.clone()] == name) {
                Some(_) if node.attr(name).as_deref() == Some(value) => {}
                Some(raw) => edit.splice(raw.value, Side::Within, escape_value(value)),
                None => {
                    let at = attrs_end(node);
                    let quote = quote(node);
                    let attr = format!(" {name}={quote}{}{quote}", escape_value(value));
                    edit.splice(at..at, Side::Within, attr);
                }
            }
            Ok(())
        })
    }

    /// Renames an attribute and keeps its value. Does nothing if the element lacks the attribute.
    pub fn rename_attr(&mut self, node: Node<'a>, name: &str, new: &str) -> &mut Self {
        self.record(node, |edit| {
            if !is_qualified_name(new) {
                return Err(Error::invalid_input(format!("{new:?} is not a valid attribute name")));
            }
            if let Some(span) = node.attr_span(name) {
                let range = span.start..span.start + name.len();
                edit.splice(range, Side::Within, new.to_owned());
            }
            Ok(())
        })
    }

    /// Removes an attribute and the space before it. Does nothing if the element lacks the attribute.
    pub fn remove_attr(&mut self, node: Node<'a>, name: &str) -> &mut Self {
        self.record(node, |edit| {
            if let Some(span) = node.attr_span(name) {
                let before = &edit.document.text()[..span.start];
                let start = before.trim_end_matches(SPACE).len();
                edit.splice(start..span.end, Side::Within, String::new());
            }
            Ok(())
        })
    }

    /// Sets the text of an element without child elements. Removes the comments in the element.
    pub fn set_text(&mut self, node: Node<'a>, text: &str) -> &mut Self {
        self.record(node, |edit| {
            let name = node.name();
            if node.children().next().is_some() {
                let message = format!("cannot set the text of <{name}>: it has child elements");
                return Err(Error::invalid_input(message));
            }
            check_chars(text, || format!("the text of <{name}>"))?;
            if node.untrimmed_text() == text {
                return Ok(());
            }
            let raw = escape_text(text);
            if closes_itself(node) {
                let range = attrs_end(node)..node.span().end;
                edit.splice(range, Side::Within, format!(">{raw}</{name}>"));
            } else {
                edit.splice(node.entry().content.clone(), Side::Within, raw);
            }
            Ok(())
        })
    }

    /// Returns the document with all changes. Without changes this is the same text.
    ///
    /// Errors: `invalid_input` for XML, a name or a value that a document cannot contain, and if the result
    /// is not well-formed; `failed` if two changes touch the same part of the document.
    pub fn finish(mut self) -> Result<String> {
        if let Some(error) = self.error {
            return Err(error);
        }
        for (id, fragments) in std::mem::take(&mut self.appended) {
            self.append(self.document.node(id), &fragments);
        }
        self.splices.sort_by_key(|splice| (splice.range.start, splice.range.end, splice.side));

        let old = self.document.text();
        let mut new = String::with_capacity(old.len() + 1024);
        let mut done = 0;
        for Splice { range, text, .. } in &self.splices {
            if range.start < done {
                let (line, column) = line_column(old, range.start);
                let message = format!("two edits touch the same XML at {line}:{column}");
                return Err(Error::failed(message));
            }
            new.push_str(&old[done..range.start]);
            new.push_str(text);
            done = range.end;
        }
        new.push_str(&old[done..]);
        match Document::parse(new) {
            Ok(document) => Ok(document.into_text()),
            Err(error) => {
                Err(Error::invalid_input("the edited XML would be invalid").because(error))
            }
        }
    }

    /// Runs one call, unless an earlier call has failed.
    fn record(&mut self, node: Node<'a>, call: impl FnOnce(&mut Self) -> Result<()>) -> &mut Self {
        if self.error.is_none() {
            let own = std::ptr::eq(node.document, self.document);
            let foreign = || Error::failed(format!("{node:?} belongs to another document"));
            self.error = if own { call(self).err() } else { Some(foreign()) };
        }
        self
    }

    fn splice(&mut self, range: Range<usize>, side: Side, text: String) {
        self.splices.push(Splice { range, side, text });
    }

    /// Adds the splice that appends `fragments` to the content of `parent`.
    fn append(&mut self, parent: Node<'a>, fragments: &[Document]) {
        let text = self.document.text();
        let inner = child_indent(parent);
        let mut xml = String::new();
        for fragment in fragments {
            xml.push_str(&self.on_own_line(fragment, inner.as_deref()));
        }

        let content = parent.entry().content.clone();
        let at = content_end(parent);
        let mut range = at..at;
        let empty = parent.children().next().is_none();
        if inner.is_some() && empty && !text[at..content.end].contains('\n') {
            // The end tag shared the line of the start tag; now it needs a line of its own.
            range.end = content.end;
            xml.push_str(line_break(text));
            xml.push_str(indent(text, parent.span().start).unwrap_or_default());
        }
        if closes_itself(parent) {
            range = attrs_end(parent)..parent.span().end;
            xml = format!(">{xml}</{}>", parent.name());
        }
        self.splice(range, Side::Within, xml);
    }

    /// Returns `fragment` for a line with `indent`, with the line break before it.
    fn on_own_line(&self, fragment: &Document, indent: Option<&str>) -> String {
        let xml = self.laid_out(fragment, indent);
        match indent {
            Some(indent) => format!("{}{indent}{xml}", line_break(self.document.text())),
            None => xml,
        }
    }

    fn laid_out(&self, fragment: &Document, indent: Option<&str>) -> String {
        match indent {
            Some(indent) => reindent(fragment, indent, line_break(self.document.text())),
            None => fragment.text().to_owned(),
        }
    }
}

/// Parses XML to insert. The XML must be balanced, so that it cannot move the elements around it.
fn fragment(xml: &str) -> Result<Document> {
    let xml = xml.trim_matches(SPACE);
    if xml.is_empty() {
        return Err(Error::invalid_input("the XML to insert is empty"));
    }
    Document::fragment(xml)
        .map_err(|error| Error::invalid_input("the XML to insert is invalid").because(error))
}

fn closes_itself(node: Node<'_>) -> bool {
    node.document.text().as_bytes()[node.entry().tag_end] == b'/'
}

/// Returns the position for a new attribute.
fn attrs_end(node: Node<'_>) -> usize {
    node.raw_attrs().last().map_or(node.entry().name_end, |raw| raw.end())
}

/// Returns the quote for a new attribute: the last one of `node`, else the first of the document.
fn quote(node: Node<'_>) -> char {
    let first = || node.document.nodes().find_map(|node| node.raw_attrs().next());
    match node.raw_attrs().last().or_else(first) {
        Some(raw) if node.document.text().as_bytes()[raw.value.end] == b'"' => '"',
        _ => '\'',
    }
}
