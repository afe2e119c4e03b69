//! Text that is safe to show on a terminal, and bytes as hexadecimal digits.

use std::borrow::Cow;

/// The text on one line: control characters become escapes such as `\n`.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escape(text, char::is_control)
}

/// The text with line breaks and tabs unchanged. Other control characters become escapes.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| c.is_control() && !matches!(c, '\n' | '\t'))
}

fn escape(text: &str, unsafe_char: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&unsafe_char) {
        return text.into();
    }
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match unsafe_char(c) {
            true => safe.extend(c.escape_default()),
            false => safe.push(c),
        }
    }
    safe.into()
}

/// The bytes as lowercase hexadecimal digits, two for each byte.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that hexadecimal digits of either case stand for; none for other text.
pub fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16);
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let byte = |&[high, low]: &[u8; 2]| u8::try_from(value(high)? << 4 | value(low)?).ok();
    rest.is_empty().then(|| pairs.iter().map(byte).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_are_read_and_other_text_is_not() {
        assert_eq!(from_hex("00fFa1"), Some(vec![0, 255, 161]));
        assert_eq!(from_hex(""), Some(Vec::new()));
        for other in ["0", "0g", " 00", "+1", "é"] {
            assert_eq!(from_hex(other), None, "{other}");
        }
    }

    #[test]
    fn text_with_control_characters_is_escaped() {
        assert_eq!(one_line("a b"), "a b");
        assert_eq!(one_line("a\n\x1b[2J\u{9b}é"), "a\\n\\u{1b}[2J\\u{9b}é");
        assert_eq!(lines("a\n\tb\r\x07"), "a\n\tb\\r\\u{7}");
    }
}
