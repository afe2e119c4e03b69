//! The tree of a document, out of the parser's events.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;

use granit_parser::{Event, Parser, ScalarStyle, Tag};

use super::Error;
use super::node::{Kind, Node};

/// How deep nodes can be nested.
const DEEPEST: usize = 100;

/// How much aliases can stand for, all together, as [`Node::extent`] counts.
const COPIES: usize = 1 << 20;

/// The tree of a text.
///
/// Errors: what is no YAML, a second document, a key that is there twice or is no text, a tag that is not
/// YAML's own, aliases that stand for far more than there is.
pub(super) fn parse(text: &str) -> Result<Node, Error> {
    let mut tree = Tree::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            Error::new(error.marker().line(), format!("this is no YAML: {}", error.info()))
        })?;
        tree.take(event, span.start.line())?;
    }
    Ok(tree.root.unwrap_or(Node::null(1)))
}

#[derive(Default)]
struct Tree {
    /// Lists and maps that are not at their end, the outermost first.
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    copies: usize,
    root: Option<Node>,
}

struct Open {
    line: usize,
    anchor: usize,
    /// Of a map, keys and values by turns.
    nodes: Vec<Node>,
}

impl Tree {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), Error> {
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(Error::new(line, "a second document begins here".to_owned()))
            }
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = tag_of(tag, line)?.is_some_and(|tag| tag == "str");
                let kind = match style {
                    ScalarStyle::Plain if !is_text => Kind::Plain(text.into_owned()),
                    _ => Kind::Text(text.into_owned()),
                };
                self.put(Node { line, kind }, anchor);
                Ok(())
            }
            Event::SequenceStart(_, anchor, tag) | Event::MappingStart(_, anchor, tag) => {
                tag_of(tag, line)?;
                self.check_depth(1, line)?;
                self.open.push(Open { line, anchor, nodes: Vec::new() });
                Ok(())
            }
            Event::SequenceEnd => self.close(|nodes| Ok(Kind::List(nodes))),
            Event::MappingEnd => self.close(map),
            Event::Alias(anchor) => {
                let unfinished = || Error::new(line, "this stands for what it is in".to_owned());
                let node = self.anchors.get(&anchor).cloned().ok_or_else(unfinished)?;
                let (size, depth) = node.extent();
                self.copies += size;
                if self.copies > COPIES {
                    return Err(Error::new(line, "aliases stand for too much".to_owned()));
                }
                self.check_depth(depth, line)?;
                self.put(node, 0);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check_depth(&self, more: usize, line: usize) -> Result<(), Error> {
        match self.open.len() + more > DEEPEST {
            true => Err(Error::new(line, format!("this is nested more than {DEEPEST} deep"))),
            false => Ok(()),
        }
    }

    fn close(&mut self, kind: impl Fn(Vec<Node>) -> Result<Kind, Error>) -> Result<(), Error> {
        if let Some(Open { line, anchor, nodes }) = self.open.pop() {
            self.put(Node { line, kind: kind(nodes)? }, anchor);
        }
        Ok(())
    }

    /// A node that is whole goes into what it is in. Anchors are numbered from 1.
    fn put(&mut self, node: Node, anchor: usize) {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            Some(open) => open.nodes.push(node),
            None => self.root = Some(node),
        }
    }
}

/// The name of a tag of YAML's own; `!` is that of text.
fn tag_of(tag: Option<Cow<'_, Tag>>, line: usize) -> Result<Option<String>, Error> {
    let Some(tag) = tag else { return Ok(None) };
    match (tag.core_suffix(), tag.parts()) {
        (Some(own), _) => Ok(Some(own.to_owned())),
        (None, ("" | "!", "" | "!")) => Ok(Some("str".to_owned())),
        (None, _) => {
            Err(Error::new(line, format!("the tag {} means nothing here", tag.original())))
        }
    }
}

/// A map of keys and values that come by turns.
fn map(nodes: Vec<Node>) -> Result<Kind, Error> {
    let mut nodes = nodes.into_iter();
    let (mut pairs, mut merged) = (Vec::new(), Vec::new());
    while let (Some(key), Some(value)) = (nodes.next(), nodes.next()) {
        match &key.kind {
            Kind::Plain(text) if text == "<<" => merged.extend(maps(value)?),
            Kind::Plain(_) | Kind::Text(_) => pairs.push((key, value)),
            _ => return Err(Error::new(key.line, "a key has to be text".to_owned())),
        }
    }
    check_once(&pairs)?;
    // What a map says itself comes first, then the first of those that it is merged with.
    let name = |key: &Node| key.text().map(str::to_owned);
    let mut known: BTreeSet<_> = pairs.iter().map(|(key, _)| name(key)).collect();
    pairs.extend(merged.into_iter().filter(|(key, _)| known.insert(name(key))));
    Ok(Kind::Map(pairs))
}

/// What a merge key stands for: a map, or a list of some.
fn maps(mut node: Node) -> Result<Vec<(Node, Node)>, Error> {
    match &mut node.kind {
        Kind::Map(pairs) => Ok(take(pairs)),
        Kind::List(nodes) => {
            let all: Result<Vec<_>, _> = take(nodes).into_iter().map(maps).collect();
            Ok(all?.into_iter().flatten().collect())
        }
        _ => Err(Error::new(node.line, "only maps can be merged".to_owned())),
    }
}

fn check_once(pairs: &[(Node, Node)]) -> Result<(), Error> {
    let mut keys: Vec<_> = pairs.iter().map(|(key, _)| (key.text(), key.line)).collect();
    keys.sort_unstable();
    match keys.windows(2).find(|two| two[0].0 == two[1].0) {
        Some(two) => {
            let (key, line) = two[1];
            Err(Error::new(line, format!("{} is there twice", key.unwrap_or_default())))
        }
        None => Ok(()),
    }
}
