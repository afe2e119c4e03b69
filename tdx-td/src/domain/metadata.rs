//! The record of these tools in a domain's `<metadata>`: its files, and the request it was created from.

use std::path::{Path, PathBuf};

use common::text;
use common::units::Size;
use common::xml::{Element, Node};
use sha2::{Digest, Sha256};

use crate::create::disk::Disk;

/// The XML namespace of the record. It is in every definition of these tools, and must never change.
pub const NAMESPACE: &str = "urn:tdx-tools:domain:1";

/// The key of [`Metadata::request`] for the template of the definition. It is always the first key.
pub const TEMPLATE: &str = "template";

/// The key of [`Metadata::request`] for the origin of an AMD SEV guest's session keys.
pub const ATTESTATION: &str = "sev_attestation";

/// Returns SHA-256 in hexadecimal digits, which the record stores instead of long values.
pub fn digest(bytes: &[u8]) -> String {
    text::hex(Sha256::digest(bytes))
}

/// The record of a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// UUID of the domain that the record was written for: a copied definition has another UUID. Version
    /// 0.1.0 did not write this field.
    pub uuid: Option<String>,
    /// All files that were created for the domain, the disk before the seed. Recorded only with a UUID.
    pub files: Vec<PathBuf>,
    /// The pool of the domain's disk; `None` for an image of `--vmimage`.
    pub pool: Option<String>,
    /// The path of the base image, if the disk is an overlay.
    pub base: Option<PathBuf>,
    /// The path of the overlay, if the disk is one.
    pub overlay: Option<PathBuf>,
    /// The request as (key, value) pairs, without passwords. A second `new` of the same name compares them.
    pub request: Vec<(String, String)>,
}

impl Metadata {
    /// Creates the record of the domain with this UUID, disk and seed.
    pub fn new(
        uuid: &str,
        pool: &str,
        disk: &Disk,
        seed: Option<&Path>,
        request: Vec<(String, String)>,
    ) -> Self {
        let (base, overlay) = match disk {
            Disk::Overlay { path, base } => (Some(base.path.clone()), Some(path.clone())),
            Disk::New { .. } | Disk::Given { .. } => (None, None),
        };
        let is_made = !matches!(disk, Disk::Given { .. });
        let made = is_made.then(|| disk.path()).into_iter().chain(seed);
        Self {
            uuid: Some(uuid.to_owned()),
            files: made.map(Path::to_owned).collect(),
            pool: is_made.then(|| pool.to_owned()),
            base,
            overlay,
            request,
        }
    }

    /// Returns the element for `<metadata>`.
    pub fn to_element(&self) -> Element {
        let text = |name: &str, text: &str| Element::new(format!("tdx:{name}")).text(text);
        let path = |name: &str, path: &Option<PathBuf>| {
            path.as_ref().map(|path| text(name, &path.to_string_lossy()))
        };
        let mut request = Element::new("tdx:request");
        for (key, value) in &self.request {
            request = request.attr(key.as_str(), value.as_str());
        }
        Element::new("tdx:domain")
            .attr("xmlns:tdx", NAMESPACE)
            .attr("version", env!("CARGO_PKG_VERSION"))
            .child_opt(self.uuid.as_ref().map(|uuid| text("uuid", uuid)))
            .children(self.files.iter().map(|file| text("file", &file.to_string_lossy())))
            .child_opt(self.pool.as_ref().map(|pool| text("pool", pool)))
            .child_opt(path("base", &self.base))
            .child_opt(path("overlay", &self.overlay))
            .child(request)
    }

    /// Returns the requested value of a key.
    pub fn requested(&self, key: &str) -> Option<&str> {
        let mut request = self.request.iter();
        request.find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// Whether the domain was created with session keys, so that its launch is verified before it runs.
    pub fn is_attested(&self) -> bool {
        self.requested(ATTESTATION).is_some_and(|keys| keys != "none")
    }

    /// Whether an element of `<metadata>` is a record of these tools.
    pub fn is_record(node: Node<'_>) -> bool {
        node.namespace() == Some(NAMESPACE) && node.local_name() == "domain"
    }

    /// Returns descriptions of the differences from `wanted`. UUID and files are not compared.
    pub fn differences(&self, wanted: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        if self.base != wanted.base {
            let name = |base: &Option<PathBuf>| {
                base.as_ref().map_or_else(|| "none".to_owned(), |base| base.display().to_string())
            };
            let (there, wanted) = (name(&self.base), name(&wanted.base));
            differences.push(format!("base is {there}, but {wanted} was requested"));
        }
        for (key, value) in &wanted.request {
            let there = self.requested(key).unwrap_or("unknown");
            if there == value {
                continue;
            }
            if key == TEMPLATE {
                // With another template, the other keys cannot be compared.
                differences.push(other_template(there, value).to_owned());
                break;
            }
            differences.push(difference(key, there, value));
        }
        if differences.is_empty() {
            // A record does not list keys that have their default.
            let more = self.request.iter().filter(|(key, _)| wanted.requested(key).is_none());
            differences.extend(
                more.map(|(key, there)| format!("{key} is {there}, but the default was requested")),
            );
        }
        differences
    }

    /// Reads the record in a domain's definition; `None` if these tools did not create the domain.
    pub fn read(domain: Node<'_>) -> Option<Self> {
        let record = domain.child("metadata")?.children().find(|node| Self::is_record(*node))?;
        let field = |name: &str| record.children().find(|node| node.local_name() == name);
        let text = |name: &str| field(name).map(|node| node.text());
        let request = field("request").into_iter().flat_map(|node| {
            node.attrs()
                .map(|(key, value)| (key.to_owned(), value.into_owned()))
                .collect::<Vec<_>>()
        });
        let files = record.children().filter(|node| node.local_name() == "file");
        Some(Self {
            uuid: text("uuid"),
            files: files.map(|node| PathBuf::from(node.text())).collect(),
            pool: text("pool"),
            base: text("base").map(PathBuf::from),
            overlay: text("overlay").map(PathBuf::from),
            request: request.collect(),
        })
    }
}

fn other_template(there: &str, wanted: &str) -> &'static str {
    match (there, wanted) {
        ("none", _) => "it was created without a template",
        (_, "none") => "it was created from a template",
        _ => "it was created from another template, or the template was changed since",
    }
}

/// Returns a description of a value that differs from the requested one. Sizes are shown in units, if these differ.
fn difference(key: &str, is: &str, wanted: &str) -> String {
    let size = |bytes: &str| bytes.parse().map(|bytes| Size(bytes).to_string());
    if let (Some(name), Ok(is), Ok(wanted)) = (key.strip_suffix("_bytes"), size(is), size(wanted))
        && is != wanted
    {
        return format!("{name} is {is}, but {wanted} was requested");
    }
    format!("{key} is {is}, but {wanted} was requested")
}

#[cfg(test)]
mod tests {
    use common::xml::Document;

    use super::*;

    #[test]
    fn read_returns_the_record_that_was_written() {
        let metadata = Metadata {
            uuid: Some("a-b".to_owned()),
            files: vec!["/images/overlay.qcow2".into(), "/images/cidata & more.img".into()],
            pool: Some("a & b".to_owned()),
            base: Some("/images/it's <base>.qcow2".into()),
            overlay: Some("/images/overlay.qcow2".into()),
            request: vec![("memory_bytes".to_owned(), "1".to_owned())],
        };
        let xml = Element::new("domain")
            .child(Element::new("metadata").child(metadata.to_element()))
            .to_xml()
            .unwrap();
        assert_eq!(Metadata::read(Document::parse(xml).unwrap().root()), Some(metadata));
    }

    /// As version 0.1.0 wrote it.
    #[test]
    fn read_accepts_a_record_without_uuid_and_files() {
        let xml = "<domain><metadata>\
            <tdx:domain xmlns:tdx=\"urn:tdx-tools:domain:1\" version=\"0.1.0\">\
            <tdx:pool>p</tdx:pool><tdx:base>/b</tdx:base><tdx:overlay>/o</tdx:overlay>\
            <tdx:request template=\"none\"/></tdx:domain></metadata></domain>";
        let wanted = Metadata {
            pool: Some("p".to_owned()),
            base: Some("/b".into()),
            overlay: Some("/o".into()),
            request: vec![("template".to_owned(), "none".to_owned())],
            ..Metadata::default()
        };
        assert_eq!(Metadata::read(Document::parse(xml).unwrap().root()), Some(wanted));
    }

    #[test]
    fn read_ignores_metadata_of_other_programs() {
        let xml = "<domain><metadata><tdx:domain xmlns:tdx='urn:other'/></metadata></domain>";
        assert_eq!(Metadata::read(Document::parse(xml).unwrap().root()), None);
    }
}
