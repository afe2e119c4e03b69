//! Elements that several parts of a definition have.

use std::path::Path;

use common::xml::Element;
use common::{ErrorKind, Result};

pub(super) fn kib(name: &str, bytes: u64) -> Element {
    Element::new(name).attr("unit", "KiB").text(bytes / 1024)
}

/// How much 64-bit address space the guest's devices get, from bytes.
///
/// Source: <https://libvirt.org/formatdomain.html#controllers>, `pcihole64`.
pub(crate) fn pci_hole(bytes: u64) -> Element {
    kib("pcihole64", bytes)
}

/// A path as XML can hold it.
pub(crate) fn utf8(path: &Path) -> Result<&str> {
    common::path::utf8("path", path, ErrorKind::InvalidInput)
}
