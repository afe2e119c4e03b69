//! The attributes of a start tag, as ranges of the document.

use std::ops::Range;

use super::chars::{bad_reference, is_qualified_name, is_space_byte};
use super::fault::Fault;

/// The position of one attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawAttr {
    pub(super) name: Range<usize>,
    /// The text between the quotes; the closing quote is at `value.end`.
    pub(super) value: Range<usize>,
}

impl RawAttr {
    /// Returns the offset behind the closing quote.
    pub(super) fn end(&self) -> usize {
        self.value.end + 1
    }
}

/// Reads attributes from a part of `text`, and checks each. Ends after the first fault.
#[derive(Debug, Clone)]
pub(super) struct RawAttrs<'a> {
    text: &'a str,
    part: Range<usize>,
}

impl<'a> RawAttrs<'a> {
    /// Reads `part`, which begins after the element's name and ends at `>` or `/>`.
    pub(super) fn new(text: &'a str, part: Range<usize>) -> Self {
        Self { text, part }
    }

    /// Returns the first offset at or after `from` whose byte is `wanted`, or the end.
    fn seek(&self, from: usize, wanted: impl Fn(u8) -> bool) -> usize {
        let bytes = &self.text.as_bytes()[from..self.part.end];
        bytes.iter().position(|&byte| wanted(byte)).map_or(self.part.end, |at| from + at)
    }

    fn skip_space(&self, from: usize) -> usize {
        self.seek(from, |byte| !is_space_byte(byte))
    }

    /// Returns the byte at `at`, or none at the end.
    fn byte(&self, at: usize) -> Option<u8> {
        (at < self.part.end).then(|| self.text.as_bytes()[at])
    }

    fn read(&self, start: usize) -> Result<RawAttr, Fault> {
        if start == self.part.start {
            return Err(Fault::new(start, "no space before the attribute"));
        }
        let name = start..self.seek(start, |byte| byte == b'=' || is_space_byte(byte));
        if !is_qualified_name(&self.text[name.clone()]) {
            return Err(Fault::new(start, "invalid attribute name"));
        }
        let equals = self.skip_space(name.end);
        if self.byte(equals) != Some(b'=') {
            return Err(Fault::new(equals, "attribute without a value"));
        }
        let open = self.skip_space(equals + 1);
        let quote = match self.byte(open) {
            Some(quote @ (b'\'' | b'"')) => quote,
            _ => return Err(Fault::new(open, "attribute value without quotes")),
        };
        let value = open + 1..self.seek(open + 1, |byte| byte == quote);
        if value.end == self.part.end {
            return Err(Fault::new(open, "attribute value without a closing quote"));
        }
        let special = self.seek(value.start, |byte| byte == quote || byte == b'<' || byte == b'&');
        if special < value.end {
            check_value(&self.text[value.clone()], value.start)?;
        }
        Ok(RawAttr { name, value })
    }
}

fn check_value(raw: &str, start: usize) -> Result<(), Fault> {
    if let Some(at) = raw.find('<') {
        return Err(Fault::new(start + at, "'<' in an attribute value"));
    }
    match bad_reference(raw) {
        Some(at) => Err(Fault::reference(start + at)),
        None => Ok(()),
    }
}

impl Iterator for RawAttrs<'_> {
    type Item = Result<RawAttr, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.skip_space(self.part.start);
        if start == self.part.end {
            return None;
        }
        let read = self.read(start);
        self.part.start = read.as_ref().map_or(self.part.end, RawAttr::end);
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(part: &str) -> Vec<Result<(&str, &str), usize>> {
        let pair = |raw: RawAttr| (&part[raw.name], &part[raw.value]);
        RawAttrs::new(part, 0..part.len())
            .map(|raw| raw.map(pair).map_err(|fault| fault.at))
            .collect()
    }

    #[test]
    fn attributes_are_read_with_any_quotes_and_space() {
        assert_eq!(read(""), []);
        assert_eq!(read(" \n "), []);
        assert_eq!(
            read(" a='1'\n\tb = \"it's\"  x:c=''"),
            [Ok(("a", "1")), Ok(("b", "it's")), Ok(("x:c", ""))]
        );
    }

    #[test]
    fn a_fault_ends_the_list_of_attributes() {
        let cases = [
            ("a='1'", 0),
            (" a", 2),
            (" a b='1'", 3),
            (" a=1", 3),
            (" a='1", 3),
            (" ='1'", 1),
            (" 1='1'", 1),
            (" a='<'", 4),
            (" a='x & y'", 6),
            (" a='&nbsp;' b='1'", 4),
        ];
        for (part, at) in cases {
            assert_eq!(read(part), [Err(at)], "{part}");
        }
        assert_eq!(read(" a='1'b='2'"), [Ok(("a", "1")), Err(6)]);
    }
}
