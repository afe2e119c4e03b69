//! The file of a template and its placeholders.

use std::path::Path;

use common::document::input;
use common::xml::{Document, Element};
use common::{Error, Result};

pub(crate) const OVERLAY: &str = "OVERLAY_IMG_PATH";

pub(crate) const BASE: &str = "BASE_IMG_PATH";

const DOMAIN: &str = "DOMAIN";

const HOSTDEVS: &str = "HOSTDEV_DEVICES";

pub(crate) const SEED: &str = "CIDATA_ISO_PATH";

/// A template as its file has it.
#[derive(Debug)]
pub struct Template {
    /// The file's name up to `.xml`, which is part of the default name of a domain.
    pub stem: String,
    /// The template as XML, with its placeholders as text.
    pub document: Document,
    shown: String,
}

/// The largest size of a template, in bytes.
const LIMIT: usize = 1 << 20;

/// The values of the placeholders.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// Name of the domain.
    pub name: &'a str,
    /// Path of the base image.
    pub base: &'a str,
    /// Path of the overlay.
    pub overlay: &'a str,
    /// The `<hostdev>` elements.
    pub hostdevs: &'a [Element],
    /// Path of the cloud-init seed, if the domain has one.
    pub seed: Option<&'a str>,
}

impl Template {
    /// Reads a template.
    ///
    /// Errors: `not_found`; `invalid_input` for a file that is not domain XML, and for a domain without a disk
    /// for the overlay.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = input::file(path, LIMIT)?;
        let shown = path.display().to_string();
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::invalid_input(format!("template {shown} is not UTF-8")))?;
        let document = Document::parse(text).map_err(|error| {
            Error::invalid_input(format!("template {shown} is not valid XML")).because(error)
        })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = name.split(".xml").next().unwrap_or_default();
        let stem = if stem.is_empty() { "td_guest" } else { stem };
        let template = Self { stem: stem.to_owned(), document, shown };
        template.check()?;
        Ok(template)
    }

    /// Returns this template with other XML.
    pub fn with_document(&self, document: Document) -> Self {
        Self { stem: self.stem.clone(), document, shown: self.shown.clone() }
    }

    fn check(&self) -> Result<()> {
        let root = self.document.root();
        let name = root.name();
        if name != "domain" {
            return Err(self.refusal(&format!("has the root element <{name}>, expected <domain>")));
        }
        for (path, attribute) in [("type", true), ("memory", false), ("os/type", false)] {
            let exists =
                if attribute { root.attr(path).is_some() } else { root.find(path).is_some() };
            if !exists {
                let what = if attribute { "attribute" } else { "element" };
                return Err(self.refusal(&format!("lacks the {what} {path}")));
            }
        }
        let disks = root.find_all("devices/disk");
        let count =
            disks.filter(|d| d.attr_at("source", "file").as_deref() == Some(OVERLAY)).count();
        if count != 1 {
            return Err(self
                .refusal(&format!("has {count} disks with {OVERLAY}, expected one"))
                .hint(format!("write <source file='{OVERLAY}'/> into the guest's disk")));
        }
        Ok(())
    }

    /// Returns the error that this template cannot be used; `why` continues the sentence.
    pub fn refusal(&self, why: &str) -> Error {
        Error::invalid_input(format!("template {} {why}", self.shown))
    }

    /// Whether the template has a placeholder for host devices.
    pub fn takes_hostdevs(&self) -> bool {
        self.has(HOSTDEVS)
    }

    /// Whether the template has a placeholder for a cloud-init seed.
    pub fn takes_seed(&self) -> bool {
        self.has(SEED)
    }

    /// Whether the template names a separate file of firmware variables for each domain.
    pub fn has_own_nvram(&self) -> bool {
        let nvram = self.document.root().find("os/nvram");
        nvram.is_some_and(|nvram| has(nvram.source(), DOMAIN))
    }

    fn has(&self, placeholder: &str) -> bool {
        has(self.document.text(), placeholder)
    }

    /// Returns the domain XML with a value in every placeholder, on the same lines, to validate it before the
    /// real values are known.
    ///
    /// Errors: those of [`Template::fill`].
    pub fn fill_for_validation(&self) -> Result<Document> {
        self.fill(&Values {
            name: "template",
            base: "/base",
            overlay: "/overlay",
            hostdevs: &[],
            seed: self.takes_seed().then_some("/seed"),
        })
    }

    /// Returns the domain XML with the values of all placeholders.
    ///
    /// Errors: `invalid_input` for devices or a seed without a placeholder, for a placeholder without a seed,
    /// and for values that XML cannot contain.
    pub fn fill(&self, values: &Values<'_>) -> Result<Document> {
        let text = self.document.text();
        if !values.hostdevs.is_empty() && !self.takes_hostdevs() {
            return Err(self
                .refusal(&format!("lacks the placeholder {HOSTDEVS}"))
                .hint(format!("write {HOSTDEVS} into <devices>, or omit --gpus and --devices")));
        }
        if values.seed.is_some() && !self.takes_seed() {
            return Err(self
                .refusal(&format!("lacks the placeholder {SEED}"))
                .hint(format!("add a disk with <source file='{SEED}'/> for the cloud-init seed")));
        }
        if values.seed.is_none() && self.takes_seed() {
            return Err(Error::usage(format!("template {} needs a cloud-init seed", self.shown))
                .hint("add --user with --ssh-key or --password-file, or add --cloud-init"));
        }
        let mut filled = String::with_capacity(text.len() + 1024);
        for piece in pieces(text) {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Placeholder(HOSTDEVS) => {
                    for hostdev in values.hostdevs {
                        filled.push_str(&hostdev.to_xml()?);
                        filled.push('\n');
                    }
                }
                Piece::Placeholder(BASE) => escape_into(&mut filled, values.base),
                Piece::Placeholder(DOMAIN) => escape_into(&mut filled, values.name),
                Piece::Placeholder(SEED) => {
                    escape_into(&mut filled, values.seed.unwrap_or_default());
                }
                Piece::Placeholder(_) => escape_into(&mut filled, values.overlay),
            }
        }
        Document::parse(filled).map_err(|error| {
            self.refusal("is not valid XML after its placeholders were replaced").because(error)
        })
    }
}

fn has(text: &str, placeholder: &str) -> bool {
    pieces(text).any(|piece| piece == Piece::Placeholder(placeholder))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    Placeholder(&'a str),
}

/// Splits a template at its placeholders.
fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, length) = next_piece(rest);
        rest = &rest[length..];
        Some(piece)
    })
}

/// Returns the first piece of a non-empty text, and its length.
fn next_piece(text: &str) -> (Piece<'_>, usize) {
    for (start, end) in [("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>")] {
        if let Some(inside) = text.strip_prefix(start) {
            let length = inside.find(end).map_or(text.len(), |at| start.len() + at + end.len());
            return (Piece::Text(&text[..length]), length);
        }
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let word = text.find(|c| !is_word(c)).unwrap_or(text.len());
    if word > 0 {
        let (word, length) = (&text[..word], word);
        return if [OVERLAY, BASE, DOMAIN, HOSTDEVS, SEED].contains(&word) {
            (Piece::Placeholder(word), length)
        } else {
            (Piece::Text(word), length)
        };
    }
    // Up to the next word, or the next comment.
    let start = text.chars().next().map_or(0, char::len_utf8);
    let length =
        text[start..].find(|c: char| is_word(c) || c == '<').map_or(text.len(), |at| at + start);
    (Piece::Text(&text[..length]), length)
}

/// Appends a value, escaped for text and for attribute values in either kind of quotes.
fn escape_into(out: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\t' | '\n' | '\r' => out.push_str(&format!("&#{};", u32::from(c))),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use common::ErrorKind;
    use proptest::prelude::*;

    use super::*;

    const TEMPLATE: &str = "<domain type='kvm'>
  <!-- DOMAIN is the name OVERLAY_IMG_PATH -->
  <name>DOMAIN</name>
  <title>SUBDOMAIN DOMAINS</title>
  <description><![CDATA[<!-- DOMAIN]]></description>
  <memory/>
  <os><type>hvm</type></os>
  <devices>
    <disk><source file=\"OVERLAY_IMG_PATH\"/><backingStore file='BASE_IMG_PATH'/></disk>
    HOSTDEV_DEVICES
  </devices>
</domain>
";

    fn template(text: &str) -> Template {
        let document = Document::parse(text).unwrap();
        Template { stem: "td".to_owned(), document, shown: "t.xml".to_owned() }
    }

    fn valid() -> Template {
        template(TEMPLATE)
    }

    const VALUES: Values<'_> =
        Values { name: "a", base: "/b", overlay: "/o", hostdevs: &[], seed: None };

    #[test]
    fn fill_replaces_only_whole_words_outside_comments() {
        let filled = valid().fill(&VALUES).unwrap();
        let filled = filled.text();
        assert!(filled.contains("<![CDATA[<!-- DOMAIN]]>"), "{filled}");
        assert!(filled.contains("<name>a</name>"), "{filled}");
        assert!(filled.contains("<title>SUBDOMAIN DOMAINS</title>"), "{filled}");
        assert!(filled.contains("<!-- DOMAIN is the name OVERLAY_IMG_PATH -->"), "{filled}");
        assert!(filled.contains("<source file=\"/o\"/><backingStore file='/b'/>"), "{filled}");
        assert!(!filled.contains("HOSTDEV_DEVICES"), "{filled}");
    }

    #[test]
    fn has_own_nvram_is_true_only_for_a_path_with_the_domains_name() {
        let with = |nvram: &str| template(&TEMPLATE.replace("<os>", &format!("<os>{nvram}")));
        assert!(!valid().has_own_nvram());
        assert!(!with("<nvram>/v/orig_VARS.fd</nvram>").has_own_nvram());
        assert!(!with("<nvram>/v/MYDOMAIN.fd</nvram>").has_own_nvram());
        assert!(with("<nvram>/v/DOMAIN.fd</nvram>").has_own_nvram());
    }

    #[test]
    fn fill_puts_hostdevs_in_place_of_their_placeholder() {
        let hostdevs = [Element::new("hostdev").attr("mode", "subsystem")];
        let filled = valid().fill(&Values { hostdevs: &hostdevs, ..VALUES }).unwrap();
        assert!(filled.root().find("devices/hostdev").is_some());
        let without = template(&TEMPLATE.replace(HOSTDEVS, ""));
        assert!(!without.takes_hostdevs());
        let error = without.fill(&Values { hostdevs: &hostdevs, ..VALUES }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn read_refuses_files_that_are_not_templates() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("td_x.xml.template");
        assert_eq!(Template::read(&path).unwrap_err().kind(), ErrorKind::NotFound);
        for (text, says) in [
            ("hello", "is not valid XML"),
            ("<domain>", "is not valid XML"),
            (
                "<!DOCTYPE domain [<!ENTITY x SYSTEM '/etc/passwd'>]><domain>&x;</domain>",
                "is not valid XML",
            ),
            ("<network>OVERLAY_IMG_PATH</network>", "root element <network>"),
            ("<domain><name>DOMAIN</name></domain>", "lacks the attribute type"),
            ("<domain type='kvm'/>", "lacks the element memory"),
            (&TEMPLATE.replace("<type>hvm</type>", ""), "lacks the element os/type"),
            (&TEMPLATE.replace("file=\"OVER", "dev=\"OVER"), "has 0 disks with OVERLAY_IMG_PATH"),
            (
                &TEMPLATE
                    .replace("HOSTDEV_DEVICES", "<disk><source file='OVERLAY_IMG_PATH'/></disk>"),
                "has 2 disks with OVERLAY_IMG_PATH",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Template::read(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
            assert!(error.message().contains(says), "{text}: {error}");
        }
        std::fs::write(&path, TEMPLATE).unwrap();
        assert_eq!(Template::read(&path).unwrap().stem, "td_x");
    }

    #[test]
    fn fill_refuses_a_seed_without_placeholder_and_a_placeholder_without_seed() {
        let wants = template(&TEMPLATE.replace(HOSTDEVS, "<disk file='CIDATA_ISO_PATH'/>"));
        assert_eq!(wants.fill(&VALUES).unwrap_err().kind(), ErrorKind::Usage);
        let seed = Some("/s.img");
        assert!(wants.fill(&Values { seed, ..VALUES }).unwrap().text().contains("file='/s.img'"));
        let error = valid().fill(&Values { seed, ..VALUES }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }

    proptest! {
        #[test]
        fn fill_escapes_any_path_and_name(
            name in "[^\\p{Cc}\u{fffe}\u{ffff}]*",
            overlay in "/[^\\p{Cc}\u{fffe}\u{ffff}]*",
        ) {
            let filled = valid().fill(&Values { name: &name, overlay: &overlay, ..VALUES }).unwrap();
            let source = filled.root().attr_at("devices/disk/source", "file").unwrap();
            prop_assert_eq!(source.as_ref(), overlay.as_str());
            let text = filled.root().child("name").unwrap().text();
            prop_assert_eq!(text.trim(), name.trim());
        }

        #[test]
        fn pieces_joined_equal_the_text(text in "\\PC*") {
            let joined: String = pieces(&text).map(|piece| match piece {
                Piece::Text(text) | Piece::Placeholder(text) => text,
            }).collect();
            prop_assert_eq!(joined, text);
        }
    }
}
