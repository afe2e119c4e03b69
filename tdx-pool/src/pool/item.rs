//! The item of a pool in documents.

use std::borrow::Cow;

use common::document::metrics::Gauge;
use common::document::{Action, Item};
use common::units::Size;
use schemars::JsonSchema;
use serde::Serialize;

/// The state of a pool in libvirt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolState {
    /// The pool is started, so that its volumes can be used.
    Active,
    /// The pool is defined, but not started.
    Inactive,
}

/// A pool in a document.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PoolItem {
    /// The name of the pool.
    pub name: String,
    /// The UUID of the pool; null in a dry run that would create the pool.
    pub uuid: Option<String>,
    /// The type of the pool, as libvirt names it: `dir`, `fs`, `logical`, …
    pub r#type: String,
    /// The directory of the volumes or of their device nodes; null for a type of pool without a directory.
    pub path: Option<String>,
    /// Whether the pool is active (started) or inactive.
    pub state: PoolState,
    /// Whether the pool is persistent: libvirt keeps its definition when the pool is stopped.
    pub persistent: bool,
    /// Whether libvirt starts the pool when libvirtd starts.
    pub autostart: bool,
    /// The size of the file system or volume group of the pool, in bytes; null while the pool is inactive.
    pub capacity_bytes: Option<u64>,
    /// The used bytes of the file system or volume group, by any files; null while the pool is inactive.
    pub allocation_bytes: Option<u64>,
    /// The free bytes; null while the pool is inactive.
    pub available_bytes: Option<u64>,
    /// The number of volumes in the pool; null while the pool is inactive.
    pub volumes: Option<u32>,
}

impl Item for PoolItem {
    const COLUMNS: &'static [&'static str] =
        &["NAME", "STATE", "AUTOSTART", "CAPACITY", "ALLOCATION", "AVAILABLE", "VOLUMES", "PATH"];
    const DROPPED: &'static [&'static str] = &["AUTOSTART", "VOLUMES", "ALLOCATION", "PATH"];

    fn key(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    fn row(&self) -> Vec<String> {
        let size = |bytes: Option<u64>| bytes.map(|b| Size(b).to_string()).unwrap_or_default();
        let state = match self.state {
            PoolState::Active => "active",
            PoolState::Inactive => "inactive",
        };
        vec![
            self.name.clone(),
            state.to_owned(),
            if self.autostart { "yes" } else { "no" }.to_owned(),
            size(self.capacity_bytes),
            size(self.allocation_bytes),
            size(self.available_bytes),
            self.volumes.map(|n| n.to_string()).unwrap_or_default(),
            self.path.clone().unwrap_or_default(),
        ]
    }

    fn metrics(pools: &[Self]) -> Vec<Gauge> {
        let mut active = Gauge::new("tdx_pool_active", "Whether a pool is started: 1 or 0.");
        let mut capacity =
            Gauge::new("tdx_pool_capacity_bytes", "Size of the file system of a pool.");
        let mut allocation =
            Gauge::new("tdx_pool_allocation_bytes", "Used space of the file system of a pool.");
        let mut available =
            Gauge::new("tdx_pool_available_bytes", "Free space of the file system of a pool.");
        let mut volumes = Gauge::new("tdx_pool_volumes", "Number of volumes in a pool.");
        for pool in pools {
            let name = [("pool", pool.name.as_str())];
            active.set(name, (pool.state == PoolState::Active).into());
            for (gauge, value) in [
                (&mut capacity, pool.capacity_bytes),
                (&mut allocation, pool.allocation_bytes),
                (&mut available, pool.available_bytes),
                (&mut volumes, pool.volumes.map(u64::from)),
            ] {
                if let Some(value) = value {
                    gauge.set(name, value);
                }
            }
        }
        vec![active, capacity, allocation, available, volumes]
    }
}

/// A pool in a document of `tdx-pool ensure`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EnsureItem {
    #[serde(flatten)]
    pool: PoolItem,
    /// `create`, `start` (which includes autostart), `update` (only autostart) or `none`.
    action: Action,
}

impl EnsureItem {
    /// The pool after this action.
    pub(crate) fn new(pool: PoolItem, action: Action) -> Self {
        Self { pool, action }
    }
}

impl Item for EnsureItem {
    const COLUMNS: &'static [&'static str] = PoolItem::COLUMNS;
    const DROPPED: &'static [&'static str] = PoolItem::DROPPED;

    fn key(&self) -> Cow<'_, str> {
        self.pool.key()
    }

    fn row(&self) -> Vec<String> {
        self.pool.row()
    }

    fn action(&self) -> Option<Action> {
        Some(self.action)
    }
}
