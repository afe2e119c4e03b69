//! Which pool a command works on: its name and its directory.

use std::path::PathBuf;

use common::cli::config::Config;

/// The pool's name where neither a flag nor the configuration names one.
pub const DEFAULT_NAME: &str = "tdvirsh-pool";

/// The pool's directory where neither a flag nor the configuration names one.
pub const DEFAULT_PATH: &str = "/var/lib/libvirt/images";

/// The pool that flags and configuration ask for.
#[derive(Debug)]
pub struct PoolSpec {
    /// The pool's name.
    pub name: String,
    /// The directory of the pool, if the pool has to be made.
    pub path: PathBuf,
}

impl PoolSpec {
    /// The pool of this name, else the one that the configuration names, else the default one.
    pub fn new(config: &Config, name: Option<&str>) -> Self {
        let name = name.or(config.pool.as_deref());
        Self {
            name: name.unwrap_or(DEFAULT_NAME).to_owned(),
            path: config.pool_path.clone().unwrap_or_else(|| DEFAULT_PATH.into()),
        }
    }
}
