//! A volume of a pool: what it is, what it stands on, who needs it.

pub mod base_image;
pub mod checked_file;
pub mod claim;
pub(crate) mod deletion;
pub mod disk;
pub(crate) mod header;
pub(crate) mod identity;
pub mod names;
pub mod overlay;
pub mod secret;
pub mod seed;

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use common::Result;
use common::cli::interrupt;
use common::document::Item;
use common::libvirt::{Context, Libvirt, is_gone};
use common::units::Size;
use common::xml::Document;
use schemars::JsonSchema;
use serde::Serialize;
use virt::storage_vol::StorageVol;
use virt::sys;

use crate::image;
use crate::image::record;
use crate::pool::Pool;
use crate::references::usage::{Chains, Usage};
use crate::volume::names::ToolFile;
use common::image::canonical;

/// What a volume is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Imported here, or other images stand on it.
    Base,
    /// Stands on another image.
    Overlay,
    /// Anything else.
    Other,
}

/// A volume in a document.
#[derive(Debug, Serialize, JsonSchema)]
pub struct VolumeItem {
    /// Name within the pool.
    pub name: String,
    /// The pool's name.
    pub pool: String,
    /// UUID of the pool.
    pub pool_uuid: Option<String>,
    /// Where it is.
    pub path: String,
    /// Image format in libvirt's words: `qcow2`, `raw`, `iso`, …
    pub format: Option<String>,
    /// What it is for.
    pub role: Role,
    /// Size the guest sees, bytes.
    pub capacity_bytes: Option<u64>,
    /// Size on disk, bytes.
    pub allocation_bytes: Option<u64>,
    /// The image right under it.
    pub backing: Option<String>,
    /// Every image under it, nearest first.
    pub backing_chain: Vec<String>,
    /// Names of the domains that need it: directly, or as the backing file, data file or extent of
    /// another image.
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

/// What libvirt says of a volume.
#[derive(Debug)]
pub struct Volume {
    /// libvirt's own object.
    pub handle: StorageVol,
    /// Name within the pool.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// The image right under it.
    pub backing: Option<PathBuf>,
    /// Image format.
    pub format: Option<String>,
    /// Size the guest sees, bytes.
    pub capacity_bytes: Option<u64>,
    allocation_bytes: Option<u64>,
}

impl Volume {
    /// Reads a volume; none when it went away meanwhile.
    ///
    /// Of a volume that libvirt cannot describe only name and path are known: libvirt fails where the
    /// header names a backing file with a path that the kernel does not take.
    pub fn read(handle: StorageVol) -> Result<Option<Self>> {
        let name = handle.name().context("ask a volume for its name")?;
        let text = match handle.xml_desc(0) {
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) if error.code().to_raw() == sys::VIR_ERR_SYSTEM_ERROR => {
                let path = handle.path().context(format_args!("read volume '{name}'"))?.into();
                let (backing, format, capacity_bytes, allocation_bytes) = (None, None, None, None);
                return Ok(Some(Self {
                    handle,
                    name,
                    path,
                    backing,
                    format,
                    capacity_bytes,
                    allocation_bytes,
                }));
            }
            text => text.context(format_args!("read volume '{name}'"))?,
        };
        let xml = Document::parse(text)?;
        let root = xml.root();
        let bytes = |path| root.text_at(path).and_then(|text| text.parse().ok());
        Ok(Some(Self {
            path: root.text_at("target/path").map(PathBuf::from).unwrap_or_default(),
            backing: root.text_at("backingStore/path").map(PathBuf::from),
            format: root.attr_at("target/format", "type").map(Cow::into_owned),
            capacity_bytes: bytes("capacity"),
            allocation_bytes: bytes("allocation"),
            name,
            handle,
        }))
    }

    /// Every volume of a pool, as libvirt last saw it.
    pub fn all(pool: &Pool) -> Result<Vec<Self>> {
        Self::all_while(pool, interrupt::check)
    }

    /// The same; an error of `go_on` ends it.
    pub(crate) fn all_while(pool: &Pool, go_on: impl Fn() -> Result<()>) -> Result<Vec<Self>> {
        let doing = format_args!("list the volumes of pool '{}'", pool.name);
        let handles = pool.handle.list_all_volumes(0).context(doing)?;
        let mut volumes = Vec::with_capacity(handles.len());
        for handle in handles {
            go_on()?;
            volumes.extend(Self::read(handle)?);
        }
        Ok(volumes)
    }
}

/// The volumes of a pool with the domains that need them.
#[derive(Debug)]
pub struct Survey {
    /// What libvirt says of each.
    pub volumes: Vec<Volume>,
    pub(crate) usage: Usage,
    pub(crate) chains: Chains,
}

impl Survey {
    /// Looks at the pool and at every domain.
    pub fn take(libvirt: &Libvirt, pool: &Pool) -> Result<Self> {
        pool.refresh()?;
        let volumes = Volume::all(pool)?;
        let mut chains = Chains::visible(libvirt);
        volumes.iter().for_each(|volume| chains.describe(volume));
        let usage = Usage::collect(libvirt, &mut chains)?;
        Ok(Self { volumes, usage, chains })
    }

    /// The volumes as they stand in a document.
    pub fn items(&mut self, pool: &Pool, local: bool) -> Result<Vec<VolumeItem>> {
        let chains: Vec<Vec<PathBuf>> =
            self.volumes.iter().map(|v| self.chains.chain(&v.path)).collect::<Result<_>>()?;
        let bases: HashSet<&PathBuf> = chains.iter().flatten().collect();
        let images = &mut self.chains;
        let items = self.volumes.iter().zip(&chains).map(|(volume, chain)| {
            let role = match () {
                () if !chain.is_empty() || volume.backing.is_some() => Role::Overlay,
                () if ToolFile::classify(&volume.name).is_some() => Role::Other,
                () if bases.contains(&canonical(&volume.path)) => Role::Base,
                () if local && is_imported(&volume.path) => Role::Base,
                () => Role::Other,
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
