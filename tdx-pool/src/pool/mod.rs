//! A libvirt storage pool.

pub mod item;
pub mod plan;
pub mod qemu_access;
pub mod qemu_user;
pub mod spec;
pub(crate) mod truncated_image;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::cli::config::Config;
use common::cli::log;
use common::image::canonical;
use common::libvirt::{Context, Libvirt, is_gone};
use common::xml::Document;
use common::{Error, ErrorKind, Result, shell};
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt::sys;

use crate::pool::item::{PoolItem, PoolState};
use crate::pool::spec::PoolSpec;

/// A storage pool of libvirt.
#[derive(Debug)]
pub struct Pool {
    /// The object of the `virt` crate.
    pub handle: StoragePool,
    /// The name of the pool.
    pub name: String,
    /// The type of the pool: `dir`, `logical`, …
    pub kind: String,
    /// The directory of the volumes; none for a type of pool without a directory.
    pub path: Option<PathBuf>,
    state: PoolState,
    /// The UUID of the pool.
    pub uuid: Option<String>,
    capacity_bytes: Option<u64>,
    allocation_bytes: Option<u64>,
    available_bytes: Option<u64>,
}

impl Pool {
    /// Reads a pool from libvirt's object.
    pub fn read(handle: StoragePool) -> Result<Self> {
        let name = handle.name().context("read the name of a pool")?;
        let state =
            match handle.is_active().context(format_args!("read the state of pool '{name}'"))? {
                true => PoolState::Active,
                false => PoolState::Inactive,
            };
        let text = handle.xml_desc(0).context(format_args!("read pool '{name}'"))?;
        let xml = Document::parse(text)?;
        let root = xml.root();
        let number = |path| match state {
            PoolState::Active => root.text_at(path).and_then(|text| text.parse().ok()),
            PoolState::Inactive => None,
        };
        Ok(Self {
            uuid: root.text_at("uuid"),
            kind: root.attr("type").unwrap_or_default().into_owned(),
            path: root.text_at("target/path").map(PathBuf::from),
            capacity_bytes: number("capacity"),
            allocation_bytes: number("allocation"),
            available_bytes: number("available"),
            state,
            name,
            handle,
        })
    }

    /// The pool with this name, if it exists.
    pub fn by_name(libvirt: &Libvirt, name: &str) -> Result<Option<Self>> {
        match libvirt.connect().lookup_storage_pool_by_name(name) {
            Err(error) if is_gone(&error) => Ok(None),
            found => Self::read(found.context(format_args!("look up pool '{name}'"))?).map(Some),
        }
    }

    /// Whether this is the same pool as `other`, with the same directory.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.uuid == other.uuid && self.path == other.path
    }

    /// Every pool, active or inactive.
    pub fn all(libvirt: &Libvirt) -> Result<Vec<Self>> {
        let pools = libvirt.connect().list_all_storage_pools(0).context("list pools")?;
        let mut all = Vec::with_capacity(pools.len());
        for pool in pools {
            match Self::read(pool) {
                Err(error) if error.kind() == ErrorKind::NotFound => {} // undefined after the listing
                read => all.push(read?),
            }
        }
        Ok(all)
    }

    /// The pool whose directory is `path`.
    ///
    /// libvirt compares paths as text. This function compares the directories themselves if libvirt runs on this host.
    pub fn by_path(libvirt: &Libvirt, path: &Path) -> Result<Option<Self>> {
        let same = |pool: &Self| {
            let Some(other) = &pool.path else {
                return false;
            };
            other == path || (libvirt.is_local() && canonical(other) == canonical(path))
        };
        Ok(Self::all(libvirt)?.into_iter().find(same))
    }

    /// The pool that a verb works on: the named pool, else the default pool, else the pool that has the default
    /// directory (on most hosts, virt-manager's `default`).
    ///
    /// Errors: `not_found` (exit 4).
    pub fn resolve(libvirt: &Libvirt, config: &Config, name: Option<&str>) -> Result<Self> {
        let spec = PoolSpec::new(config, name);
        let found = match Self::by_name(libvirt, &spec.name)? {
            None if name.is_none() => Self::by_path(libvirt, &spec.path)?,
            found => found,
        };
        found.ok_or_else(|| {
            Error::not_found(format!("pool '{}' does not exist", spec.name)).hint(
                "to create the pool, run tdx-pool ensure; to see all pools, run tdx-pool list",
            )
        })
    }

    /// Tells libvirt to read the pool's directory again.
    ///
    /// Errors: `conflict` for an inactive pool.
    pub fn refresh(&self) -> Result<()> {
        self.check_active()?;
        log::detail(format_args!("refresh pool '{}'", self.name));
        let about = format_args!("refresh pool '{}'", self.name);
        for _ in 0..20 {
            match self.handle.refresh(0) {
                // A pool with a running upload or build cannot be refreshed and stays active. Any other failure makes
                // the pool inactive. (The message may be in any language.)
                Err(error)
                    if error.code().to_raw() == sys::VIR_ERR_INTERNAL_ERROR
                        && self.handle.is_active().unwrap_or(false) =>
                {
                    common::cli::interrupt::sleep(Duration::from_millis(50))?;
                }
                done => {
                    let hint =
                        format!("to repair the pool, run: tdx-pool ensure --pool '{}'", self.name);
                    return done.context(about).map(drop).map_err(|error| {
                        truncated_image::explain(
                            error.hint(hint),
                            &self.handle,
                            self.path.as_deref(),
                        )
                    });
                }
            }
        }
        // After the retries, libvirt's view of the pool is used as it is.
        Ok(())
    }

    /// Fails unless the pool is active.
    pub fn check_active(&self) -> Result<()> {
        match self.state {
            PoolState::Active => Ok(()),
            PoolState::Inactive => {
                Err(Error::conflict(format!("pool '{}' is not active", self.name))
                    .hint(format!("tdx-pool ensure --pool {}", shell::quote(&self.name))))
            }
        }
    }

    /// The directory of a pool whose volumes are files.
    ///
    /// Errors: `unsupported` for every other kind of pool.
    pub fn folder(&self) -> Result<&Path> {
        match (&self.path, self.kind.as_str()) {
            (Some(path), "dir" | "fs" | "netfs") => Ok(path),
            _ => Err(Error::unsupported(format!(
                "pool '{}' has type {}, but images and overlays need a pool with a directory",
                self.name, self.kind
            ))
            .hint("to create such a pool, run: tdx-pool ensure --pool NAME --path DIR")),
        }
    }

    /// libvirt's volume with this name, if it exists.
    pub fn volume(&self, name: &str) -> Result<Option<StorageVol>> {
        match self.handle.lookup_storage_vol_by_name(name) {
            Err(error) if is_gone(&error) => Ok(None),
            found => found.context(format_args!("look up volume '{name}'")).map(Some),
        }
    }

    /// Creates the volume `name`, as a copy of another volume if one is given.
    ///
    /// Errors: those of libvirt. If the connection was lost, the volume may exist nevertheless, and is reported as left
    /// behind.
    pub(crate) fn create_volume(
        &self,
        name: &str,
        xml: &str,
        copy_of: Option<&StorageVol>,
        flags: u32,
        doing: impl std::fmt::Display,
    ) -> Result<StorageVol> {
        let made = match copy_of {
            None => StorageVol::create_xml(&self.handle, xml, flags),
            Some(original) => StorageVol::create_xml_from(&self.handle, xml, original, flags),
        };
        let is_alive = || self.handle.connect().and_then(|connect| connect.is_alive());
        made.context(doing).map_err(|error| {
            if is_alive().unwrap_or(false) {
                error
            } else {
                error.left_behind([format!("volume '{name}'")])
            }
        })
    }

    /// The pool as an item of a document.
    pub fn item(&self) -> Result<PoolItem> {
        let about = format_args!("read the state of pool '{}'", self.name);
        let volumes = match self.state {
            PoolState::Active => Some(self.handle.num_of_volumes().context(about)?),
            PoolState::Inactive => None,
        };
        Ok(PoolItem {
            name: self.name.clone(),
            uuid: self.uuid.clone(),
            r#type: self.kind.clone(),
            path: self.path.as_ref().map(|path| path.display().to_string()),
            state: self.state,
            persistent: self.handle.is_persistent().context(about)?,
            autostart: self.handle.autostart().context(about)?,
            capacity_bytes: self.capacity_bytes,
            allocation_bytes: self.allocation_bytes,
            available_bytes: self.available_bytes,
            volumes,
        })
    }

    /// Whether the pool is active.
    pub fn is_active(&self) -> bool {
        self.state == PoolState::Active
    }
}
