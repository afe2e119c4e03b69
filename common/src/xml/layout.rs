//! Lines and indentation: the place of a piece of XML, so that the result looks hand-written.

use std::ops::Range;

use super::chars::{BYTE_ORDER_MARK, SPACE};
use super::document::Document;
use super::items::{ItemKind, Items};
use super::node::Node;

const BLANK: [char; 2] = [' ', '\t'];

/// Returns the indentation of the text at `at`, if that text begins a line.
pub(super) fn indent(text: &str, at: usize) -> Option<&str> {
    let line = text[..at].trim_end_matches(BLANK);
    let first = line.is_empty() || line.ends_with(['\n', BYTE_ORDER_MARK]);
    first.then(|| &text[line.len()..at])
}

/// Returns the indentation of `node`, if `node` begins a line and line breaks beside it have no meaning.
pub(super) fn own_indent(node: Node<'_>) -> Option<&str> {
    let within_text = node.parent().is_some_and(|parent| parent.items().has_text());
    if within_text { None } else { indent(node.document.text(), node.span().start) }
}

/// Returns the position of the line break before `node`, which begins its line.
pub(super) fn break_before(node: Node<'_>) -> Option<usize> {
    let before = node.document.text()[..node.span().start].trim_end_matches(BLANK);
    let before = before.strip_suffix('\n')?;
    Some(before.strip_suffix('\r').unwrap_or(before).len())
}

/// Returns the position of the line break after `at`, if only blanks are between.
fn break_after(text: &str, at: usize) -> Option<usize> {
    let rest = text[at..].trim_start_matches(BLANK);
    let ends = rest.is_empty() || rest.starts_with(['\r', '\n']);
    ends.then(|| text.len() - rest.len())
}

/// Returns the end of the line of `at`, if only comments follow on it: they belong to the content on their
/// left.
pub(super) fn line_end(text: &str, mut at: usize) -> Option<usize> {
    loop {
        let rest = text[at..].trim_start_matches(BLANK);
        match rest.strip_prefix("<!--").and_then(|comment| comment.find("-->")) {
            Some(length) => at = text.len() - rest.len() + "<!--".len() + length + "-->".len(),
            None => return break_after(text, at),
        }
    }
}

/// Returns the line of `node`, with the line break before it, if nothing else is on that line.
pub(super) fn whole_line(node: Node<'_>) -> Option<Range<usize>> {
    own_indent(node)?;
    let text = node.document.text();
    let end = node.span().end;
    let closes = || {
        let rest = &text[end..node.parent()?.entry().content.end];
        rest.trim_start_matches(BLANK).is_empty().then_some(end)
    };
    Some(break_before(node)?..break_after(text, end).or_else(closes)?)
}

/// Returns the position for new content at the end of `node`: after the present content, before the
/// indentation of the end tag.
pub(super) fn content_end(node: Node<'_>) -> usize {
    let text = node.document.text();
    let content = node.entry().content.clone();
    let end = content.start + text[content.clone()].trim_end_matches(SPACE).len();
    break_after(text, end).unwrap_or(end).min(content.end)
}

/// Returns the line break that `text` uses.
pub(super) fn line_break(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

/// Returns the indentation for a new child of `node`, or `None` if the child must go on the same line.
pub(super) fn child_indent(node: Node<'_>) -> Option<String> {
    if node.items().has_text() {
        return None;
    }
    let text = node.document.text();
    match node.children().last() {
        Some(child) => indent(text, child.span().start).map(str::to_owned),
        None => Some(format!("{}{}", indent(text, node.span().start)?, step(node.document))),
    }
}

/// Returns the indentation step of `document`, taken from its first indented child.
fn step(document: &Document) -> &str {
    let text = document.text();
    let step = |node: Node<'_>| -> Option<Range<usize>> {
        let own = indent(text, node.span().start)?;
        let outer = indent(text, node.parent()?.span().start)?;
        let deeper = own.strip_prefix(outer).filter(|deeper| !deeper.is_empty())?;
        Some(node.span().start - deeper.len()..node.span().start)
    };
    document.nodes().find_map(step).map_or("  ", |range| &text[range])
}

/// Returns `fragment` with its lines moved to `indent`. The first line gets no indentation.
///
/// Changes only space between elements, never text, CDATA, comments or the inside of tags.
pub(super) fn reindent(fragment: &Document, indent: &str, line_break: &str) -> String {
    let text = fragment.text();
    let mut gaps = Vec::new();
    collect_line_gaps(fragment.items(), &mut gaps);

    let old = |gap: &Range<usize>| text[gap.clone()].rsplit('\n').next().unwrap_or_default();
    let margin = gaps.iter().map(|gap| old(gap).len()).min().unwrap_or_default();
    let mut moved = String::with_capacity(text.len() + gaps.len() * indent.len());
    let mut done = 0;
    for gap in &gaps {
        moved.push_str(&text[done..gap.start]);
        moved.push_str(&line_break.repeat(text[gap.clone()].matches('\n').count()));
        moved.push_str(indent);
        moved.push_str(&old(gap)[margin..]);
        done = gap.end;
    }
    moved.push_str(&text[done..]);
    moved
}

/// Collects the spaces with a line break, except beside text, to which they may belong. The recursion is not
/// deeper than the nesting that the parser allows.
fn collect_line_gaps(items: Items<'_>, gaps: &mut Vec<Range<usize>>) {
    if items.clone().has_text() {
        return;
    }
    for item in items {
        match item.kind {
            ItemKind::Text if item.source.contains('\n') => gaps.push(item.span()),
            ItemKind::Element(node) => collect_line_gaps(node.items(), gaps),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reindenting_changes_only_the_layout() {
        let cases = [
            ("<a/>", "<a/>"),
            ("<a>\n  <b/>\n</a>", "<a>\n    <b/>\n  </a>"),
            ("<a>\n        <b/>\n      </a>", "<a>\n    <b/>\n  </a>"),
            ("<a/>\n<b/>", "<a/>\n  <b/>"),
            ("<a>\r\n\r\n<b/>\r\n</a>", "<a>\n\n  <b/>\n  </a>"),
            ("<a>\n x\n <b>\n<c/></b>\n</a>", "<a>\n x\n <b>\n<c/></b>\n</a>"),
            ("<a\nb='1\n'><!--\n--></a>", "<a\nb='1\n'><!--\n--></a>"),
            ("<a>\n<![CDATA[\n]]>\n</a>", "<a>\n<![CDATA[\n]]>\n</a>"),
        ];
        for (xml, expected) in cases {
            let fragment = Document::fragment(xml).unwrap();
            assert_eq!(reindent(&fragment, "  ", "\n"), expected, "{xml:?}");
        }
    }

    #[test]
    fn step_returns_the_indentation_step_of_the_document() {
        let cases = [("<a><b/></a>", "  "), ("<a>\n\t<b/>\n</a>", "\t"), ("<a>\n<b/>\n</a>", "  ")];
        for (xml, expected) in cases {
            assert_eq!(step(&Document::parse(xml).unwrap()), expected, "{xml:?}");
        }
    }

    #[test]
    fn line_end_includes_the_comments_that_follow_on_the_line() {
        let text = "<a/> <!-- x --><!-- y --> \n<b/><c/>";
        assert_eq!(line_end(text, 4), Some(26));
        assert_eq!(line_end(text, 31), None);
        assert_eq!(line_end(text, text.len()), Some(text.len()));
    }
}
