//! The files of a domain: those that its deletion may delete, and those that it keeps.
//!
//! The files are found from the definition, the snapshots and the record of these tools. Image headers are not
//! read: a guest could have written them. For the same reason, only the source of each disk in the live definition
//! counts: libvirt reads the rest of the image chain from headers.

use std::path::{Path, PathBuf};

use common::xml::{Document, Node};
use tdx_pool::volume::names::ToolFile;

use crate::domain::definition::{Chain, Definition, chains_of};

/// The files of a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OwnedFiles {
    /// Files to delete, after they are checked and if nothing else needs them.
    pub(super) candidates: Vec<DeletionCandidate>,
    /// Files that are kept in any case, each with the reason.
    pub(super) kept: Vec<(PathBuf, String)>,
    /// Files that are never deleted, by any name: the base image, and files given by the user.
    pub(super) spared: Vec<PathBuf>,
}

/// A file to delete, and the rule that allows this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeletionCandidate {
    /// Path of the file.
    pub(super) path: PathBuf,
    /// The rule that allows the deletion.
    pub(super) basis: DeletionBasis,
}

/// The rule that allows a file to be deleted with its domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeletionBasis {
    /// `new` recorded that it created the file for the domain with this UUID.
    Recorded,
    /// The definition names the file, and name and directory of the file are those that these tools use. This rule
    /// applies to domains of version 0.1.0 and of the original tdvirsh.
    Named,
    /// libvirt created the file for the firmware variables of the domain.
    FirmwareVariables,
}

/// The rule by which a domain's own files are recognised.
enum Rule<'a> {
    /// The recorded files are the domain's own.
    Recorded(&'a [PathBuf]),
    /// Files with names that these tools use are the domain's own.
    Named,
    /// No file is the domain's own: the record is that of another domain.
    Copied { of: &'a str, files: &'a [PathBuf] },
    /// No file is the domain's own: another program created the domain.
    Foreign,
}

impl<'a> Rule<'a> {
    fn new(definition: &'a Definition) -> Self {
        match &definition.metadata {
            None if definition.is_managed() => Self::Named,
            None => Self::Foreign,
            Some(record) => match &record.uuid {
                None => Self::Named,
                Some(uuid) if *uuid == definition.uuid() => Self::Recorded(&record.files),
                Some(uuid) => Self::Copied { of: uuid, files: &record.files },
            },
        }
    }

    /// Returns the rule that allows a file to be deleted, or why it may not be deleted.
    fn judge(&self, path: &Path) -> Result<DeletionBasis, String> {
        let is_recorded = |files: &[PathBuf]| files.iter().any(|file| normalized(file) == path);
        let has_our_name = ToolFile::classify_path(path).is_some_and(ToolFile::is_of_domain);
        match self {
            Self::Recorded(files) if is_recorded(files) && has_our_name => {
                Ok(DeletionBasis::Recorded)
            }
            Self::Recorded(files) if is_recorded(files) => {
                Err("recorded for this domain, but with a name that these tools never use"
                    .to_owned())
            }
            Self::Recorded(_) if has_our_name => Err("not recorded for this domain".to_owned()),
            Self::Named if has_our_name => Ok(DeletionBasis::Named),
            Self::Copied { of, files } if is_recorded(files) => {
                Err(format!("recorded for the domain with UUID {of}"))
            }
            _ => Err(NOT_OURS.to_owned()),
        }
    }
}

/// A file that XML or a record names.
struct Mention {
    path: PathBuf,
    /// The kind of file, if files of this kind are always kept.
    role: Option<&'static str>,
}

const NOT_OURS: &str = "not created by these tools";
const LAYER: &str = "an overlay created by a libvirt snapshot";
const MEMORY: &str = "the memory image of a snapshot";
const GIVEN: &str = "given by the user";

impl OwnedFiles {
    /// Finds the files of a domain in its inactive definition, its live definition, and the XML of its snapshots.
    pub(super) fn find(
        inactive: &Definition,
        live: Option<&Definition>,
        snapshots: &[Document],
    ) -> Self {
        let rule = Rule::new(inactive);
        let record = inactive.metadata.as_ref();
        let base = record.and_then(|record| record.base.as_deref()).map(normalized);
        let given = ["disk", "cdrom"].iter().filter_map(|key| record?.requested(key));
        let given: Vec<PathBuf> = given.map(|path| normalized(Path::new(path))).collect();
        let spared = base.iter().chain(&given).cloned().collect();
        let mut files = Self { spared, ..Self::default() };
        let mut seen: Vec<PathBuf> = Vec::new();
        for Mention { path, role } in mentions(&rule, inactive, live, snapshots) {
            if seen.contains(&path) || Some(&path) == base.as_ref() {
                continue;
            }
            seen.push(path.clone());
            match rule.judge(&path) {
                _ if given.contains(&path) => files.kept.push((path, GIVEN.to_owned())),
                Ok(basis) => files.candidates.push(DeletionCandidate { path, basis }),
                Err(why) => files.kept.push((path, role.map_or(why, str::to_owned))),
            }
        }
        files
    }

    /// Adds a file that is kept, unless it is in a list already.
    pub(super) fn keep_unlisted(&mut self, path: Option<PathBuf>) {
        let Some(path) = path.map(|path| normalized(&path)) else { return };
        let is_kept = self.kept.iter().any(|(kept, _)| *kept == path);
        if !is_kept && !self.candidates.iter().any(|candidate| candidate.path == path) {
            self.kept.push((path, NOT_OURS.to_owned()));
        }
    }
}

/// Returns every file that is named for the domain, without base images.
fn mentions(
    rule: &Rule<'_>,
    inactive: &Definition,
    live: Option<&Definition>,
    snapshots: &[Document],
) -> Vec<Mention> {
    let mut mentions = Vec::new();
    let mention = |path: &Path, role| Mention { path: normalized(path), role };
    if let Rule::Recorded(files) = rule {
        mentions.extend(files.iter().map(|file| mention(file, None)));
    }
    for chain in inactive.chains() {
        mentions.extend(down_to_own(rule, chain));
    }
    if let (Rule::Named, Some(record)) = (rule, &inactive.metadata) {
        mentions.extend(record.overlay.iter().map(|overlay| mention(overlay, None)));
    }
    for chain in live.into_iter().flat_map(Definition::chains) {
        mentions.push(mention(&chain[0], None));
    }
    for snapshot in snapshots {
        let root = snapshot.root();
        let file = |node: Node<'_>, role| {
            let file = node.attr("file")?;
            Some(mention(Path::new(file.as_ref()), Some(role)))
        };
        let layers = root.find_all("disks/disk/source");
        mentions.extend(layers.filter_map(|source| file(source, LAYER)));
        mentions.extend(root.child("memory").and_then(|memory| file(memory, MEMORY)));
        for domain in ["domain", "inactiveDomain"].iter().filter_map(|name| root.child(name)) {
            for chain in chains_of(domain) {
                mentions.extend(down_to_own(rule, chain));
            }
        }
    }
    mentions
}

/// Returns the files of an image chain from its source down to the first that is the domain's own; only the
/// source if none is. The file below that is the base image.
fn down_to_own(rule: &Rule<'_>, chain: Chain) -> Vec<Mention> {
    let chain: Vec<PathBuf> = chain.iter().map(|path| normalized(path)).collect();
    let own = chain.iter().position(|path| rule.judge(path).is_ok());
    let layers = own.unwrap_or(0);
    let role = |at| (at < layers).then_some(LAYER);
    let files = chain.into_iter().take(layers + 1).enumerate();
    files.map(|(at, path)| Mention { path, role: role(at) }).collect()
}

/// Returns a path without `//` and `.`: the original tdvirsh writes `/var/tmp/tdvirsh//overlay…`.
pub(super) fn normalized(path: &Path) -> PathBuf {
    path.components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVERLAY: &str = "/pool/overlay.abcDEF012345678.qcow2";
    const SEED: &str = "/pool/cidata.abcDEF012345678.img";

    /// A domain with this record and these disks, each a chain from its source down.
    fn domain(record: &str, disks: &[&[&str]]) -> Definition {
        let disk = |chain: &&[&str]| {
            let layers = chain.iter().rev().fold(String::new(), |below, file| {
                let below = if below.is_empty() {
                    "<backingStore/>".to_owned()
                } else {
                    format!("<backingStore>{below}</backingStore>")
                };
                format!("<source file='{file}'/>{below}")
            });
            format!("<disk>{layers}</disk>")
        };
        let disks: String = disks.iter().map(disk).collect();
        let record = format!(
            "<tdx:domain xmlns:tdx='urn:tdx-tools:domain:1'><tdx:base>/pool/base.qcow2</tdx:base>\
             {record}</tdx:domain>"
        );
        let xml = format!(
            "<domain><name>x</name><uuid>own</uuid><metadata>{record}</metadata>\
             <devices>{disks}</devices></domain>"
        );
        Definition::parse(xml).unwrap()
    }

    /// The paths to delete, and those that stay with their reasons.
    fn find(definition: &Definition, live: Option<&Definition>) -> (Vec<String>, Vec<String>) {
        let files = OwnedFiles::find(definition, live, &[]);
        let candidates =
            files.candidates.iter().map(|candidate| candidate.path.display().to_string());
        let kept = files.kept.iter().map(|(path, why)| format!("{}: {why}", path.display()));
        (candidates.collect(), kept.collect())
    }

    #[test]
    fn find_claims_recorded_files_and_keeps_others() {
        let record = format!(
            "<tdx:uuid>own</tdx:uuid><tdx:file>{OVERLAY}</tdx:file><tdx:file>{SEED}</tdx:file>\
             <tdx:file>/etc/passwd</tdx:file>"
        );
        let other = "/pool/disk.abcDEF012345678.qcow2";
        let layer = "/pool/overlay.abcDEF012345678.one";
        let chain = [layer, OVERLAY, "/pool/base.qcow2"];
        let definition = domain(&record, &[&chain, &[SEED], &[other], &["/srv/data.raw"]]);
        let (candidates, kept) = find(&definition, None);
        assert_eq!(candidates, [OVERLAY, SEED]);
        assert_eq!(
            kept,
            [
                "/etc/passwd: recorded for this domain, but with a name that these tools never use",
                &format!("{layer}: an overlay created by a libvirt snapshot"),
                &format!("{other}: not recorded for this domain"),
                "/srv/data.raw: not created by these tools",
            ]
        );
    }

    #[test]
    fn find_claims_nothing_by_the_record_of_another_domain() {
        let record = format!("<tdx:uuid>other</tdx:uuid><tdx:file>{OVERLAY}</tdx:file>");
        let (candidates, kept) =
            find(&domain(&record, &[&[OVERLAY], &["/pool/clone.qcow2"]]), None);
        assert_eq!(candidates, Vec::<String>::new());
        assert_eq!(kept[0], format!("{OVERLAY}: recorded for the domain with UUID other"));
        assert_eq!(kept[1], "/pool/clone.qcow2: not created by these tools");
    }

    #[test]
    fn find_claims_only_sources_of_the_live_definition() {
        let disk = "/pool/disk.abcDEF012345678.qcow2";
        let below = "/pool/disk.000000000000000.qcow2";
        let live = domain("", &[&[OVERLAY], &[disk, below], &["/srv/data.raw", below]]);
        let (candidates, kept) = find(&domain("", &[&[OVERLAY]]), Some(&live));
        assert_eq!(candidates, [OVERLAY, disk]);
        assert_eq!(kept, ["/srv/data.raw: not created by these tools"]);
    }

    #[test]
    fn find_spares_a_base_image_with_a_name_of_the_tools() {
        let base = "/pool/disk.abcDEF012345678.qcow2";
        let definition = domain("", &[&[OVERLAY, base]]);
        assert_eq!(find(&definition, None), (vec![OVERLAY.to_owned()], Vec::new()));
    }
}
