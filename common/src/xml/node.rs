//! One element of a document, for reading.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use super::attrs::RawAttr;
use super::chars::{SPACE, split_name, unescape_value};
use super::document::Document;
use super::entry::{Entry, namespace};
use super::fault::line_column;

/// An element, cheap to copy. Two nodes are equal if they are the same element of the same document.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    pub(super) document: &'a Document,
    pub(super) id: usize,
}

impl Document {
    /// Returns the root element.
    pub fn root(&self) -> Node<'_> {
        self.node(0)
    }

    pub(super) fn node(&self, id: usize) -> Node<'_> {
        Node { document: self, id }
    }

    /// Returns every element in document order.
    pub(super) fn nodes(&self) -> impl Iterator<Item = Node<'_>> {
        (0..self.entries().len()).map(|id| self.node(id))
    }
}

impl<'a> Node<'a> {
    /// Returns the name as written, with its prefix.
    pub fn name(self) -> &'a str {
        let entry = self.entry();
        &self.document.text()[entry.start + 1..entry.name_end]
    }

    /// Returns the name without its prefix.
    pub fn local_name(self) -> &'a str {
        split_name(self.name()).1
    }

    /// Returns the namespace of the element as its declaration writes it, or `None` without a namespace.
    pub fn namespace(self) -> Option<&'a str> {
        let prefix = split_name(self.name()).0;
        namespace(self.document.text(), self.document.entries(), self.id, prefix)
    }

    /// Returns the value of an attribute by its name as written.
    pub fn attr(self, name: &str) -> Option<Cow<'a, str>> {
        self.attrs().find(|attr| attr.0 == name).map(|attr| attr.1)
    }

    /// Returns names and values of all attributes in order, namespace declarations included.
    pub fn attrs(self) -> impl Iterator<Item = (&'a str, Cow<'a, str>)> {
        let text = self.document.text();
        self.raw_attrs().map(|raw| (&text[raw.name], unescape_value(&text[raw.value])))
    }

    /// Returns the element that contains this one.
    pub fn parent(self) -> Option<Node<'a>> {
        self.entry().parent.map(|id| self.document.node(id))
    }

    /// Returns the elements directly in this one, in order.
    pub fn children(self) -> impl Iterator<Item = Node<'a>> {
        Children::new(self)
    }

    /// Returns all elements in this one, in document order.
    pub fn descendants(self) -> impl Iterator<Item = Node<'a>> {
        (self.id + 1..self.entry().next).map(move |id| self.document.node(id))
    }

    /// Returns the first child of this name.
    pub fn child(self, name: &str) -> Option<Node<'a>> {
        self.children().find(|child| child.name() == name)
    }

    /// Returns the first element at `path`, in any branch.
    ///
    /// Shape of a path: names of children as written, joined by `/`: `devices/disk/source`.
    pub fn find(self, path: &str) -> Option<Node<'a>> {
        self.find_all(path).next()
    }

    /// Returns all elements at `path`, in document order. Shape of a path: see [`Node::find`].
    pub fn find_all(self, path: &str) -> impl Iterator<Item = Node<'a>> {
        Matches { path, levels: vec![Children::new(self)] }
    }

    /// Returns the text directly in this element, including CDATA, without the space around it.
    pub fn text(self) -> String {
        self.untrimmed_text().trim_matches(SPACE).to_owned()
    }

    /// Returns the text of the first element at `path`.
    pub fn text_at(self, path: &str) -> Option<String> {
        self.find(path).map(Node::text)
    }

    /// Returns an attribute of the first element at `path`.
    pub fn attr_at(self, path: &str, name: &str) -> Option<Cow<'a, str>> {
        self.find(path)?.attr(name)
    }

    /// Returns the range of the element in the document's text. Unit: bytes.
    pub fn span(self) -> Range<usize> {
        self.entry().start..self.entry().end
    }

    /// Returns the line on which the element begins, counted from one.
    pub fn line(self) -> usize {
        line_column(self.document.text(), self.span().start).0
    }

    /// Returns the line on which an attribute begins, counted from one; the element's line if it lacks the
    /// attribute.
    pub fn attr_line(self, name: &str) -> usize {
        let start = self.attr_span(name).map_or(self.span().start, |span| span.start);
        line_column(self.document.text(), start).0
    }

    /// Returns the range of an attribute in the document's text, from its name to its closing quote. Unit:
    /// bytes.
    pub fn attr_span(self, name: &str) -> Option<Range<usize>> {
        let text = self.document.text();
        let raw = self.raw_attrs().find(|raw| &text[raw.name.clone()] == name)?;
        Some(raw.name.start..raw.end())
    }

    /// Returns the names from the root down to the element, joined by `/`: `domain/devices/disk`.
    pub fn path(self) -> String {
        match self.parent() {
            Some(parent) => format!("{}/{}", parent.path(), self.name()),
            None => self.name().to_owned(),
        }
    }

    /// Returns the exact text of the element.
    pub fn source(self) -> &'a str {
        &self.document.text()[self.span()]
    }

    pub(super) fn entry(self) -> &'a Entry {
        &self.document.entries()[self.id]
    }

    pub(super) fn raw_attrs(self) -> impl Iterator<Item = RawAttr> {
        // `Document::parse` has refused every fault.
        self.entry().attrs(self.document.text()).flatten()
    }
}

impl PartialEq for Node<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.document, other.document) && self.id == other.id
    }
}

impl Eq for Node<'_> {}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}> at {:?}", self.name(), self.span())
    }
}

struct Children<'a> {
    document: &'a Document,
    /// A range of entries; a child with everything inside of it is one step.
    ids: Range<usize>,
}

impl<'a> Children<'a> {
    fn new(node: Node<'a>) -> Self {
        Self { document: node.document, ids: node.id + 1..node.entry().next }
    }
}

impl<'a> Iterator for Children<'a> {
    type Item = Node<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let node = (!self.ids.is_empty()).then(|| self.document.node(self.ids.start))?;
        self.ids.start = node.entry().next;
        Some(node)
    }
}

/// A walk that enters only elements whose names match.
struct Matches<'a, 'p> {
    path: &'p str,
    /// The elements that remain to be visited, one level for each step of the path.
    levels: Vec<Children<'a>>,
}

impl<'a> Iterator for Matches<'a, '_> {
    type Item = Node<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut steps = self.path.split('/').skip(self.levels.len().checked_sub(1)?);
            let name = steps.next();
            let level = self.levels.last_mut()?;
            match level.find(|node| Some(node.name()) == name) {
                None => {
                    self.levels.pop();
                }
                Some(node) if steps.next().is_none() => return Some(node),
                Some(node) => self.levels.push(Children::new(node)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICES: &str = "<d xmlns:q='urn:q'>
  <os><type arch='x86_64'> hvm </type></os>
  <devices>
    <disk id='1'><driver/></disk>
    <disk id='2'><source file='a&amp;b'/><source file='c'/></disk>
    <q:arg xmlns='urn:r' value='a\tb&#9;c'><r/><s xmlns=''/></q:arg>
    <disk id='3'><source file='e'/></disk>
  </devices>
</d>";

    #[test]
    fn find_searches_all_branches() {
        let document = Document::parse(DEVICES).unwrap();
        let root = document.root();
        let files = |path| -> Vec<_> {
            root.find_all(path).map(|node| node.attr("file").unwrap_or_default()).collect()
        };
        assert_eq!(files("devices/disk/source"), ["a&b", "c", "e"]);
        assert_eq!(root.attr_at("devices/disk/source", "file").as_deref(), Some("a&b"));
        assert_eq!(root.find_all("devices/disk").count(), 3);
        for path in ["", "/", "d", "devices/", "/devices", "devices/disk/source/x", "disk"] {
            assert_eq!(root.find(path), None, "{path}");
        }
    }

    #[test]
    fn parent_and_children_return_the_neighbours() {
        let document = Document::parse(DEVICES).unwrap();
        let root = document.root();
        let names =
            |nodes: Vec<Node<'_>>| nodes.iter().map(|n| n.name().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(root.children().collect()), ["os", "devices"]);
        assert_eq!(names(root.child("os").unwrap().descendants().collect()), ["type"]);
        assert_eq!(root.descendants().count(), 13);
        assert_eq!(root.find("os/type").unwrap().parent(), root.child("os"));
        assert_eq!(root.parent(), None);
        assert_eq!(root.child("os").unwrap().source(), "<os><type arch='x86_64'> hvm </type></os>");
        assert_eq!(root.source(), document.text());
        assert_eq!(format!("{root:?}"), format!("<d> at 0..{}", DEVICES.len()));
    }

    #[test]
    fn lines_count_from_one() {
        let document = Document::parse("<a>\n <b c='1'\n  d='2'/>\n</a>").unwrap();
        let node = document.root().child("b").unwrap();
        assert_eq!((node.line(), node.attr_line("c"), node.attr_line("d")), (2, 2, 3));
        assert_eq!(node.attr_line("absent"), 2);
        assert_eq!(&document.text()[node.attr_span("d").unwrap()], "d='2'");
        assert_eq!(node.path(), "a/b");
    }

    #[test]
    fn namespaces_come_from_the_nearest_declaration() {
        let document = Document::parse(DEVICES).unwrap();
        let arg = document.root().find("devices/q:arg").unwrap();
        assert_eq!((arg.local_name(), arg.namespace()), ("arg", Some("urn:q")));
        assert_eq!(arg.child("r").unwrap().namespace(), Some("urn:r"));
        assert_eq!(arg.child("s").unwrap().namespace(), None);
        assert_eq!(document.root().namespace(), None);
    }

    #[test]
    fn attributes_are_decoded() {
        let document = Document::parse(DEVICES).unwrap();
        let arg = document.root().find("devices/q:arg").unwrap();
        let attrs: Vec<_> = arg.attrs().collect();
        assert_eq!(attrs, [("xmlns", "urn:r".into()), ("value", "a b\tc".into())]);
        assert_eq!(arg.attr("file"), None);
    }

    #[test]
    fn text_returns_only_the_text_of_the_element_itself() {
        let cases = [
            ("<a/>", ""),
            ("<a> x\r\n </a>", "x"),
            ("<a>1<b>2</b>3<!-- 4 --><![CDATA[<&amp;\r\n5]]>&amp;<?p 6?></a>", "13<&amp;\n5&"),
            ("<a>\u{a0}x</a>", "\u{a0}x"),
        ];
        for (text, expected) in cases {
            assert_eq!(Document::parse(text).unwrap().root().text(), expected, "{text}");
        }
        let document = Document::parse(DEVICES).unwrap();
        assert_eq!(document.root().text_at("os/type").as_deref(), Some("hvm"));
        assert_eq!(document.root().text_at("os/none"), None);
    }
}
