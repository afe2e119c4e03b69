//! Hardware addresses of network cards.

/// Returns an Ethernet hardware address in lower case with colons; `None` for other text.
pub(super) fn canonical_mac(text: &str) -> Option<String> {
    let bytes: Vec<&str> = text.split([':', '-']).collect();
    let is_byte = |byte: &&str| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit());
    (bytes.len() == 6 && bytes.iter().all(is_byte)).then(|| bytes.join(":").to_lowercase())
}
