//! The pool that is asked for.

use std::path::PathBuf;

use clap::Args;
use common::cli::config::Config;

/// The pool's name when nothing else is said; the name the scripts before us used.
pub const DEFAULT_NAME: &str = "tdvirsh-pool";

/// The pool's folder when nothing else is said.
pub const DEFAULT_PATH: &str = "/var/lib/libvirt/images";

/// Which pool.
#[derive(Debug, Clone, Args)]
pub struct PoolArgs {
    /// The pool's name [default: tdvirsh-pool, or the pool that owns its folder]
    #[arg(long, value_name = "NAME", value_parser = pool_name)]
    pub pool: Option<String>,
}

fn pool_name(name: &str) -> Result<String, &'static str> {
    match name {
        "" => Err("a pool has a name"),
        _ if name.len() > 255 => Err("a pool's name has at most 255 bytes"),
        _ if name.contains('/') => Err("a pool's name holds no slash"),
        _ if name.contains(char::is_control) => Err("a pool's name holds no control character"),
        _ => Ok(name.to_owned()),
    }
}

/// The pool that flags and configuration ask for.
#[derive(Debug)]
pub struct PoolSpec {
    /// Its name.
    pub name: String,
    /// Its folder, if it has to be made.
    pub path: PathBuf,
}

impl PoolSpec {
    /// Flag over configuration over default.
    pub fn new(config: &Config, args: &PoolArgs) -> Self {
        let name = args.pool.as_ref().or(config.pool.as_ref());
        Self {
            name: name.map_or_else(|| DEFAULT_NAME.to_owned(), Clone::clone),
            path: config.pool_path.clone().unwrap_or_else(|| DEFAULT_PATH.into()),
        }
    }
}
