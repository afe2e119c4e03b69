//! The changes to a template for one domain: name, UUID, record, memory, processors.

use common::Result;
use common::units::Size;
use common::xml::{Edit, Element, Node};

use crate::create::identity::DomainIdentity;
use crate::domain::metadata::Metadata;
use crate::domain_xml::builder;

/// Writes the domain's name, its UUID and the record of these tools.
pub(super) fn identify<'a>(
    edit: &mut Edit<'a>,
    root: Node<'a>,
    identity: &DomainIdentity<'_>,
) -> Result<()> {
    for (name, text) in [("name", identity.name), ("uuid", identity.uuid)] {
        match root.child(name) {
            Some(node) => edit.set_text(node, text),
            None => edit.insert_into(root, &Element::new(name).text(text).to_xml()?),
        };
    }
    let record = identity.metadata.to_element();
    match root.child("metadata") {
        None => edit.insert_into(root, &Element::new("metadata").child(record).to_xml()?),
        Some(metadata) => {
            // A template copied from a domain of these tools has the record of that domain.
            for old in metadata.children().filter(|node| Metadata::is_record(*node)) {
                edit.remove(old);
            }
            edit.insert_into(metadata, &record.to_xml()?)
        }
    };
    Ok(())
}

/// Removes the file name of the firmware variables, so that domains do not share them: libvirt then names a
/// file after the domain.
pub(super) fn unshare_nvram<'a>(edit: &mut Edit<'a>, root: Node<'a>) -> Result<()> {
    if let Some(nvram) = root.find("os/nvram") {
        let template = nvram.attr("template");
        edit.replace(nvram, &Element::new("nvram").attr_opt("template", template).to_xml()?);
    }
    Ok(())
}

/// Sets memory and number of virtual CPUs to the requested values.
pub(super) fn resize<'a>(
    edit: &mut Edit<'a>,
    root: Node<'a>,
    memory: Option<Size>,
    vcpus: Option<u32>,
) -> Result<()> {
    if let Some(Size(bytes)) = memory {
        for node in [root.child("memory"), root.child("currentMemory")].into_iter().flatten() {
            edit.set_text(node, &(bytes / 1024).to_string()).set_attr(node, "unit", "KiB");
        }
    }
    let Some(vcpus) = vcpus.map(|vcpus| vcpus.to_string()) else {
        return Ok(());
    };
    match root.child("vcpu") {
        None => {
            edit.insert_into(root, &Element::new("vcpu").text(&vcpus).to_xml()?);
        }
        Some(node) => {
            edit.set_text(node, &vcpus);
            if node.attr("current").is_some() {
                edit.set_attr(node, "current", &vcpus);
            }
        }
    }
    if let Some(topology) = root.find("cpu/topology") {
        for (name, _) in topology.attrs() {
            edit.set_attr(topology, name, if name == "cores" { &vcpus } else { "1" });
        }
    }
    Ok(())
}

/// Sets the size of the 64-bit address space for the guest's devices, unless the template states one.
pub(super) fn enlarge_pci_hole<'a>(edit: &mut Edit<'a>, root: Node<'a>, bytes: u64) -> Result<()> {
    let is_root = |node: &Node<'_>| node.attr("model").as_deref() == Some("pcie-root");
    let hole = builder::pci_hole(bytes);
    match (root.find_all("devices/controller").find(is_root), root.child("devices")) {
        (Some(controller), _) if controller.child("pcihole64").is_some() => {}
        (Some(controller), _) => {
            edit.insert_into(controller, &hole.to_xml()?);
        }
        (None, Some(devices)) => {
            let controller = Element::new("controller")
                .attr("type", "pci")
                .attr("index", "0")
                .attr("model", "pcie-root")
                .child(hole);
            edit.insert_into(devices, &controller.to_xml()?);
        }
        (None, None) => {}
    }
    Ok(())
}

/// Turns off the memory balloon, which libvirt adds by default: private memory cannot be reclaimed.
pub(super) fn disable_balloon<'a>(edit: &mut Edit<'a>, root: Node<'a>) -> Result<()> {
    if let (Some(devices), None) = (root.child("devices"), root.find("devices/memballoon")) {
        edit.insert_into(devices, &Element::new("memballoon").attr("model", "none").to_xml()?);
    }
    Ok(())
}
