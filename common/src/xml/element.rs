//! New XML, built from elements.

use std::fmt::Display;

use super::chars::{check_chars, escape_text, escape_value, is_qualified_name};
use super::parse::MAX_DEPTH;
use crate::error::{Error, Result};

/// An element to be written.
///
/// A name may have a prefix; the declaration of the prefix is an attribute:
/// `Element::new("tdx:base").attr("xmlns:tdx", "urn:example")`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    name: String,
    attrs: Vec<(String, String)>,
    content: Vec<Content>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Element(Element),
    Text(String),
}

impl Element {
    /// An element with neither attributes nor content.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), attrs: Vec::new(), content: Vec::new() }
    }

    /// Adds an attribute, or replaces its value.
    #[must_use]
    pub fn attr(mut self, name: &str, value: impl Display) -> Self {
        let value = value.to_string();
        match self.attrs.iter_mut().find(|attr| attr.0 == name) {
            Some(attr) => attr.1 = value,
            None => self.attrs.push((name.to_owned(), value)),
        }
        self
    }

    /// Adds an attribute if there is a value.
    #[must_use]
    pub fn attr_opt(self, name: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.attr(name, value),
            None => self,
        }
    }

    /// Adds a child after the present content.
    #[must_use]
    pub fn child(self, child: Element) -> Self {
        self.children([child])
    }

    /// Adds a child if there is one.
    #[must_use]
    pub fn child_opt(self, child: Option<Element>) -> Self {
        self.children(child)
    }

    /// Adds children in order.
    #[must_use]
    pub fn children(mut self, children: impl IntoIterator<Item = Element>) -> Self {
        self.content.extend(children.into_iter().map(Content::Element));
        self
    }

    /// Adds text after the present content.
    #[must_use]
    pub fn text(mut self, text: impl Display) -> Self {
        self.content.push(Content::Text(text.to_string()));
        self
    }

    /// Writes the element as libvirt does: single quotes, two spaces for each level, an element with text on
    /// one line. The result does not end with a line break.
    ///
    /// Errors: `invalid_input` if a name is not an XML name, if a value or text has a character that XML 1.0
    /// cannot contain, or if elements nest too deep for [`Document::parse`].
    ///
    /// [`Document::parse`]: super::Document::parse
    pub fn to_xml(&self) -> Result<String> {
        let mut xml = String::new();
        self.write(&mut xml, 0)?;
        Ok(xml)
    }

    fn write(&self, xml: &mut String, depth: usize) -> Result<()> {
        let name = &self.name;
        check_name(name)?;
        if depth == MAX_DEPTH {
            let message = format!("elements are nested deeper than {MAX_DEPTH} at <{name}>");
            return Err(Error::invalid_input(message));
        }
        xml.push_str(&format!("<{name}"));
        for (attr, value) in &self.attrs {
            check_name(attr)?;
            check_chars(value, || format!("attribute {attr} of <{name}>"))?;
            xml.push_str(&format!(" {attr}='{}'", escape_value(value)));
        }
        if self.content.is_empty() {
            xml.push_str("/>");
            return Ok(());
        }
        xml.push('>');
        let on_lines = self.content.iter().all(|part| matches!(part, Content::Element(_)));
        for part in &self.content {
            match part {
                Content::Element(child) => {
                    if on_lines {
                        push_line(xml, depth + 1);
                    }
                    child.write(xml, depth + 1)?;
                }
                Content::Text(text) => {
                    check_chars(text, || format!("the text of <{name}>"))?;
                    xml.push_str(&escape_text(text));
                }
            }
        }
        if on_lines {
            push_line(xml, depth);
        }
        xml.push_str(&format!("</{name}>"));
        Ok(())
    }
}

/// Begins a line at `depth`, indented by two spaces per level.
pub(super) fn push_line(xml: &mut String, depth: usize) {
    xml.push('\n');
    xml.push_str(&"  ".repeat(depth));
}

fn check_name(name: &str) -> Result<()> {
    if is_qualified_name(name) {
        return Ok(());
    }
    Err(Error::invalid_input(format!("{name:?} is not a valid XML name")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_xml_writes_elements_as_libvirt_does() {
        let disk = Element::new("disk")
            .attr("type", "file")
            .attr("device", "cdrom")
            .attr("device", "disk")
            .attr_opt("index", Some(3))
            .attr_opt("snapshot", None::<&str>)
            .child(Element::new("source").attr("file", "/a'b\"c<d>&e\n"))
            .child_opt(None)
            .child_opt(Some(Element::new("readonly")))
            .children([Element::new("serial").text(17), Element::new("empty").text("")]);
        let expected = "\
<disk type='file' device='disk' index='3'>
  <source file='/a&apos;b&quot;c&lt;d&gt;&amp;e&#10;'/>
  <readonly/>
  <serial>17</serial>
  <empty></empty>
</disk>";
        assert_eq!(disk.to_xml().unwrap(), expected);
    }

    #[test]
    fn to_xml_adds_no_space_to_text_beside_children() {
        let mixed = Element::new("p").text("a").child(Element::new("b").text("c")).text("d");
        assert_eq!(mixed.to_xml().unwrap(), "<p>a<b>c</b>d</p>");
    }

    #[test]
    fn to_xml_refuses_names_and_characters_that_xml_does_not_allow() {
        let cases = [
            (Element::new("a b"), "\"a b\" is not a valid XML name"),
            (Element::new("a").attr("", 1), "\"\" is not a valid XML name"),
            (
                Element::new("a").attr("b", "\0"),
                "attribute b of <a> contains character U+0000, which XML does not allow",
            ),
            (
                Element::new("a").text("\u{1b}[0m"),
                "the text of <a> contains character U+001B, which XML does not allow",
            ),
        ];
        for (element, message) in cases {
            assert_eq!(element.to_xml().unwrap_err().message(), message);
        }
        let nested =
            |depth| (1..depth).fold(Element::new("a"), |inner, _| Element::new("a").child(inner));
        assert!(nested(256).to_xml().is_ok());
        assert!(nested(257).to_xml().is_err());
    }
}
