//! The choice of the pool that a command works on: its name and its directory.

use std::path::PathBuf;

use common::cli::config::Config;

/// The name of the pool, if neither an option nor the configuration names one.
pub const DEFAULT_NAME: &str = "tdvirsh-pool";

/// The directory of the pool, if neither an option nor the configuration names one.
pub const DEFAULT_PATH: &str = "/var/lib/libvirt/images";

/// The pool that options and configuration choose.
#[derive(Debug)]
pub struct PoolSpec {
    /// The name of the pool.
    pub name: String,
    /// The directory of the pool, if the pool has to be created.
    pub path: PathBuf,
}

impl PoolSpec {
    /// The pool with the given name, else the configured pool, else the default pool.
    pub fn new(config: &Config, name: Option<&str>) -> Self {
        let name = name.or(config.pool.as_deref());
        Self {
            name: name.unwrap_or(DEFAULT_NAME).to_owned(),
            path: config.pool_path.clone().unwrap_or_else(|| DEFAULT_PATH.into()),
        }
    }
}
