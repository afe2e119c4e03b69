//! The index of a document: the position of each element in the text.

use std::ops::Range;

use super::attrs::RawAttrs;

/// The position of one element. Entries are in document order, so that a subtree is a run of entries.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The `<` of the start tag.
    pub(super) start: usize,
    pub(super) name_end: usize,
    /// The `>` or `/>` that ends the start tag.
    pub(super) tag_end: usize,
    pub(super) content: Range<usize>,
    /// The offset after the end tag, or after a start tag that closes itself.
    pub(super) end: usize,
    /// The first entry that is not inside this element.
    pub(super) next: usize,
    pub(super) parent: Option<usize>,
}

impl Entry {
    pub(super) fn attrs<'a>(&self, text: &'a str) -> RawAttrs<'a> {
        RawAttrs::new(text, self.name_end..self.tag_end)
    }
}

/// Finds the namespace of `prefix`, or of no prefix, in the element `id`.
pub(super) fn namespace<'a>(
    text: &'a str,
    entries: &[Entry],
    id: usize,
    prefix: Option<&str>,
) -> Option<&'a str> {
    if prefix == Some("xml") {
        return Some("http://www.w3.org/XML/1998/namespace");
    }
    let declares = |name: &str| match prefix {
        Some(prefix) => name.strip_prefix("xmlns:") == Some(prefix),
        None => name == "xmlns",
    };
    let mut next = Some(id);
    while let Some(entry) = next.map(|id| &entries[id]) {
        let mut attrs = entry.attrs(text).flatten();
        if let Some(attr) = attrs.find(|attr| declares(&text[attr.name.clone()])) {
            return Some(&text[attr.value]).filter(|uri| !uri.is_empty());
        }
        next = entry.parent;
    }
    None
}
