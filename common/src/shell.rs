//! Quotes words for a shell, in commands that messages suggest.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The word as bash reads it: unchanged if that is safe, otherwise in quotes.
pub fn quote(word: impl AsRef<OsStr>) -> String {
    let bytes = word.as_ref().as_bytes();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+,:=@%".contains(byte);
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && bytes.iter().all(is_plain) => text.into(),
        Ok(text) if !text.contains(char::is_control) => {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
        _ => {
            let escaped = bytes.iter().map(|byte| match byte {
                b'\'' | b'\\' => format!("\\{}", char::from(*byte)),
                b' '..=b'~' => char::from(*byte).to_string(),
                _ => format!("\\x{byte:02x}"),
            });
            format!("$'{}'", escaped.collect::<String>())
        }
    }
}

/// The path as bash reads it. A relative path that begins with a dash gets the prefix `./`, so that no command
/// takes the path for an option.
pub fn quote_path(path: &Path) -> String {
    if path.as_os_str().as_bytes().starts_with(b"-") {
        return quote(Path::new(".").join(path));
    }
    quote(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quote_quotes_only_words_that_need_it() {
        assert_eq!(quote("/mnt/a-b"), "/mnt/a-b");
        assert_eq!(quote("/mnt/it's"), "'/mnt/it'\\''s'");
        assert_eq!(quote(""), "''");
    }

    #[test]
    fn quote_path_escapes_dashes_quotes_and_bytes_that_are_not_text() {
        for (name, quoted) in [
            (&b"/a/b-c_1.qcow2"[..], "/a/b-c_1.qcow2"),
            (b"-n", "./-n"),
            (b"a b&c", "'a b&c'"),
            (b"it's", r"'it'\''s'"),
            ("画像".as_bytes(), "'画像'"),
            (b"a\nb'", r"$'a\x0ab\''"),
            (b"\xff", r"$'\xff'"),
        ] {
            assert_eq!(quote_path(Path::new(OsStr::from_bytes(name))), quoted);
        }
    }
}
