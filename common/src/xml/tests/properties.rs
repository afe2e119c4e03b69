//! Properties of every document.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::{DOMAIN, Document, Element, Node, pretty};
use crate::xml::chars::SPACE;

/// A random piece of content, which is written in one of several layouts.
#[derive(Debug, Clone)]
enum Piece {
    Element(&'static str, Vec<(&'static str, String)>, Vec<Piece>),
    /// Comments, CDATA, text: written without changes.
    Raw(&'static str),
}

fn piece() -> impl Strategy<Value = Piece> {
    let name = || select(vec!["a", "disk", "q:arg", "größe", "x-1"]);
    let attrs = || {
        let value = select(vec!["", "1", "&amp;", "&#10;", "a>b", "a\nb", "é"]);
        let attr = (select(vec!["b", "file", "q:c"]), value.prop_map(str::to_owned));
        vec(attr, 0..3).prop_map(|mut attrs| {
            attrs.sort();
            attrs.dedup_by_key(|attr| attr.0);
            attrs
        })
    };
    let raw =
        select(vec!["<!-- c -->", "<!--\n<x>\n-->", "<![CDATA[ <]]>", "<?p i?>", "text", "&lt;\n"]);
    let leaf = prop_oneof![
        3 => (name(), attrs()).prop_map(|(name, attrs)| Piece::Element(name, attrs, Vec::new())),
        1 => raw.prop_map(Piece::Raw),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        (name(), attrs(), vec(inner, 0..4))
            .prop_map(|(name, attrs, content)| Piece::Element(name, attrs, content))
    })
}

fn write(piece: &Piece, out: &mut String, depth: usize, line_break: &str, step: &str) {
    let (name, attrs, content) = match piece {
        Piece::Raw(raw) => return out.push_str(raw),
        Piece::Element(name, attrs, content) => (name, attrs, content),
    };
    let quote = if depth.is_multiple_of(2) { '\'' } else { '"' };
    out.push_str(&format!("<{name}"));
    for (attr, value) in attrs {
        out.push_str(&format!(" {attr}={quote}{value}{quote}"));
    }
    if content.is_empty() {
        return out.push_str("/>");
    }
    out.push('>');
    for piece in content {
        out.push_str(&format!("{line_break}{}", step.repeat(depth + 1)));
        write(piece, out, depth + 1, line_break, step);
    }
    out.push_str(&format!("{line_break}{}</{name}>", step.repeat(depth)));
}

/// A random document: on several lines or on one, with Unix or DOS line breaks.
fn document() -> impl Strategy<Value = String> {
    let layouts = vec![("\n", "  "), ("\r\n", "\t"), ("\n", ""), ("", ""), (" ", "")];
    (vec(piece(), 0..4), select(layouts)).prop_map(|(content, (line_break, step))| {
        let mut text = String::new();
        let attrs = vec![("xmlns:q", "urn:q".to_owned())];
        write(&Piece::Element("root", attrs, content), &mut text, 0, line_break, step);
        text + line_break
    })
}

/// Any text that XML can contain.
fn legal_text() -> impl Strategy<Value = String> {
    "([&<>'\"\r\n\t ]|]]>|[^\\p{Cc}\u{fffe}\u{ffff}]){0,12}"
}

/// Text that is almost XML, so that it gets far into the parser.
fn nearly_xml() -> impl Strategy<Value = String> {
    let tokens = [
        "<",
        ">",
        "/",
        "a",
        "<a>",
        "</a>",
        "<a",
        "/>",
        "=",
        "'",
        "\"",
        " ",
        "\n",
        "<!--",
        "-->",
        "-",
        "!",
        "<![CDATA[",
        "]]>",
        "<?",
        "?>",
        "xml",
        " version='1.0'",
        "&",
        ";",
        "&lt;",
        "#",
        "<!DOCTYPE",
        "[",
        "]",
        ":",
        "xmlns:a='u'",
        "\u{feff}",
        "é",
        "\0",
    ];
    vec(select(tokens.to_vec()), 0..24).prop_map(|tokens| tokens.concat())
}

fn pick<'a>(document: &'a Document, index: &Index) -> Node<'a> {
    let nodes: Vec<_> = document.nodes().collect();
    nodes[index.index(nodes.len())]
}

const INSERTED: &str = "<inserted>\n  <b c='1'/>\n</inserted>";

/// Removes the inserted element from a document.
fn without_inserted(text: String) -> String {
    let document = Document::parse(text).unwrap();
    let inserted = document.nodes().find(|node| node.name() == "inserted").unwrap();
    let mut edit = document.edit();
    edit.remove(inserted);
    edit.finish().unwrap()
}

proptest! {
    #[test]
    fn no_text_makes_parse_or_pretty_panic(text in prop_oneof![any::<String>(), nearly_xml()]) {
        if let Ok(document) = Document::parse(text.clone()) {
            prop_assert_eq!(document.text(), &text);
            for node in document.nodes() {
                let _ = (node.text(), node.namespace(), node.attrs().count(), node.parent());
            }
            prop_assert_eq!(&document.edit().finish().unwrap(), &text);
        }
        let _ = Document::fragment(&text);
        let _ = pretty(&text);
    }

    #[test]
    fn no_damaged_domain_makes_parse_or_pretty_panic(at in any::<Index>(), length in 0..40_usize, new in nearly_xml()) {
        let mut text = DOMAIN.to_owned();
        let at = at.index(text.len());
        text.replace_range(at..(at + length).min(text.len()), &new);
        if let Ok(document) = Document::parse(text) {
            let _ = pretty(document.text()).unwrap();
        }
    }

    #[test]
    fn spans_nest_and_sources_parse(text in document()) {
        let document = Document::parse(text).unwrap();
        for node in document.nodes() {
            prop_assert!(node.source()[1..].starts_with(node.name()));
            prop_assert!(Document::fragment(node.source()).is_ok());
            let mut end = node.span().start;
            for child in node.children() {
                prop_assert_eq!(child.parent(), Some(node));
                prop_assert!(end < child.span().start && child.span().end < node.span().end);
                end = child.span().end - 1;
            }
        }
        prop_assert_eq!(document.root().descendants().count() + 1, document.nodes().count());
    }

    #[test]
    fn finish_without_edits_returns_the_same_text(text in document()) {
        let document = Document::parse(text.clone()).unwrap();
        prop_assert_eq!(document.edit().finish().unwrap(), text);
    }

    #[test]
    fn removing_an_inserted_element_restores_the_text(text in document(), index in any::<Index>(), way in 0..3) {
        let document = Document::parse(text.clone()).unwrap();
        let node = pick(&document, &index);
        let is_root = node.parent().is_none();
        let mut edit = document.edit();
        match way {
            0 if node.children().next().is_some() => edit.insert_into(node, INSERTED),
            1 if !is_root => edit.insert_after(node, INSERTED),
            2 if !is_root => edit.insert_before(node, INSERTED),
            _ => return Ok(()),
        };
        let inserted = edit.finish().unwrap();
        prop_assert_ne!(&inserted, &text);
        prop_assert_eq!(without_inserted(inserted), text);
    }

    #[test]
    fn insert_into_an_empty_parent_changes_no_byte_outside_of_it(text in document(), index in any::<Index>()) {
        let document = Document::parse(text.clone()).unwrap();
        let leaves: Vec<_> = document.nodes().filter(|node| node.children().next().is_none()).collect();
        let node = leaves[index.index(leaves.len())];
        let mut edit = document.edit();
        edit.insert_into(node, INSERTED);
        let restored = Document::parse(without_inserted(edit.finish().unwrap())).unwrap();
        let again = restored.node(node.id);
        prop_assert_eq!(again.text(), node.text());
        prop_assert!(again.attrs().eq(node.attrs()));
        let (old, new) = (node.span(), again.span());
        prop_assert_eq!(&restored.text()[..new.start], &text[..old.start]);
        prop_assert_eq!(&restored.text()[new.end..], &text[old.end..]);
    }

    #[test]
    fn set_attr_with_the_same_value_changes_nothing(text in document(), index in any::<Index>()) {
        let document = Document::parse(text.clone()).unwrap();
        let node = pick(&document, &index);
        let mut edit = document.edit();
        for (name, value) in node.attrs() {
            edit.set_attr(node, name, &value);
        }
        prop_assert_eq!(edit.finish().unwrap(), text);
    }

    #[test]
    fn values_and_texts_that_were_set_are_read_back(
        text in document(),
        index in any::<Index>(),
        name in select(vec!["b", "file", "new"]),
        value in legal_text(),
    ) {
        let document = Document::parse(text).unwrap();
        let node = pick(&document, &index);
        let mut edit = document.edit();
        edit.set_attr(node, name, &value);
        let has_children = node.children().next().is_some();
        if !has_children {
            edit.set_text(node, &value);
        }
        let edited = Document::parse(edit.finish().unwrap()).unwrap();
        let edited = edited.node(node.id);
        prop_assert_eq!(edited.attr(name), Some(value.as_str().into()));
        if !has_children {
            prop_assert_eq!(edited.untrimmed_text(), value);
        }
        for (other, value) in node.attrs().filter(|attr| attr.0 != name) {
            prop_assert_eq!(edited.attr(other), Some(value));
        }
    }

    #[test]
    fn replacing_an_element_by_itself_keeps_its_meaning(text in document(), index in any::<Index>()) {
        let document = Document::parse(text.clone()).unwrap();
        let node = pick(&document, &index);
        let mut edit = document.edit();
        edit.replace(node, node.source());
        prop_assert_eq!(pretty(&edit.finish().unwrap()).unwrap(), pretty(&text).unwrap());
    }

    #[test]
    fn pretty_of_pretty_text_changes_nothing(text in document()) {
        let once = pretty(&text).unwrap();
        prop_assert_eq!(pretty(&once).unwrap(), once.clone());
        let (old, new) = (Document::parse(text).unwrap(), Document::parse(once).unwrap());
        prop_assert!(old.nodes().map(Node::name).eq(new.nodes().map(Node::name)));
        for (old, new) in old.nodes().zip(new.nodes()) {
            prop_assert!(old.attrs().eq(new.attrs()));
            prop_assert_eq!(old.text(), new.text());
        }
    }

    #[test]
    fn a_built_element_is_parsed_with_the_same_values(
        value in legal_text(),
        text in legal_text(),
        other in legal_text(),
    ) {
        let built = Element::new("q:a")
            .attr("xmlns:q", "urn:q")
            .attr("b", &value)
            .child(Element::new("c").text(&text))
            .child(Element::new("d").attr("e", &other));
        let document = Document::parse(built.to_xml().unwrap()).unwrap();
        let root = document.root();
        prop_assert_eq!(root.attr("b"), Some(value.as_str().into()));
        prop_assert_eq!(root.attr_at("d", "e"), Some(other.as_str().into()));
        prop_assert_eq!(root.child("c").unwrap().untrimmed_text(), &*text);
        prop_assert_eq!(root.text_at("c").unwrap(), text.trim_matches(SPACE));
        prop_assert_eq!(root.children().count(), 2);
    }

    #[test]
    fn to_xml_returns_well_formed_xml_or_an_error(name in any::<String>(), value in any::<String>()) {
        let built = Element::new(&name).attr("b", &value).text(&value);
        if let Ok(xml) = built.to_xml() {
            prop_assert!(Document::fragment(&xml).is_ok());
        }
    }

    #[test]
    fn removing_one_of_many_elements_keeps_the_others(count in 1..6_usize, index in any::<Index>()) {
        let hostdevs: Vec<_> = (0..count)
            .map(|slot| format!("    <hostdev>\n      <address slot='{slot}'/>\n    </hostdev>\n"))
            .collect();
        let write = |hostdevs: &[String]| {
            format!("<domain>\n  <devices>\n{}  </devices>\n</domain>\n", hostdevs.concat())
        };
        let document = Document::parse(write(&hostdevs)).unwrap();
        let gone = index.index(count);
        let mut edit = document.edit();
        edit.remove(document.root().find_all("devices/hostdev").nth(gone).unwrap());
        let left: Vec<_> = [&hostdevs[..gone], &hostdevs[gone + 1..]].concat();
        prop_assert_eq!(edit.finish().unwrap(), write(&left));
    }
}
