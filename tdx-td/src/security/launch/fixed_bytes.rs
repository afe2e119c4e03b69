//! Values of a fixed number of bytes, such as measurements, in hex, base64 or a file.

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::document::input;
use common::text::from_hex;
use common::{Error, Result};

/// The largest size of a file, in bytes.
const LIMIT: usize = 1 << 20;

/// A value of `N` bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct FixedBytes<const N: usize>([u8; N]);

impl<const N: usize> FixedBytes<N> {
    /// Parses hexadecimal digits or base64, or reads a file with either or with the bytes themselves.
    ///
    /// Errors: `invalid_input` for anything else, and for another number of bytes.
    pub fn read(flag: &str, text: &str) -> Result<Self> {
        let direct = decode(text);
        let path = Path::new(text);
        // Base64 can look like a path: 48 bytes of ones are 64 slashes.
        if direct.as_ref().is_some_and(|bytes| bytes.len() == N) || !path.exists() {
            let bytes = direct.ok_or_else(|| {
                Error::invalid_input(format!(
                    "invalid value {text:?} for {flag}: neither {N} bytes in hex or base64 nor a file"
                ))
            })?;
            return Self::checked(flag, bytes);
        }
        let bytes = input::file(path, LIMIT)?;
        let text = std::str::from_utf8(&bytes).ok().map(str::trim);
        let decoded = (bytes.len() != N).then(|| text.and_then(decode)).flatten();
        Self::checked(flag, decoded.unwrap_or(bytes))
    }

    fn checked(flag: &str, bytes: Vec<u8>) -> Result<Self> {
        let count = bytes.len();
        let message = || format!("{flag} has {count} bytes, expected {N}");
        bytes.try_into().map(Self).map_err(|_| Error::invalid_input(message()))
    }
}

/// Decodes hex or base64. A text that could be either is hex.
fn decode(text: &str) -> Option<Vec<u8>> {
    let hex = text.strip_prefix("0x").unwrap_or(text);
    if !hex.is_empty() && hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return from_hex(hex);
    }
    BASE64.decode(text).ok().filter(|bytes| !bytes.is_empty())
}

/// Reads a file of any number of bytes, or of their base64. Returns base64.
///
/// Errors: `not_found`; `invalid_input` for an empty file.
pub(crate) fn read_file(flag: &str, path: &Path) -> Result<String> {
    let bytes = input::file(path, LIMIT)?;
    if bytes.is_empty() {
        return Err(Error::invalid_input(format!("{flag}: {} is empty", path.display())));
    }
    let text = std::str::from_utf8(&bytes).ok();
    let joined = text.map(|text| text.split_whitespace().collect::<String>());
    let is_base64 = |text: &String| BASE64.decode(text).is_ok();
    Ok(joined.filter(is_base64).unwrap_or_else(|| BASE64.encode(&bytes)))
}

impl<const N: usize> fmt::Display for FixedBytes<N> {
    /// Writes base64, as libvirt needs it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

impl<const N: usize> fmt::Debug for FixedBytes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_accepts_hex_base64_and_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = |bytes: &[u8]| {
            let path = folder.path().join("value");
            std::fs::write(&path, bytes).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let read = |text: &str| FixedBytes::<48>::read("--mr-owner", text);
        let bytes: Vec<u8> = (0..48).collect();
        let hex = common::text::hex(&bytes);
        let base64 = BASE64.encode(&bytes);
        let want = FixedBytes::<48>(bytes.clone().try_into().unwrap());
        for text in [hex.as_str(), &format!("0x{hex}"), &base64] {
            assert_eq!(read(text).unwrap(), want, "{text}");
        }
        for content in [bytes.as_slice(), format!("{hex}\n").as_bytes(), base64.as_bytes()] {
            assert_eq!(read(&file(content)).unwrap(), want);
        }
        for (text, says) in [
            (hex[2..].to_owned(), "has 47 bytes, expected 48"),
            (BASE64.encode([0; 32]), "has 32 bytes, expected 48"),
            (file(&[0; 47]), "has 47 bytes, expected 48"),
            (String::new(), "neither 48 bytes"),
            ("xyz".to_owned(), "neither 48 bytes"),
            (format!("{}z!", &hex[2..]), "neither 48 bytes"),
            (hex[1..].to_owned(), "neither 48 bytes"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.message().contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn read_file_decodes_a_file_of_base64() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cert");
        for (content, want) in
            [(&b"\x00\x01\xff"[..], "AAH/"), (b"AAH/\n", "AAH/"), (b"AA\nH/\n", "AAH/")]
        {
            std::fs::write(&path, content).unwrap();
            assert_eq!(read_file("--sev-dh-cert", &path).unwrap(), want);
        }
        std::fs::write(&path, "").unwrap();
        assert!(read_file("--sev-dh-cert", &path).is_err());
    }
}
