//! The flag that names a pool.

use clap::Args;

/// Which pool.
#[derive(Debug, Clone, Args)]
pub struct PoolArgs {
    /// The pool's name [default: tdvirsh-pool, or the pool that owns its folder]
    #[arg(long, value_name = "NAME", value_parser = pool_name)]
    pub pool: Option<String>,
}

impl PoolArgs {
    /// The name that was given, if one was.
    pub fn name(&self) -> Option<&str> {
        self.pool.as_deref()
    }
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
