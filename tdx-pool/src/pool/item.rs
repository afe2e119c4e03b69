//! A pool in documents.

use std::borrow::Cow;

use common::document::metrics::Gauge;
use common::document::{Action, Item};
use common::units::Size;
use schemars::JsonSchema;
use serde::Serialize;

/// Whether libvirt has a pool started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolState {
    /// Started: its volumes can be used.
    Active,
    /// Defined, not started.
    Inactive,
}

/// A pool in a document.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PoolItem {
    /// Name.
    pub name: String,
    /// UUID; null in a dry run that would make the pool.
    pub uuid: Option<String>,
    /// Kind of pool, in libvirt's words: `dir`, `fs`, `logical`, …
    pub r#type: String,
    /// The folder or device folder of its volumes; null for kinds that have none.
    pub path: Option<String>,
    /// Whether it is started.
    pub state: PoolState,
    /// Whether it survives being stopped.
    pub persistent: bool,
    /// Whether libvirt starts it on its own.
    pub autostart: bool,
    /// Size of what holds it, bytes; null while inactive.
    pub capacity_bytes: Option<u64>,
    /// Bytes taken, by whatever; null while inactive.
    pub allocation_bytes: Option<u64>,
    /// Bytes left; null while inactive.
    pub available_bytes: Option<u64>,
    /// How many volumes libvirt sees in it; null while inactive.
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
        let mut capacity = Gauge::new("tdx_pool_capacity_bytes", "Size of what holds a pool.");
        let mut allocation =
            Gauge::new("tdx_pool_allocation_bytes", "What is taken there, by whatever.");
        let mut available = Gauge::new("tdx_pool_available_bytes", "What is left there.");
        let mut volumes = Gauge::new("tdx_pool_volumes", "Volumes in a pool.");
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

/// A pool and what was done to it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EnsureItem {
    #[serde(flatten)]
    pool: PoolItem,
    /// `create`, `start` (autostart included), `update` (autostart alone) or `none`.
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
