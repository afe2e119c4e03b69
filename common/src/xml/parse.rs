//! One pass over the text, which checks it and records the position of each element.

use std::ops::Range;

use quick_xml::Reader;
use quick_xml::events::Event;

use super::attrs::RawAttrs;
use super::chars::{
    illegal_char, is_plain_name, is_qualified_name, is_space, mark_length, reference, split_name,
};
use super::entry::{Entry, namespace};
use super::fault::Fault;

/// The largest nesting depth of elements. libvirt uses about ten levels. Recursive functions rely on this
/// limit.
pub(super) const MAX_DEPTH: usize = 256;

/// The expected shape of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// One root element; every namespace prefix is declared.
    Document,
    /// Content that can stand between two tags. Prefixes may be declared outside of it.
    Fragment,
}

/// Checks `text` and lists its elements.
pub(super) fn parse(text: &str, scope: Scope) -> Result<Vec<Entry>, Fault> {
    if let Some((at, char)) = illegal_char(text) {
        return Err(Fault::new(at, format!("character U+{:04X} is not allowed", u32::from(char))));
    }
    // About one element per 50 bytes of libvirt's XML.
    let entries = Vec::with_capacity(text.len() / 48 + 1);
    Parser { text, scope, entries, open: Vec::new() }.run()
}

struct Parser<'t> {
    text: &'t str,
    scope: Scope,
    entries: Vec<Entry>,
    /// The elements that contain the reader's position, outermost first.
    open: Vec<usize>,
}

impl Parser<'_> {
    fn run(mut self) -> Result<Vec<Entry>, Fault> {
        let mut reader = Reader::from_str(self.text);
        reader.config_mut().check_comments = true;
        // The reader skips the byte order mark without counting it.
        let mark = mark_length(self.text);
        let offset = |position: u64| mark + position as usize;
        loop {
            let start = offset(reader.buffer_position());
            let event = reader
                .read_event()
                .map_err(|error| Fault::new(offset(reader.error_position()), cause(&error)))?;
            let span = start..offset(reader.buffer_position());
            match event {
                Event::Start(tag) => self.start_tag(span, tag.name().as_ref().len(), 1)?,
                Event::Empty(tag) => {
                    let end = span.end;
                    self.start_tag(span, tag.name().as_ref().len(), 2)?;
                    self.close(end..end);
                }
                Event::End(_) => self.close(span),
                Event::Text(_) => self.character_data(span)?,
                Event::CData(_) => self.inside(start)?,
                Event::GeneralRef(_) => {
                    self.inside(start)?;
                    if reference(&self.text[start + 1..span.end - 1]).is_none() {
                        return Err(Fault::reference(start));
                    }
                }
                Event::Comment(_) => {}
                Event::PI(instruction) => {
                    let target = instruction.target();
                    if !is_plain_name(target) || target.eq_ignore_ascii_case("xml") {
                        return Err(Fault::new(start, "processing instruction without a name"));
                    }
                }
                Event::Decl(_) => self.declaration(span, mark)?,
                Event::DocType(_) => return Err(Fault::new(start, "DOCTYPE is not accepted")),
                Event::Eof => break,
            }
        }
        self.end()
    }

    /// Adds a start tag that ends with `closer` bytes of `>` or `/>`.
    fn start_tag(&mut self, span: Range<usize>, name: usize, closer: usize) -> Result<(), Fault> {
        if self.scope == Scope::Document && self.open.is_empty() && !self.entries.is_empty() {
            return Err(Fault::new(span.start, "second root element"));
        }
        if self.open.len() == MAX_DEPTH {
            let what = format!("elements are nested deeper than {MAX_DEPTH}");
            return Err(Fault::new(span.start, what));
        }
        let entry = Entry {
            start: span.start,
            name_end: span.start + 1 + name,
            tag_end: span.end - closer,
            content: span.end..span.end,
            end: span.end,
            next: 0,
            parent: self.open.last().copied(),
        };
        self.open.push(self.entries.len());
        self.entries.push(entry);
        self.check_names(self.entries.len() - 1)
    }

    /// Checks the name of an element and its attributes.
    fn check_names(&self, id: usize) -> Result<(), Fault> {
        let entry = &self.entries[id];
        let name = &self.text[entry.start + 1..entry.name_end];
        if !is_qualified_name(name) {
            return Err(Fault::new(entry.start, "invalid element name"));
        }
        self.check_prefix(id, entry.start, name)?;
        let mut names = Vec::new();
        for attr in entry.attrs(self.text) {
            let attr = attr?;
            let name = &self.text[attr.name.clone()];
            self.check_prefix(id, attr.name.start, name)?;
            names.push((name, attr.name.start));
        }
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(Fault::new(pair[1].1, format!("duplicate attribute {}", pair[1].0))),
            None => Ok(()),
        }
    }

    fn check_prefix(&self, id: usize, at: usize, name: &str) -> Result<(), Fault> {
        match split_name(name).0 {
            None | Some("xml" | "xmlns") => Ok(()),
            Some(_) if self.scope == Scope::Fragment => Ok(()),
            prefix if namespace(self.text, &self.entries, id, prefix).is_some() => Ok(()),
            _ => Err(Fault::new(at, format!("the namespace prefix of {name} is not declared"))),
        }
    }

    /// Ends the innermost element. The reader has checked that `end_tag` belongs to this element.
    fn close(&mut self, end_tag: Range<usize>) {
        let next = self.entries.len();
        if let Some(id) = self.open.pop() {
            let entry = &mut self.entries[id];
            entry.content.end = end_tag.start;
            entry.end = end_tag.end;
            entry.next = next;
        }
    }

    fn character_data(&self, span: Range<usize>) -> Result<(), Fault> {
        let text = &self.text[span.clone()];
        if is_space(text) {
            return Ok(());
        }
        self.inside(span.start)?;
        match text.find("]]>") {
            Some(at) => Err(Fault::new(span.start + at, "]]> outside of CDATA")),
            None => Ok(()),
        }
    }

    /// Refuses text outside of the root element.
    fn inside(&self, at: usize) -> Result<(), Fault> {
        if self.scope == Scope::Document && self.open.is_empty() {
            return Err(Fault::new(at, "text outside of the root element"));
        }
        Ok(())
    }

    fn declaration(&self, span: Range<usize>, document_start: usize) -> Result<(), Fault> {
        if self.scope == Scope::Fragment || span.start != document_start {
            return Err(Fault::new(span.start, "XML declaration not at the start"));
        }
        let names: Vec<_> = RawAttrs::new(self.text, span.start + "<?xml".len()..span.end - 2)
            .map(|attr| attr.map(|attr| &self.text[attr.name]))
            .collect::<Result<_, _>>()?;
        match names.as_slice() {
            ["version"] | ["version", "encoding"] => Ok(()),
            ["version", "standalone"] | ["version", "encoding", "standalone"] => Ok(()),
            _ => Err(Fault::new(span.start, "XML declaration with invalid attributes")),
        }
    }

    fn end(self) -> Result<Vec<Entry>, Fault> {
        if let Some(&id) = self.open.last() {
            let entry = &self.entries[id];
            let name = &self.text[entry.start + 1..entry.name_end];
            return Err(Fault::new(entry.start, format!("<{name}> is not closed")));
        }
        if self.scope == Scope::Document && self.entries.is_empty() {
            return Err(Fault::new(self.text.len(), "no root element"));
        }
        Ok(self.entries)
    }
}

/// Returns the text of the reader's error, without the name of its class.
fn cause(error: &quick_xml::Error) -> String {
    match error {
        quick_xml::Error::Syntax(error) => error.to_string(),
        quick_xml::Error::IllFormed(error) => error.to_string(),
        error => error.to_string(),
    }
}
