//! libvirt's own validation of a definition, without defining the domain.
//!
//! libvirt validates a definition only when it defines or starts a domain. So these tools ask it to define the
//! same XML with a hypervisor that its driver does not have: libvirt validates first, and refuses the
//! hypervisor afterwards. This works on any host and with any version, with libvirt's own schema.

use std::ops::Range;

use common::libvirt::{Context, Libvirt};
use common::xml::{Document, Node};
use common::{Error, Result};
use virt::error::Error as VirtError;
use virt::sys;

use super::part::Part;

/// A hypervisor that libvirt's schema allows and that no driver of a daemon supports.
const ELSEWHERE: &str = "vbox";

/// Returns the error of libvirt's validation; `None` if libvirt accepts the definition.
///
/// Errors: `unsupported` if the connection is lost.
pub fn refusal(libvirt: &Libvirt, document: &Document) -> Result<Option<String>> {
    let mut edit = document.edit();
    edit.set_attr(document.root(), "type", ELSEWHERE);
    let xml = edit.finish()?;
    let validate = sys::VIR_DOMAIN_DEFINE_VALIDATE;
    match libvirt.connect().define_domain_xml_flags(&xml, validate) {
        Ok(domain) => {
            // The driver supports the hypervisor after all, as libvirt's test driver does.
            domain.undefine().context("undefine the domain that was defined for validation")?;
            Ok(None)
        }
        Err(error) if is_code(&error, sys::VIR_ERR_XML_INVALID_SCHEMA) => {
            Ok(Some(error.message().to_owned()))
        }
        Err(_) if libvirt.is_alive() => Ok(None),
        Err(error) => Err(error).context("validate the definition"),
    }
}

fn is_code(error: &VirtError, code: sys::virErrorNumber) -> bool {
    error.code().to_raw() == code
}

/// Fails for a definition that libvirt would refuse to define or start, as far as libvirt can tell without
/// doing so. Host devices are left out: they are bound to VFIO only when the domain is created.
///
/// Errors: `invalid_input`, with libvirt's message as its cause.
pub fn check(libvirt: &Libvirt, document: &Document) -> Result<()> {
    let refused = |cause: String| {
        Error::invalid_input("libvirt refuses the definition made from the template").because(cause)
    };
    if let Some(cause) = refusal(libvirt, document)? {
        return Err(refused(cause));
    }
    let mut edit = document.edit();
    for hostdev in document.root().find_all("devices/hostdev") {
        edit.remove(hostdev);
    }
    let faults = [sys::VIR_ERR_XML_ERROR, sys::VIR_ERR_XML_DETAIL, sys::VIR_ERR_CONFIG_UNSUPPORTED];
    match libvirt.connect().domain_xml_to_native("qemu-argv", &edit.finish()?, 0) {
        Err(error) if faults.iter().any(|fault| is_code(&error, *fault)) => {
            Err(refused(error.message().to_owned()))
        }
        _ => Ok(()),
    }
}

/// Finds the smallest parts of a definition that libvirt's validation refuses, by validating the definition
/// without each of them. The `known` parts are left out. Returns no part if no single part is the cause.
///
/// Errors: those of [`refusal`].
pub fn refused_parts(libvirt: &Libvirt, document: &Document, known: &[Part]) -> Result<Vec<Part>> {
    let known = known.iter().map(|part| part.span(document)).collect();
    let search = Search { libvirt, document, known };
    if search.accepts(&[])? {
        return Ok(Vec::new());
    }
    let root = document.root();
    let is_core = |node: &Node<'_>| {
        ["name", "memory", "os", "devices"].contains(&node.name()) && node.parent() == Some(root)
    };
    let devices = root.find_all("devices").flat_map(Node::children);
    let chunks: Vec<Node<'_>> =
        root.children().filter(|node| !is_core(node)).chain(devices).collect();
    let all: Vec<Range<usize>> = chunks.iter().map(|chunk| chunk.span()).collect();
    if !search.accepts(&all)? {
        let mut nodes: Vec<Node<'_>> = root.children().filter(is_core).collect();
        nodes.retain(|node| node.name() != "devices");
        let inner = nodes.iter().flat_map(|node| node.descendants()).collect::<Vec<_>>();
        nodes.extend(inner);
        return search.smallest(root, nodes, &all).map(|part| part.into_iter().collect());
    }
    let mut parts = Vec::new();
    for chunk in &chunks {
        let others: Vec<Range<usize>> =
            all.iter().filter(|range| **range != chunk.span()).cloned().collect();
        if !search.accepts(&others)? {
            let nodes = std::iter::once(*chunk).chain(chunk.descendants()).collect();
            parts.extend(search.smallest(*chunk, nodes, &others)?);
        }
    }
    if parts.is_empty() {
        // Each is valid by itself, but one is one too many.
        for chunk in chunks.iter().rev() {
            if search.accepts(&[chunk.span()])? {
                parts.push(Part::element(*chunk));
                break;
            }
        }
    }
    Ok(parts)
}

struct Search<'a> {
    libvirt: &'a Libvirt,
    document: &'a Document,
    /// Ranges of the text that are left out each time.
    known: Vec<Range<usize>>,
}

impl Search<'_> {
    /// Whether libvirt accepts the definition without these ranges of its text.
    fn accepts(&self, ranges: &[Range<usize>]) -> Result<bool> {
        let mut bytes = self.document.text().as_bytes().to_vec();
        for byte in ranges.iter().chain(&self.known).flat_map(|range| range.clone()) {
            if bytes[byte] != b'\n' {
                bytes[byte] = b' ';
            }
        }
        // Only whole elements and attributes were left out.
        let Ok(document) = String::from_utf8(bytes)
            .map_err(drop)
            .and_then(|text| Document::parse(text).map_err(drop))
        else {
            return Ok(false);
        };
        Ok(refusal(self.libvirt, &document)?.is_none())
    }

    /// Returns the smallest attribute or element without which libvirt accepts the rest.
    fn smallest(
        &self,
        first: Node<'_>,
        nodes: Vec<Node<'_>>,
        without: &[Range<usize>],
    ) -> Result<Option<Part>> {
        let mut parts = Vec::new();
        for node in std::iter::once(first).chain(nodes.iter().copied()) {
            let names =
                node.attrs().map(|(name, _)| name).filter(|name| !name.starts_with("xmlns"));
            for name in names {
                if let Some(span) = node.attr_span(name) {
                    parts.push((span, Part::attribute(node, name)));
                }
            }
        }
        parts.extend(nodes.iter().map(|node| (node.span(), Part::element(*node))));
        parts.sort_by_key(|(span, _)| span.len());
        parts.dedup_by(|one, other| one.0 == other.0);
        for (span, part) in parts {
            if self.accepts(&[without, &[span]].concat())? {
                return Ok(Some(part));
            }
        }
        Ok(None)
    }
}
