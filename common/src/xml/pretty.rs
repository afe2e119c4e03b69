//! Lays out a document with one element per line.

use super::document::Document;
use super::element::push_line;
use super::items::{ItemKind, Items};
use super::node::Node;
use crate::error::Result;

/// Lays `text` out with one element per line and two spaces per level.
///
/// Tags, comments, CDATA and elements with text are not changed. The result ends with a line break and has no
/// byte order mark.
///
/// Errors: as [`Document::parse`].
pub fn pretty(text: &str) -> Result<String> {
    let document = Document::parse(text)?;
    let mut out = String::with_capacity(text.len() + text.len() / 2);
    push_items(&mut out, document.items(), 0);
    out.push('\n');
    Ok(out)
}

/// Lays out content without text of its own. The recursion is not deeper than the nesting that the parser
/// allows.
fn push_items(out: &mut String, items: Items<'_>, depth: usize) {
    let mut gap = "";
    for item in items {
        if item.kind == ItemKind::Text {
            gap = item.source;
            continue;
        }
        if item.kind == ItemKind::Comment && !gap.is_empty() && !gap.contains('\n') {
            out.push(' ');
        } else if !out.is_empty() {
            push_line(out, depth);
        }
        gap = "";
        match item.kind {
            ItemKind::Element(node) => push_element(out, node, depth),
            _ => out.push_str(item.source),
        }
    }
}

fn push_element(out: &mut String, node: Node<'_>, depth: usize) {
    let content = &node.entry().content;
    let text = node.document.text();
    // Space alone is the value of an element like <name>, unless it is the remainder of a layout.
    let mut items = node.items();
    let empty =
        items.all(|item| item.kind == ItemKind::Text) && !text[content.clone()].contains('\n');
    if empty || node.items().has_text() {
        out.push_str(node.source());
        return;
    }
    out.push_str(&text[node.span().start..content.start]);
    push_items(out, node.items(), depth + 1);
    push_line(out, depth);
    out.push_str(&text[content.end..node.span().end]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pretty_changes_only_the_layout() {
        let cases = [
            ("<a/>", "<a/>\n"),
            (
                "\u{feff}<?xml version='1.0'?><!-- c --><a/>\n\n",
                "<?xml version='1.0'?>\n<!-- c -->\n<a/>\n",
            ),
            ("<a><b  c=\"1\"/><d>x</d></a>", "<a>\n  <b  c=\"1\"/>\n  <d>x</d>\n</a>\n"),
            ("<a>\n\n      <b>\n</b></a>", "<a>\n  <b>\n  </b>\n</a>\n"),
            ("<a><b> </b><c></c></a>", "<a>\n  <b> </b>\n  <c></c>\n</a>\n"),
            ("<a>x <b> <c/></b></a>", "<a>x <b> <c/></b></a>\n"),
            ("<a><b><![CDATA[\n]]></b></a>", "<a>\n  <b><![CDATA[\n]]></b>\n</a>\n"),
            (
                "<a> <!-- 1 -->\n<b/>  <!-- 2\n --><!-- 3 --></a>",
                "<a> <!-- 1 -->\n  <b/> <!-- 2\n -->\n  <!-- 3 -->\n</a>\n",
            ),
            ("<a><?p i?>\n<b/></a>", "<a>\n  <?p i?>\n  <b/>\n</a>\n"),
        ];
        for (text, expected) in cases {
            assert_eq!(pretty(text).unwrap(), expected, "{text:?}");
            assert_eq!(pretty(expected).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn pretty_refuses_malformed_input() {
        assert!(pretty("<a><b></a>").is_err());
    }
}
