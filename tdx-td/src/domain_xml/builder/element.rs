//! Elements that several parts of a definition share.

use std::path::Path;

use common::xml::Element;
use common::{ErrorKind, Result};

pub(super) fn kib(name: &str, bytes: u64) -> Element {
    Element::new(name).attr("unit", "KiB").text(bytes / 1024)
}

/// Returns the element with the size of the 64-bit address space for the guest's devices.
///
/// Source: <https://libvirt.org/formatdomain.html#controllers>, `pcihole64`.
pub(crate) fn pci_hole(bytes: u64) -> Element {
    kib("pcihole64", bytes)
}

/// Returns a path as text.
pub(crate) fn utf8(path: &Path) -> Result<&str> {
    common::path::utf8("path", path, ErrorKind::InvalidInput)
}
