//! Which files are a domain's own: its overlay or its empty disk, what snapshots put above it, its cloud-init seed.
//! Never the base image, and never a file that another domain needs too.

use std::path::{Path, PathBuf};

use common::Result;
use common::xml::Document;
use tdx_pool::names::Ours;
use tdx_pool::usage::{Chains, Usage};

use crate::definition::{Chain, Definition, is_overlay};

/// What deleting a domain does to files.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct OwnFiles {
    /// To delete, the uppermost image first.
    pub delete: Vec<PathBuf>,
    /// Kept, since these other domains need them.
    pub shared: Vec<(PathBuf, Vec<String>)>,
    /// Whether another domain has the same firmware variables.
    pub nvram_is_shared: bool,
}

impl OwnFiles {
    /// Finds the files of a domain from its definitions (as it runs, as it would start) and the XML
    /// of its snapshots.
    pub fn find(
        name: &str,
        definitions: &[Definition],
        snapshots: &[Document],
        chains: &mut Chains,
        usage: &Usage,
    ) -> Result<Self> {
        // What a user gave stays, however it is named.
        let records = definitions.iter().filter_map(|definition| definition.metadata.as_ref());
        let given = |key| records.clone().filter_map(move |record| record.asked(key));
        let given: Vec<PathBuf> = given("disk").chain(given("cdrom")).map(PathBuf::from).collect();
        let is_given = |file: &PathBuf| given.contains(file);
        let mut candidates: Vec<Chain> = Vec::new();
        let mut files: Vec<PathBuf> = Vec::new();
        for definition in definitions {
            for chain in definition.chains() {
                if is_seed(&chain[0]) && !is_given(&chain[0]) {
                    files.push(chain[0].clone());
                }
                candidates.push(full(chain, chains)?);
            }
        }
        for snapshot in snapshots {
            let disks = snapshot.root().find_all("disks/disk");
            for file in disks.filter_map(|disk| disk.attr_at("source", "file")) {
                candidates.push(full(vec![PathBuf::from(file.as_ref())], chains)?);
            }
            let memory = snapshot.root().attr_at("memory", "file");
            files.extend(memory.map(|file| PathBuf::from(file.as_ref())));
        }
        let whole = candidates.iter().filter(|chain| !chain.iter().any(is_given));
        files.extend(whole.flat_map(down_to_disk).cloned());
        for (overlay, _) in definitions.iter().filter_map(Definition::overlay) {
            // Our record is text that anyone may have copied: only what bears our name is ours.
            files.extend(is_overlay(&overlay).then(|| overlay.clone()));
            files.extend(candidates.iter().flat_map(|chain| down_to(chain, &overlay)).cloned());
        }
        files.sort_by_cached_key(|file| {
            std::cmp::Reverse(candidates.iter().filter_map(|c| height(c, file)).max())
        });
        let mut own = Self::default();
        for file in files {
            if own.delete.contains(&file) || own.shared.iter().any(|(shared, _)| *shared == file) {
                continue;
            }
            let others: Vec<String> =
                usage.of(&file).into_iter().filter(|user| user != name).collect();
            match others.is_empty() {
                true => own.delete.push(file),
                false => own.shared.push((file, others)),
            }
        }
        Ok(own)
    }
}

/// A chain to its end: what the XML does not tell, the images' headers do.
fn full(mut chain: Chain, chains: &mut Chains) -> Result<Chain> {
    if let Some(last) = chain.last() {
        chain.extend(chains.chain(last)?);
    }
    Ok(chain)
}

/// The part of a chain from its top to the overlay; nothing when the overlay is not in it.
fn down_to<'a>(chain: &'a Chain, overlay: &Path) -> &'a [PathBuf] {
    let at = chain.iter().position(|file| file.as_path() == overlay);
    at.map_or(&[], |at| &chain[..=at])
}

/// The part of a chain from its top to a disk of ours that stands on nothing; nothing when there is none.
fn down_to_disk(chain: &Chain) -> &[PathBuf] {
    let kind = |file: &PathBuf| Ours::classify(file.file_name()?.to_str()?);
    let at = chain.iter().position(|file| kind(file).is_some_and(Ours::is_disk));
    match at {
        Some(at) if kind(&chain[at]) == Some(Ours::Disk) => &chain[..=at],
        _ => &[],
    }
}

/// How many images a file stands on.
fn height(chain: &Chain, file: &Path) -> Option<usize> {
    Some(chain.len() - chain.iter().position(|other| other == file)?)
}

fn is_seed(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    Ours::classify(name) == Some(Ours::Seed)
}
