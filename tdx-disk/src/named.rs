//! The devices a verb is about: named on the command line or in a document on standard input.

use std::os::unix::fs::FileTypeExt;

use common::host::Host;
use common::{Code, Error, ErrorKind, IoContext, Result, input, name};
use serde::Deserialize;

use crate::blocks::{Block, Blocks};

#[derive(Debug, Deserialize)]
struct Item {
    #[serde(deserialize_with = "name::deserialize_path")]
    device: String,
}

/// The names, each once, in the order given.
///
/// Errors: `usage` when `-` does not stand alone; `invalid_input` for what is no document on disks.
pub fn read(words: &[String]) -> Result<Vec<String>> {
    let names = match words.iter().any(|word| word == input::STDIN) {
        false => words.to_owned(),
        true if words.len() > 1 => return Err(Error::usage("- stands alone")),
        true => {
            let items: Vec<Item> = input::items(&["tdx.disk."], "disks with a device")?;
            items.into_iter().map(|item| item.device).collect()
        }
    };
    let mut seen = std::collections::HashSet::new();
    Ok(names.into_iter().filter(|name| seen.insert(name.clone())).collect())
}

/// A name as a path from the root: `sdb` is `/dev/sdb`, `./disk` is here.
///
/// Errors: `usage` for what can be no name; `io` when there is no current folder.
pub fn path(name: &str) -> Result<String> {
    if name.is_empty() || name.contains('\0') {
        return Err(Error::usage(format!("{name:?} is no name of a device")));
    }
    match name.contains('/') {
        true => Ok(std::path::absolute(name).at("resolve", name)?.to_string_lossy().into_owned()),
        false => Ok(format!("/dev/{name}")),
    }
}

/// The block device of a name, through whatever links.
///
/// Errors: `not_found` where there is none, links that lead in a circle included; `invalid_input` with
/// code `NOT_BLOCK` for anything else that is there.
pub fn find<'b>(host: &Host, blocks: &'b Blocks, name: &str) -> Result<&'b Block> {
    let path = path(name)?;
    if let Some(block) = blocks.of_path(host, &path) {
        return Ok(block);
    }
    let metadata = match std::fs::metadata(host.path(&path)).at("look at", &path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let error = Error::not_found(format!("no device {path}")).because(error);
            return Err(error.hint("tdx-disk list shows the disks"));
        }
        metadata => metadata?,
    };
    if metadata.file_type().is_block_device() {
        return Err(Error::not_found(format!("the kernel has no device behind {path}")));
    }
    Err(Error::invalid_input(format!("{path} is no block device"))
        .code(Code::NotBlock)
        .hint("tdx-disk list shows the disks"))
}
