//! Single edits: the exact bytes of each result.

use super::{Document, Edit, Node};
use crate::error::ErrorKind;

/// An edit at one node.
type Call = for<'a, 'e> fn(&'e mut Edit<'a>, Node<'a>) -> &'e mut Edit<'a>;

/// Makes one edit of `text`; `call` gets the edit and the first element named `x`.
fn edited(
    text: &str,
    call: impl for<'a, 'e> Fn(&'e mut Edit<'a>, Node<'a>) -> &'e mut Edit<'a>,
) -> String {
    let document = Document::parse(text).unwrap();
    let root = document.root();
    let node = root.descendants().find(|node| node.name() == "x").unwrap_or(root);
    let mut edit = document.edit();
    call(&mut edit, node);
    edit.finish().unwrap()
}

#[test]
fn remove_also_removes_the_line_of_an_element_alone_on_it() {
    let cases = [
        ("<a>\n  <x/>\n  <b/>\n</a>", "<a>\n  <b/>\n</a>"),
        ("<a>\n  <b/>\n  <x>\n  </x>  \n</a>", "<a>\n  <b/>\n</a>"),
        ("<a>\r\n\t<b/>\r\n\t<x/>\r\n</a>", "<a>\r\n\t<b/>\r\n</a>"),
        ("<a>\n  <x/>\n</a>", "<a>\n</a>"),
        ("<a>\n  <x/></a>", "<a></a>"),
        ("<a><x/></a>", "<a></a>"),
        ("<a>\n  <x/><b/>\n</a>", "<a>\n  <b/>\n</a>"),
        ("<a>\n  <x/> <!-- c -->\n</a>", "<a>\n   <!-- c -->\n</a>"),
        ("<a>text\n  <x/>\n</a>", "<a>text\n  \n</a>"),
    ];
    for (text, expected) in cases {
        assert_eq!(edited(text, |edit, x| edit.remove(x)), expected, "{text:?}");
    }
}

#[test]
fn insert_into_adds_a_line_where_children_have_lines_of_their_own() {
    let cases = [
        // If the children have lines of their own, the new one gets a line.
        (
            "<a>\n  <x>\n    <b/>\n  </x>\n</a>",
            "<a>\n  <x>\n    <b/>\n    <n>\n      <m/>\n    </n>\n  </x>\n</a>",
        ),
        (
            "<x>\n\t<b>\n\t</b>\n\t<!-- c -->\n</x>",
            "<x>\n\t<b>\n\t</b>\n\t<!-- c -->\n\t<n>\n\t  <m/>\n\t</n>\n</x>",
        ),
        ("<x>\r\n <b/></x>", "<x>\r\n <b/>\r\n <n>\r\n   <m/>\r\n </n></x>"),
        // Without children the new child is indented by the step of the document.
        ("<x/>", "<x>\n  <n>\n    <m/>\n  </n>\n</x>"),
        (
            "<a>\n    <x />\n</a>",
            "<a>\n    <x>\n        <n>\n          <m/>\n        </n>\n    </x>\n</a>",
        ),
        (
            "<a>\n  <x b='1' ></x>\n</a>",
            "<a>\n  <x b='1' >\n    <n>\n      <m/>\n    </n>\n  </x>\n</a>",
        ),
        ("<a>\n  <x>\n  </x>\n</a>", "<a>\n  <x>\n    <n>\n      <m/>\n    </n>\n  </x>\n</a>"),
        ("<x>  </x>", "<x>\n  <n>\n    <m/>\n  </n>\n</x>"),
        ("<x><!-- c --></x>", "<x><!-- c -->\n  <n>\n    <m/>\n  </n>\n</x>"),
        // If the children have no lines of their own, the new one gets none.
        ("<x><b/></x>", "<x><b/><n>\n  <m/>\n</n></x>"),
        ("<a><x/></a>", "<a><x><n>\n  <m/>\n</n></x></a>"),
        ("<x>text\n</x>", "<x>text<n>\n  <m/>\n</n>\n</x>"),
    ];
    for (text, expected) in cases {
        let insert: Call = |edit, x| edit.insert_into(x, "\n<n>\n  <m/>\n</n>\n");
        assert_eq!(edited(text, insert), expected, "{text:?}");
    }
}

#[test]
fn insert_before_and_after_add_lines_beside_an_element_alone_on_its_line() {
    let cases = [
        ("<a>\n  <x/>\n</a>", "<a>\n  <1/>\n  <x/>\n  <2/>\n</a>"),
        ("<a>\n  <x/> <!-- c -->\n</a>", "<a>\n  <1/>\n  <x/> <!-- c -->\n  <2/>\n</a>"),
        ("<a>\n\n  <x/><b/>\n</a>", "<a>\n\n  <1/>\n  <x/><2/><b/>\n</a>"),
        ("<a><x/></a>", "<a><1/><x/><2/></a>"),
        ("<a>text\n<x/>\n</a>", "<a>text\n<1/><x/><2/>\n</a>"),
    ];
    for (text, expected) in cases {
        let insert: Call = |edit, x| edit.insert_before(x, "<n1/>").insert_after(x, "<n2/>");
        let expected = expected.replace("<1", "<n1").replace("<2", "<n2");
        assert_eq!(edited(text, insert), expected, "{text:?}");
    }
}

#[test]
fn insert_before_and_after_add_comments_beside_the_root() {
    let text = "<?xml version='1.0'?>\n<x/>\n";
    let insert: Call = |edit, x| edit.insert_before(x, "<!-- 1 -->").insert_after(x, "<!-- 2 -->");
    assert_eq!(edited(text, insert), "<?xml version='1.0'?>\n<!-- 1 -->\n<x/>\n<!-- 2 -->\n");
}

#[test]
fn replace_indents_the_new_element_like_the_old_one() {
    let cases = [
        ("<a>\n    <x>\n    </x>\n</a>", "<a>\n    <n>\n      <m/>\n    </n>\n</a>"),
        ("<a><x/></a>", "<a><n>\n  <m/>\n</n></a>"),
        ("<x/>", "<n>\n  <m/>\n</n>"),
    ];
    for (text, expected) in cases {
        let replace: Call = |edit, x| edit.replace(x, "<n>\n  <m/>\n</n>");
        assert_eq!(edited(text, replace), expected, "{text:?}");
    }
}

#[test]
fn set_attr_keeps_place_and_quotes_and_escapes_the_value() {
    let cases = [
        ("<x b='1'  c = \"2\" />", "b", "&'", "<x b='&amp;&apos;'  c = \"2\" />"),
        ("<x b='1'  c = \"2\" />", "c", "\n", "<x b='1'  c = \"&#10;\" />"),
        ("<x b='1'  c = \"2\" />", "d", "3", "<x b='1'  c = \"2\" d=\"3\" />"),
        ("<x></x>", "d", "3", "<x d='3'></x>"),
        ("<a b=\"1\"><x/></a>", "d", "3", "<a b=\"1\"><x d=\"3\"/></a>"),
        ("<x b='&#65;'/>", "b", "A", "<x b='&#65;'/>"),
        ("<x xmlns:p='u'/>", "p:b", "1", "<x xmlns:p='u' p:b='1'/>"),
    ];
    for (text, name, value, expected) in cases {
        assert_eq!(edited(text, |edit, x| edit.set_attr(x, name, value)), expected, "{text}");
    }
}

#[test]
fn rename_attr_keeps_the_value_and_remove_attr_removes_the_space_before_it() {
    let cases = [
        ("<x b='1'  c = \"2\" />", "b", "<x n='1'  c = \"2\" />", "<x  c = \"2\" />"),
        ("<x b='1'\n  c = \"2\" />", "c", "<x b='1'\n  n = \"2\" />", "<x b='1' />"),
        ("<x b='1'/>", "d", "<x b='1'/>", "<x b='1'/>"),
    ];
    for (text, name, renamed, removed) in cases {
        assert_eq!(edited(text, |edit, x| edit.rename_attr(x, name, "n")), renamed, "{text}");
        assert_eq!(edited(text, |edit, x| edit.remove_attr(x, name)), removed, "{text}");
    }
}

#[test]
fn set_text_escapes_the_text_and_removes_comments() {
    let cases = [
        ("<x>1</x>", "<x>a&lt;b</x>"),
        ("<x/>", "<x>a&lt;b</x>"),
        ("<x b='1' />", "<x b='1'>a&lt;b</x>"),
        ("<x><!-- c -->1</x>", "<x>a&lt;b</x>"),
        ("<x><![CDATA[a<b]]></x>", "<x><![CDATA[a<b]]></x>"),
    ];
    for (text, expected) in cases {
        assert_eq!(edited(text, |edit, x| edit.set_text(x, "a<b")), expected, "{text}");
    }
    assert_eq!(edited("<x/>", |edit, x| edit.set_text(x, "")), "<x/>");
}

#[test]
fn insertions_at_one_place_keep_the_order_of_the_calls() {
    let text = "<a>\n  <b/>\n  <x/>\n</a>";
    let document = Document::parse(text).unwrap();
    let (root, nodes) = (document.root(), document.root().children().collect::<Vec<_>>());
    let mut edit = document.edit();
    edit.insert_into(root, "<n4/>")
        .insert_before(nodes[1], "<n3/>")
        .insert_after(nodes[0], "<n1/>")
        .insert_after(nodes[0], "<n2/>")
        .insert_into(root, "<n5/>")
        .remove(nodes[0])
        .remove(nodes[1]);
    let expected = "<a>\n  <n1/>\n  <n2/>\n  <n3/>\n  <n4/>\n  <n5/>\n</a>";
    assert_eq!(edit.finish().unwrap(), expected);

    let document = Document::parse("<a>\n  <x/>\n</a>").unwrap();
    let x = document.root().child("x").unwrap();
    let mut edit = document.edit();
    edit.insert_into(x, "<m1/>")
        .set_attr(x, "b", "1")
        .insert_into(x, "<m2/>")
        .insert_after(x, "<y/>");
    let expected = "<a>\n  <x b='1'>\n    <m1/>\n    <m2/>\n  </x>\n  <y/>\n</a>";
    assert_eq!(edit.finish().unwrap(), expected);
}

/// Makes edits that fail and returns the error.
fn refused(
    call: impl for<'a, 'e> Fn(&'e mut Edit<'a>, Node<'a>) -> &'e mut Edit<'a>,
) -> (ErrorKind, String) {
    let document = Document::parse("<a>\n  <x b='1'><y/></x>\n  <z/>\n</a>").unwrap();
    let mut edit = document.edit();
    call(&mut edit, document.root().child("x").unwrap());
    let error = edit.finish().unwrap_err();
    (error.kind(), [vec![error.message().to_owned()], error.causes()].concat().join(": "))
}

#[test]
fn overlapping_edits_are_refused() {
    let calls: [Call; 5] = [
        |edit, x| edit.remove(x).remove(x),
        |edit, x| edit.remove(x).remove(x.child("y").unwrap()),
        |edit, x| edit.replace(x, "<n/>").set_attr(x, "c", "1"),
        |edit, x| edit.insert_into(x, "<n/>").remove(x),
        |edit, x| edit.set_attr(x, "b", "2").set_attr(x, "b", "3"),
    ];
    for call in calls {
        let (kind, text) = refused(call);
        assert_eq!(kind, ErrorKind::Failed);
        assert!(text.starts_with("two edits touch the same XML at "), "{text}");
    }
}

#[test]
fn wrong_arguments_are_refused() {
    let calls: [(Call, &str); 9] = [
        (|edit, x| edit.insert_into(x, " \n"), "the XML to insert is empty"),
        (
            |edit, x| edit.insert_into(x, "</x><x>"),
            "the XML to insert is invalid: malformed XML at 1:1: ",
        ),
        (
            |edit, x| edit.replace(x, "<n>\n<m>"),
            "the XML to insert is invalid: malformed XML at 2:1: ",
        ),
        (
            |edit, x| edit.insert_after(x, "<q:n/>"),
            "the edited XML would be invalid: malformed XML at 3:3: ",
        ),
        (|edit, x| edit.set_attr(x, "b c", ""), "\"b c\" is not a valid attribute name"),
        (
            |edit, x| edit.set_attr(x, "c", "\0"),
            "the value of attribute c contains character U+0000",
        ),
        (|edit, x| edit.set_text(x, ""), "cannot set the text of <x>: it has child elements"),
        (
            |edit, x| edit.remove(x.parent().unwrap()),
            "the edited XML would be invalid: malformed XML at 1:1: no root",
        ),
        // The first error is reported.
        (|edit, x| edit.set_text(x, "").insert_into(x, "<"), "cannot set the text"),
    ];
    for (call, expected) in calls {
        let (kind, text) = refused(call);
        assert_eq!(kind, ErrorKind::InvalidInput);
        assert!(text.starts_with(expected), "{text}");
    }
}

#[test]
fn nodes_of_another_document_are_refused() {
    let (one, two) = (Document::parse("<a/>").unwrap(), Document::parse("<a/>").unwrap());
    let mut edit = one.edit();
    edit.remove(two.root());
    let error = edit.finish().unwrap_err();
    assert_eq!(error.message(), "<a> at 0..4 belongs to another document");
}
