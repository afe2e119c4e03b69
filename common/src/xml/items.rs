//! The content of an element, piece by piece.

use std::ops::Range;

use super::chars::{is_space, mark_length, unescape_text};
use super::document::Document;
use super::node::Node;

/// One piece of content.
#[derive(Debug, Clone)]
pub(super) struct Item<'a> {
    pub(super) kind: ItemKind<'a>,
    pub(super) source: &'a str,
    start: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ItemKind<'a> {
    Element(Node<'a>),
    /// Text with its references.
    Text,
    CData,
    Comment,
    /// A processing instruction or the XML declaration.
    Instruction,
}

impl Document {
    /// Returns the pieces outside of all elements, and the outermost elements.
    pub(super) fn items(&self) -> Items<'_> {
        Items::new(self, mark_length(self.text())..self.text().len(), 0)
    }
}

impl<'a> Node<'a> {
    pub(super) fn items(self) -> Items<'a> {
        Items::new(self.document, self.entry().content.clone(), self.id + 1)
    }

    pub(super) fn untrimmed_text(self) -> String {
        let mut text = String::new();
        for item in self.items() {
            match item.kind {
                ItemKind::Text => text.push_str(&unescape_text(item.source)),
                ItemKind::CData => {
                    let inner = &item.source["<![CDATA[".len()..item.source.len() - "]]>".len()];
                    text.push_str(&inner.replace("\r\n", "\n").replace('\r', "\n"));
                }
                _ => {}
            }
        }
        text
    }
}

impl Item<'_> {
    /// Returns the range of the item in the document's text.
    pub(super) fn span(&self) -> Range<usize> {
        self.start..self.start + self.source.len()
    }

    /// Says whether this is text with a meaning for a reader.
    fn is_text(&self) -> bool {
        match self.kind {
            ItemKind::Text => !is_space(self.source),
            ItemKind::CData => true,
            _ => false,
        }
    }
}

/// Iterates over the content of one element, which was checked when the document was parsed.
#[derive(Debug, Clone)]
pub(super) struct Items<'a> {
    document: &'a Document,
    part: Range<usize>,
    /// The entry of the next element, if it lies in `part`.
    next: usize,
}

impl<'a> Items<'a> {
    pub(super) fn new(document: &'a Document, part: Range<usize>, next: usize) -> Self {
        Self { document, part, next }
    }

    /// Says whether there is text, so that line breaks between the pieces belong to the text.
    pub(super) fn has_text(mut self) -> bool {
        self.any(|item| item.is_text())
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.part.start;
        let rest = &self.document.text()[self.part.clone()];
        if rest.is_empty() {
            return None;
        }
        let until = |open: &str, close: &str| {
            rest[open.len()..].find(close).map_or(rest.len(), |at| open.len() + at + close.len())
        };
        let (kind, length) = if rest.starts_with("<!--") {
            (ItemKind::Comment, until("<!--", "-->"))
        } else if rest.starts_with("<![CDATA[") {
            (ItemKind::CData, until("<![CDATA[", "]]>"))
        } else if rest.starts_with("<?") {
            (ItemKind::Instruction, until("<?", "?>"))
        } else if rest.starts_with('<') {
            let node = self.document.node(self.next);
            self.next = node.entry().next;
            (ItemKind::Element(node), node.source().len())
        } else {
            (ItemKind::Text, rest.find('<').unwrap_or(rest.len()))
        };
        self.part.start += length;
        Some(Item { kind, source: &rest[..length], start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_in_the_order_of_the_document() {
        let document =
            Document::parse("<a>1<!--<b>--><b><c/></b> <?p <d>?><![CDATA[<e>]]>&lt;</a>").unwrap();
        let sources: Vec<_> = document.root().items().map(|item| item.source).collect();
        let expected =
            ["1", "<!--<b>-->", "<b><c/></b>", " ", "<?p <d>?>", "<![CDATA[<e>]]>", "&lt;"];
        assert_eq!(sources, expected);
    }

    #[test]
    fn has_text_ignores_space_and_comments_between_elements() {
        let cases = [
            ("<a/>", false),
            ("<a> <b>x</b>\n<!-- x --></a>", false),
            ("<a> x<b/></a>", true),
            ("<a>&#32;<b/></a>", true),
            ("<a><![CDATA[ ]]></a>", true),
        ];
        for (text, expected) in cases {
            let document = Document::parse(text).unwrap();
            assert_eq!(document.root().items().has_text(), expected, "{text}");
        }
    }
}
