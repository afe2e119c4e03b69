//! Listen addresses in a definition.

use std::net::IpAddr;

/// Whether an address in a definition means every address of the host.
///
/// Source: inet_aton(3) for the short forms of 0.0.0.0, which getaddrinfo(3) accepts.
pub fn is_every_address(address: &str) -> bool {
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    let is_zero = |part: &str| {
        let digits = part.strip_prefix("0x").or(part.strip_prefix("0X")).unwrap_or(part);
        !part.is_empty() && digits.chars().all(|c| c == '0')
    };
    let parts = bare.split('.').count();
    match bare.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_unspecified(),
        Err(_) => bare == "*" || (parts <= 4 && bare.split('.').all(is_zero)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_every_address_accepts_all_spellings() {
        for all in
            ["0.0.0.0", "::", "[::]", "0", "0.0", "0x0", "00.0.0", "*", "::0", "::ffff:0.0.0.0"]
        {
            assert!(is_every_address(all), "{all}");
        }
        for one in ["127.0.0.1", "::1", "192.0.2.1", "localhost", "", "0.0.0.1", "10", "0.0.0.0.0"]
        {
            assert!(!is_every_address(one), "{one}");
        }
    }
}
