//! The memory that QEMU gives a guest when it starts.

use common::units::MEMORY;
use common::xml::{Node, size_bytes};

use crate::rtmr0::GuestMemory;

/// libvirt rounds the memory of a guest, and of each of its NUMA nodes, up to this. Unit: bytes.
/// Source: libvirt `src/qemu/qemu_domain.c`, `qemuDomainGetMemorySizeAlignment`.
const ALIGNMENT: u64 = 1 << 20;

/// Returns the memory of a domain.
///
/// Errors: the reason why the layout of the memory is not known.
pub(super) fn guest_memory(domain: Node<'_>) -> Result<GuestMemory, String> {
    let machine = domain.attr_at("os/type", "machine").unwrap_or_default();
    if machine != "q35" && !machine.starts_with("pc-q35-") {
        return Err(format!(
            "the machine type is '{machine}': only the memory layout of q35 is known"
        ));
    }
    if domain.find("devices/memory").is_some() {
        return Err("the domain has memory devices".to_owned());
    }
    let cells: Vec<Node<'_>> = domain.find_all("cpu/numa/cell").collect();
    let bytes = match cells.as_slice() {
        [] => domain
            .child("memory")
            .and_then(|memory| aligned(size_bytes(&memory.text(), memory.attr("unit").as_deref()))),
        cells => cells.iter().try_fold(0u64, |sum, cell| {
            let size = size_bytes(&cell.attr("memory")?, cell.attr("unit").as_deref());
            sum.checked_add(aligned(size)?)
        }),
    };
    let bytes = bytes.filter(|bytes| MEMORY.contains(bytes));
    bytes
        .map(GuestMemory)
        .ok_or_else(|| "the definition states no valid size of the memory".to_owned())
}

fn aligned(size: Option<u64>) -> Option<u64> {
    size?.checked_next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use common::xml::Document;

    use super::*;

    fn memory(machine: &str, inside: &str) -> Result<u64, String> {
        let xml = format!("<domain><os><type machine='{machine}'>hvm</type></os>{inside}</domain>");
        guest_memory(Document::parse(xml).unwrap().root()).map(|memory| memory.0)
    }

    #[test]
    fn memory_is_rounded_as_libvirt_rounds_it() {
        let cells = "<memory>1</memory><cpu><numa><cell memory='1025'/><cell memory='1' unit='GiB'/></numa></cpu>";
        for (inside, bytes) in [
            ("<memory unit='GiB'>8</memory>", 8 << 30),
            ("<memory>2097152</memory><currentMemory>1048576</currentMemory>", 2 << 30),
            ("<memory>1025</memory>", 2 << 20),
            (cells, (2 << 20) + (1 << 30)),
        ] {
            assert_eq!(memory("pc-q35-10.1", inside), Ok(bytes), "{inside}");
            assert_eq!(memory("q35", inside), Ok(bytes), "{inside}");
        }
    }

    #[test]
    fn memory_of_an_unknown_layout_or_size_is_not_known() {
        let gib = "<memory unit='GiB'>1</memory>";
        for (machine, inside, says) in [
            ("pc-i440fx-10.1", gib, "the machine type is 'pc-i440fx-10.1'"),
            ("", gib, "the machine type is ''"),
            (
                "q35",
                &format!("{gib}<devices><memory model='dimm'/></devices>"),
                "the domain has memory devices",
            ),
            ("q35", "", "the definition states no valid size"),
            ("q35", "<memory>x</memory>", "the definition states no valid size"),
            ("q35", "<memory unit='PiB'>16383</memory>", "the definition states no valid size"),
            ("q35", "<memory>99999999999999999999</memory>", "the definition states no valid size"),
            ("q35", "<memory>0</memory>", "the definition states no valid size"),
            ("q35", "<cpu><numa><cell/></numa></cpu>", "the definition states no valid size"),
        ] {
            let why = memory(machine, inside).unwrap_err();
            assert!(why.starts_with(says), "{inside}: {why}");
        }
    }
}
