//! The volumes of a pool, with their roles, their image chains and the domains that need them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use common::Result;
use common::document::Item;
use common::image::canonical;
use common::libvirt::Libvirt;
use common::units::Size;
use schemars::JsonSchema;
use serde::Serialize;

use crate::image;
use crate::image::record;
use crate::pool::Pool;
use crate::references::usage::{Chains, Usage};
use crate::volume::Volume;
use crate::volume::names::ToolFile;

/// The role of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A base image: these tools imported it, or it backs another image.
    Base,
    /// An overlay: another image backs it.
    Overlay,
    /// Any other volume.
    Other,
}

/// A volume in a document.
#[derive(Debug, Serialize, JsonSchema)]
pub struct VolumeItem {
    /// The name of the volume in the pool.
    pub name: String,
    /// The name of the pool.
    pub pool: String,
    /// The UUID of the pool.
    pub pool_uuid: Option<String>,
    /// The path of the volume.
    pub path: String,
    /// The format of the image, as libvirt names it: `qcow2`, `raw`, `iso`, …
    pub format: Option<String>,
    /// The role of the volume.
    pub role: Role,
    /// The size of the disk that the guest sees, in bytes.
    pub capacity_bytes: Option<u64>,
    /// The size on disk, in bytes.
    pub allocation_bytes: Option<u64>,
    /// The path of the backing image; null when the volume has none.
    pub backing: Option<String>,
    /// The paths of all images in the image chain below the volume, the nearest first.
    pub backing_chain: Vec<String>,
    /// The names of the domains that need the volume: directly, or as the backing file, data file or extent of another
    /// image.
    pub users: Vec<String>,
}

impl Item for VolumeItem {
    const COLUMNS: &'static [&'static str] =
        &["NAME", "ROLE", "FORMAT", "CAPACITY", "ALLOCATION", "BACKING", "USERS"];
    const WRAPPED: &'static [&'static str] = &["USERS"];
    const DROPPED: &'static [&'static str] = &["BACKING", "ALLOCATION", "FORMAT"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let size = |bytes: Option<u64>| bytes.map(|b| Size(b).to_string()).unwrap_or_default();
        let role = match self.role {
            Role::Base => "base",
            Role::Overlay => "overlay",
            Role::Other => "other",
        };
        vec![
            self.name.clone(),
            role.to_owned(),
            self.format.clone().unwrap_or_default(),
            size(self.capacity_bytes),
            size(self.allocation_bytes),
            self.backing.clone().unwrap_or_default(),
            self.users.join(","),
        ]
    }
}

/// The volumes of a pool with the domains that need them.
#[derive(Debug)]
pub struct Survey {
    /// The volumes, as libvirt describes them.
    pub volumes: Vec<Volume>,
    pub(crate) usage: Usage,
    pub(crate) chains: Chains,
}

impl Survey {
    /// Reads the pool and every domain.
    pub fn take(libvirt: &Libvirt, pool: &Pool) -> Result<Self> {
        pool.refresh()?;
        let volumes = Volume::all(pool)?;
        let mut chains = Chains::visible(libvirt);
        volumes.iter().for_each(|volume| chains.describe(volume));
        let usage = Usage::collect(libvirt, &mut chains)?;
        Ok(Self { volumes, usage, chains })
    }

    /// The volumes as items of a document.
    pub fn items(&mut self, pool: &Pool, local: bool) -> Result<Vec<VolumeItem>> {
        let chains: Vec<Vec<PathBuf>> =
            self.volumes.iter().map(|v| self.chains.chain(&v.path)).collect::<Result<_>>()?;
        let bases: HashSet<&PathBuf> = chains.iter().flatten().collect();
        let images = &mut self.chains;
        let items = self.volumes.iter().zip(&chains).map(|(volume, chain)| {
            let role = if !chain.is_empty() || volume.backing.is_some() {
                Role::Overlay
            } else if ToolFile::classify(&volume.name).is_some() {
                Role::Other
            } else if bases.contains(&canonical(&volume.path))
                || (local && is_imported(&volume.path))
            {
                Role::Base
            } else {
                Role::Other
            };
            let text = |path: &PathBuf| path.display().to_string();
            VolumeItem {
                name: volume.name.clone(),
                pool: pool.name.clone(),
                pool_uuid: pool.uuid.clone(),
                path: text(&volume.path),
                format: volume.format.clone(),
                role,
                capacity_bytes: volume.capacity_bytes,
                allocation_bytes: volume.allocation_bytes,
                backing: volume.backing.as_ref().map(text),
                backing_chain: chain.iter().map(text).collect(),
                users: self.usage.users_of_keys(&images.keys(&volume.path)),
            }
        });
        Ok(items.collect())
    }
}

fn is_imported(path: &Path) -> bool {
    image::open(path).is_ok_and(|file| record::has_record(&file))
}
