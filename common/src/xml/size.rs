//! Sizes as libvirt writes them: a number, and a unit in an attribute beside it.

use crate::units::Size;

/// Returns the size that a number and a unit stand for; `None` if they are not a size. Unit: bytes; KiB without a unit.
///
/// Source: <https://libvirt.org/formatdomain.html#memory-allocation>.
pub fn size_bytes(number: &str, unit: Option<&str>) -> Option<u64> {
    let unit = match unit.unwrap_or("KiB") {
        "b" | "byte" | "bytes" => "",
        unit => unit,
    };
    format!("{number}{unit}").parse::<Size>().ok().map(|size| size.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_bytes_reads_every_unit_of_libvirt() {
        for (number, unit, bytes) in [
            ("2048", None, Some(2 << 20)),
            ("2048", Some("KiB"), Some(2 << 20)),
            ("2", Some("G"), Some(2 << 30)),
            ("2", Some("GB"), Some(2_000_000_000)),
            ("77", Some("bytes"), Some(77)),
            ("77", Some("b"), Some(77)),
            ("", None, None),
            ("x", Some("KiB"), None),
            ("1", Some("parsec"), None),
        ] {
            assert_eq!(size_bytes(number, unit), bytes, "{number} {unit:?}");
        }
    }
}
