//! The characters and names that XML 1.0 allows, and the escapes for the others.

use std::borrow::Cow;

use crate::error::{Error, Result};

/// The byte order mark that some editors write first.
pub(super) const BYTE_ORDER_MARK: char = '\u{feff}';

/// Returns the length of the byte order mark of `text`, or zero without one.
pub(super) fn mark_length(text: &str) -> usize {
    if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len_utf8() } else { 0 }
}

/// The characters that XML treats as space. U+00A0 and similar characters are text.
pub(super) const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

/// Says whether `text` contains only space.
pub(super) fn is_space(text: &str) -> bool {
    text.bytes().all(is_space_byte)
}

/// Says whether `byte` is one of [`SPACE`].
pub(super) fn is_space_byte(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Finds the first character that an XML 1.0 document cannot contain, not even as a reference.
pub(super) fn illegal_char(text: &str) -> Option<(usize, char)> {
    // Every such character has one of these bytes, and ordinary text has almost none of them.
    let suspect = |byte: u8| (byte < 0x20 && !is_space_byte(byte)) | (byte == 0xef);
    if !text.bytes().fold(false, |found, byte| found | suspect(byte)) {
        return None;
    }
    text.char_indices().find(|&(_, char)| !is_legal(char))
}

/// Refuses `text` with a character that XML cannot contain; `what` names the text in the error.
pub(super) fn check_chars(text: &str, what: impl FnOnce() -> String) -> Result<()> {
    match illegal_char(text) {
        None => Ok(()),
        Some((_, char)) => {
            let message = format!(
                "{} contains character U+{:04X}, which XML does not allow",
                what(),
                u32::from(char)
            );
            Err(Error::invalid_input(message))
        }
    }
}

/// The production `Char` of XML 1.0, without the code points that a `char` cannot have.
fn is_legal(char: char) -> bool {
    !matches!(char, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\u{fffe}' | '\u{ffff}')
}

/// Says whether `name` can name an element or attribute: `local` or `prefix:local`.
pub(super) fn is_qualified_name(name: &str) -> bool {
    let (prefix, local) = split_name(name);
    prefix.is_none_or(is_plain_name) && is_plain_name(local)
}

/// Splits a qualified name into prefix and local part.
pub(super) fn split_name(name: &str) -> (Option<&str>, &str) {
    match name.bytes().position(|byte| byte == b':') {
        Some(colon) => (Some(&name[..colon]), &name[colon + 1..]),
        None => (None, name),
    }
}

/// Says whether `name` is a name without a colon.
pub(super) fn is_plain_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(starts_name) && chars.all(continues_name)
}

fn starts_name(char: char) -> bool {
    matches!(char,
        'a'..='z' | 'A'..='Z' | '_'
        | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}' | '\u{f8}'..='\u{2ff}'
        | '\u{370}'..='\u{37d}' | '\u{37f}'..='\u{1fff}' | '\u{200c}'..='\u{200d}'
        | '\u{2070}'..='\u{218f}' | '\u{2c00}'..='\u{2fef}' | '\u{3001}'..='\u{d7ff}'
        | '\u{f900}'..='\u{fdcf}' | '\u{fdf0}'..='\u{fffd}' | '\u{10000}'..='\u{effff}')
}

fn continues_name(char: char) -> bool {
    starts_name(char)
        || matches!(char, '-' | '.' | '0'..='9' | '\u{b7}'
            | '\u{300}'..='\u{36f}' | '\u{203f}'..='\u{2040}')
}

/// Resolves the text between `&` and `;`. Without a DTD only five names exist.
pub(super) fn reference(name: &str) -> Option<char> {
    match name {
        "lt" => return Some('<'),
        "gt" => return Some('>'),
        "amp" => return Some('&'),
        "apos" => return Some('\''),
        "quot" => return Some('"'),
        _ => {}
    }
    let number = name.strip_prefix('#')?;
    let (digits, radix) = match number.strip_prefix('x') {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    // `from_str_radix` would accept a sign.
    if !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    let char = char::from_u32(u32::from_str_radix(digits, radix).ok()?)?;
    is_legal(char).then_some(char)
}

/// Reads the reference at the start of `text`: the character and the length of the reference.
fn leading_reference(text: &str) -> Option<(char, usize)> {
    let (name, _) = text.strip_prefix('&')?.split_once(';')?;
    Some((reference(name)?, name.len() + 2))
}

/// Finds the first `&` that begins no known reference.
pub(super) fn bad_reference(raw: &str) -> Option<usize> {
    let mut ampersands = raw.match_indices('&').map(|(at, _)| at);
    ampersands.find(|&at| leading_reference(&raw[at..]).is_none())
}

/// Decodes an attribute value: resolves references, and replaces line breaks and tabs by spaces.
pub(super) fn unescape_value(raw: &str) -> Cow<'_, str> {
    unescape(raw, ' ', ' ')
}

/// Decodes text: resolves references, and replaces line breaks by `\n`.
pub(super) fn unescape_text(raw: &str) -> Cow<'_, str> {
    unescape(raw, '\n', '\t')
}

fn unescape(raw: &str, line_break: char, tab: char) -> Cow<'_, str> {
    const SPECIAL: [char; 4] = ['&', '\r', '\n', '\t'];
    let Some(mut at) = raw.find(SPECIAL) else {
        return Cow::Borrowed(raw);
    };
    let mut plain = String::with_capacity(raw.len());
    let mut rest = raw;
    loop {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let (char, length) = match rest.as_bytes()[0] {
            // The parser refuses unknown references.
            b'&' => leading_reference(rest).unwrap_or(('&', 1)),
            b'\t' => (tab, 1),
            _ if rest.starts_with("\r\n") => (line_break, 2),
            _ => (line_break, 1),
        };
        plain.push(char);
        rest = &rest[length..];
        match rest.find(SPECIAL) {
            Some(next) => at = next,
            None => break,
        }
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

/// Escapes `value`, so that it can stand between quotes of either kind.
pub(super) fn escape_value(value: &str) -> String {
    escape(value, true)
}

/// Escapes `text`, so that it can stand between tags. Quotes are escaped as libvirt does.
pub(super) fn escape_text(text: &str) -> String {
    escape(text, false)
}

fn escape(plain: &str, in_value: bool) -> String {
    let mut raw = String::with_capacity(plain.len());
    for char in plain.chars() {
        match char {
            '&' => raw.push_str("&amp;"),
            '<' => raw.push_str("&lt;"),
            '>' => raw.push_str("&gt;"),
            '\'' => raw.push_str("&apos;"),
            '"' => raw.push_str("&quot;"),
            '\r' => raw.push_str("&#13;"),
            '\n' if in_value => raw.push_str("&#10;"),
            '\t' if in_value => raw.push_str("&#9;"),
            _ => raw.push(char),
        }
    }
    raw
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_name_accepts_only_xml_names() {
        for good in ["a", "_", "tdx:base", "x-1.2", "größe", "名"] {
            assert!(is_qualified_name(good), "{good}");
        }
        for bad in ["", ":", "a:", ":a", "a:b:c", "1", "-a", "a b", "a/b", "a=b", "a\u{d7}", "a<"] {
            assert!(!is_qualified_name(bad), "{bad}");
        }
    }

    #[test]
    fn references_are_resolved() {
        let known = [
            ("lt", '<'),
            ("quot", '"'),
            ("#65", 'A'),
            ("#x41", 'A'),
            ("#x1F600", '😀'),
            ("#9", '\t'),
        ];
        for (name, char) in known {
            assert_eq!(reference(name), Some(char), "{name}");
        }
        for name in [
            "", "nbsp", "LT", "#", "#x", "#+65", "#X41", "#0", "#1", "#xD800", "#xFFFE", "#x110000",
        ] {
            assert_eq!(reference(name), None, "{name}");
        }
    }

    #[test]
    fn find_illegal_finds_characters_that_xml_does_not_allow() {
        for fine in ["", "\t\r\n", "a\u{7f}\u{85}", "\u{feff}\u{fffd}\u{efff}"] {
            assert_eq!(illegal_char(fine), None, "{fine:?}");
        }
        assert_eq!(illegal_char("ab\0"), Some((2, '\0')));
        assert_eq!(illegal_char("\u{fffd}\u{ffff}"), Some((3, '\u{ffff}')));
    }

    #[test]
    fn line_breaks_are_normalised_and_references_are_not() {
        let raw = "a\r\nb\rc\td&#10;&#13;&#9;&amp;lt;";
        assert_eq!(unescape_value(raw), "a b c d\n\r\t&lt;");
        assert_eq!(unescape_text(raw), "a\nb\nc\td\n\r\t&lt;");
    }

    #[test]
    fn values_and_text_are_escaped() {
        assert_eq!(
            escape_value("<a & 'b' \"c\">\r\n\t"),
            "&lt;a &amp; &apos;b&apos; &quot;c&quot;&gt;&#13;&#10;&#9;"
        );
        assert_eq!(escape_text("]]>\r\n\t"), "]]&gt;&#13;\n\t");
    }

    #[test]
    fn the_first_bad_reference_is_found() {
        assert_eq!(bad_reference("a &amp; &#65; b"), None);
        assert_eq!(bad_reference("&amp;&b;"), Some(5));
        assert_eq!(bad_reference("a & b; &amp;"), Some(2));
    }
}
