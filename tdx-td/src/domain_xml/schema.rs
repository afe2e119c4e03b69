//! Finds the elements and attributes of a domain definition that libvirt's own schema does not know.
//!
//! libvirt ignores elements and attributes that it does not know, unless it validates a definition
//! against its schema. Then its error names only an element around the fault. The schema is
//! RELAX NG in XML syntax and installed with libvirt, so it matches the libvirt in use.
//!
//! Only names are checked here, each below the elements that may contain it. Values, order and number are left
//! to libvirt's validation, see [`super::validation`].
//!
//! Source: <https://relaxng.org/spec-20011203.html>, "Full Syntax".

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use common::Result;
use common::system::sysroot::Host;
use common::xml::{Document, Node};

use super::part::Part;

const FOLDER: &str = "/usr/share/libvirt/schemas";
const DOMAIN: &str = "domain.rng";

/// libvirt's schema of a domain: the grammar and all grammars that it includes.
#[derive(Debug)]
pub struct Schema {
    grammars: Vec<Document>,
}

impl Schema {
    /// Reads the schema of this host's libvirt; `None` if it is not installed.
    ///
    /// Errors: `failed` for a file that cannot be read, `invalid_input` for one that is not XML.
    pub fn read(host: &Host) -> Result<Option<Self>> {
        Self::load(|file| host.read(&format!("{FOLDER}/{file}")))
    }

    fn load(read: impl Fn(&str) -> Result<Option<String>>) -> Result<Option<Self>> {
        let mut names = vec![DOMAIN.to_owned()];
        let mut grammars = Vec::new();
        while let Some(name) = names.get(grammars.len()) {
            let Some(text) = read(name)? else { return Ok(None) };
            let grammar = Document::parse(text)?;
            let includes = grammar.root().descendants().filter(|n| n.local_name() == "include");
            let included: Vec<String> =
                includes.filter_map(|node| Some(node.attr("href")?.into_owned())).collect();
            for file in included {
                if !names.contains(&file) {
                    names.push(file);
                }
            }
            grammars.push(grammar);
        }
        Ok(Some(Self { grammars }))
    }

    /// Returns the elements and attributes of a definition that the schema does not allow in their place, in
    /// document order. The content of an unknown element is not checked.
    pub fn unknown(&self, document: &Document) -> Vec<Part> {
        let mut names = Names { defines: HashMap::new() };
        let roots = self.grammars.iter().map(Document::root);
        for define in roots.flat_map(Node::descendants).filter(|n| n.local_name() == "define") {
            if let Some(name) = define.attr("name") {
                names.defines.entry(name.into_owned()).or_default().push(define);
            }
        }
        let start = self.grammars[0].root().children().filter(|n| n.local_name() == "start");
        let content = names.content(start);
        let mut unknown = Vec::new();
        names.judge(document.root(), &content, &mut unknown);
        unknown
    }
}

/// The children and attributes that an element may have.
#[derive(Debug, Default)]
struct Content<'a> {
    /// The patterns of child elements.
    elements: Vec<Node<'a>>,
    attributes: HashSet<String>,
    /// Whether attributes of any name are allowed.
    any_attribute: bool,
}

#[derive(Debug)]
struct Names<'a> {
    /// All definitions of each name: a definition may be combined with others of the same name.
    defines: HashMap<String, Vec<Node<'a>>>,
}

impl<'a> Names<'a> {
    fn content(&self, patterns: impl IntoIterator<Item = Node<'a>>) -> Content<'a> {
        let mut content = Content::default();
        let mut followed = HashSet::new();
        let mut left: Vec<Node<'a>> = patterns.into_iter().flat_map(Node::children).collect();
        while let Some(pattern) = left.pop() {
            match pattern.local_name() {
                "element" => content.elements.push(pattern),
                "attribute" => match pattern.attr("name") {
                    Some(name) => drop(content.attributes.insert(name.into_owned())),
                    None => content.any_attribute = true,
                },
                "ref" => {
                    let name = pattern.attr("name").unwrap_or_default().into_owned();
                    if let (Some(defines), false) =
                        (self.defines.get(&name), followed.contains(&name))
                    {
                        left.extend(defines.iter().flat_map(|define| define.children()));
                        followed.insert(name);
                    }
                }
                // Classes of names, such as anyName, contain no patterns.
                "anyName" | "nsName" | "name" => {}
                _ => left.extend(pattern.children()),
            }
        }
        content
    }

    fn judge(&self, node: Node<'_>, allowed: &Content<'a>, unknown: &mut Vec<Part>) {
        let fits = |pattern: &&Node<'a>| match pattern.attr("name") {
            Some(name) => name == node.local_name() && namespace(**pattern) == node.namespace(),
            None => true,
        };
        let patterns: Vec<Node<'a>> = allowed.elements.iter().filter(fits).copied().collect();
        if patterns.is_empty() {
            unknown.push(Part::element(node));
            return;
        }
        if patterns.iter().any(|pattern| pattern.attr("name").is_none()) {
            return;
        }
        let content = self.content(patterns);
        for (name, _) in node.attrs() {
            let declares = name == "xmlns" || name.contains(':');
            if !declares && !content.any_attribute && !content.attributes.contains(name) {
                unknown.push(Part::attribute(node, name));
            }
        }
        for child in node.children() {
            self.judge(child, &content, unknown);
        }
    }
}

/// Returns the namespace of the elements that a pattern describes; `None` for no namespace.
fn namespace(pattern: Node<'_>) -> Option<&str> {
    let mut around = std::iter::successors(Some(pattern), |node| node.parent());
    match around.find_map(|node| node.attr("ns"))? {
        Cow::Borrowed(name) if !name.is_empty() => Some(name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A schema in several files, with the parts of RELAX NG that libvirt's has.
    fn schema() -> Schema {
        let file = |name: &str| {
            let text = match name {
                "domain.rng" => {
                    "<grammar xmlns='http://relaxng.org/ns/structure/1.0'>\
                     <start><ref name='domain'/></start><include href='common.rng'/></grammar>"
                }
                "common.rng" => {
                    "<grammar xmlns='http://relaxng.org/ns/structure/1.0'>\
                     <include href='types.rng'/>\
                     <define name='domain'><element name='domain'><interleave>\
                     <attribute name='type'><ref name='word'/></attribute>\
                     <optional><element name='pm'><interleave>\
                     <optional><element name='s3'><ref name='on'/></element></optional>\
                     </interleave></element></optional>\
                     <optional><element name='metadata'><zeroOrMore><ref name='any'/></zeroOrMore>\
                     </element></optional>\
                     <optional><element name='arg' ns='urn:q'><attribute name='value'/></element>\
                     </optional><zeroOrMore><ref name='nested'/></zeroOrMore>\
                     </interleave></element></define>\
                     <define name='nested'><element name='nested'>\
                     <optional><ref name='nested'/></optional></element></define>\
                     <define name='on' combine='choice'><attribute name='more'/></define>\
                     </grammar>"
                }
                _ => {
                    "<grammar xmlns='http://relaxng.org/ns/structure/1.0'>\
                     <define name='word'><data type='string'/></define>\
                     <define name='on' combine='choice'><attribute name='enabled'/></define>\
                     <define name='any'><element><anyName><except><name>x</name></except></anyName>\
                     <zeroOrMore><choice><attribute><anyName/></attribute><text/><ref name='any'/>\
                     </choice></zeroOrMore></element></define></grammar>"
                }
            };
            Ok(Some(text.to_owned()))
        };
        Schema::load(file).unwrap().unwrap()
    }

    fn unknown(text: &str) -> Vec<String> {
        let document = Document::parse(text).unwrap();
        let parts = schema().unknown(&document);
        for part in &parts {
            assert!(part.node(&document).is_some(), "{part}");
        }
        parts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn unknown_is_empty_for_names_of_the_schema() {
        for text in [
            "<domain type='kvm'/>",
            "<domain type='kvm'><pm><s3 enabled='no' more=''/></pm></domain>",
            "<domain><metadata><a:b xmlns:a='urn:a' c='d'><e/></a:b></metadata></domain>",
            "<domain xmlns:q='urn:q'><q:arg value='x'/></domain>",
            "<domain><nested><nested><nested/></nested></nested></domain>",
        ] {
            assert_eq!(unknown(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn unknown_returns_element_attribute_and_line() {
        for (text, expected) in [
            (
                "<domain kind='x'\n>\n<pm><s3\n enable='no'/><s4/></pm>\n<pn><s3/></pn></domain>",
                vec![
                    "attribute kind of domain (line 1)",
                    "attribute enable of domain/pm/s3 (line 4)",
                    "element domain/pm/s4 (line 4)",
                    "element domain/pn (line 5)",
                ],
            ),
            // In its namespace only.
            ("<domain><arg value='x'/></domain>", vec!["element domain/arg (line 1)"]),
            ("<domain><s3/></domain>", vec!["element domain/s3 (line 1)"]),
            ("<network/>", vec!["element network (line 1)"]),
        ] {
            assert_eq!(unknown(text), expected, "{text}");
        }
    }

    #[test]
    fn read_returns_none_without_an_installed_schema() {
        assert!(Schema::load(|_| Ok(None)).unwrap().is_none());
    }
}
