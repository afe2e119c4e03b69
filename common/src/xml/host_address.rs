//! Addresses of the host's devices in libvirt's domain XML.
//!
//! An invalid address could be that of any device. It is therefore an error and never treated as no address.

use crate::error::{Error, ErrorKind, Result};
use crate::system::pci::Bdf;
use crate::xml::Node;

/// Returns the PCI address in the `<source>` of a device element.
///
/// Errors: `invalid_input` for an address that is absent or invalid.
/// Source: <https://libvirt.org/formatdomain.html#host-device-assignment>.
pub fn source_pci(device: Node<'_>) -> Result<Bdf> {
    device.find("source/address").and_then(pci).ok_or_else(|| unclear("PCI", device))
}

/// Returns `host:channel:target:lun` of the `<source>` of a SCSI host device; none for one by iSCSI.
///
/// Errors: `invalid_input` for an address that is absent or invalid.
/// Source: <https://libvirt.org/formatdomain.html#host-device-assignment>.
pub fn source_scsi(device: Node<'_>) -> Result<Option<String>> {
    if device.attr_at("source", "protocol").is_some() {
        return Ok(None);
    }
    let parsed = || {
        let adapter = device.attr_at("source/adapter", "name")?;
        let host = number(adapter.strip_prefix("scsi_host")?)?;
        let address = device.find("source/address")?;
        let part = |name: &str| number(&address.attr(name)?);
        Some(format!("{host}:{}:{}:{}", part("bus")?, part("target")?, part("unit")?))
    };
    parsed().map(Some).ok_or_else(|| unclear("SCSI", device))
}

/// Reads an `<address>` of a PCI device; none when the address is invalid.
pub fn pci(address: Node<'_>) -> Option<Bdf> {
    let part = |name: &str| number(&address.attr(name)?);
    let bdf = Bdf {
        domain: address.attr("domain").map_or(Some(0), |domain| number(&domain))?,
        bus: part("bus")?.try_into().ok()?,
        device: part("slot")?.try_into().ok()?,
        function: part("function")?.try_into().ok()?,
    };
    (bdf.device < 32 && bdf.function < 8).then_some(bdf)
}

/// The error about a device whose address is absent or invalid.
pub fn unclear(kind: &str, device: Node<'_>) -> Error {
    let line: Vec<&str> = device.source().split_whitespace().collect();
    Error::invalid_input(format!("a host device has an invalid {kind} address"))
        .because(line.join(" "))
}

/// Returns the error about a domain that has a device whose address is invalid. Other errors are returned unchanged.
pub fn in_domain(name: &str, error: Error) -> Error {
    match error.kind() {
        ErrorKind::InvalidInput => {
            Error::conflict(format!("cannot determine which host devices domain '{name}' uses"))
                .because(error)
                .hint(format!("virsh edit {name}"))
        }
        _ => error,
    }
}

/// Parses a number as libvirt does, by the rules of C: hexadecimal with 0x, octal with a leading zero.
///
/// Source: strtoul(3) with base 0; libvirt's `virPCIDeviceAddressParseXML()`.
fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    // from_str_radix alone would take a leading plus.
    let plain = digits.chars().all(|c| c.is_digit(radix));
    plain.then(|| u32::from_str_radix(digits, radix).ok())?
}
