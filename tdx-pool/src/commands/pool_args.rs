//! The option that names a pool.

use clap::Args;

/// The option `--pool`.
#[derive(Debug, Clone, Args)]
pub struct PoolArgs {
    /// Name of the pool [default: tdvirsh-pool; if no such pool exists, a pool with the directory
    /// /var/lib/libvirt/images]
    #[arg(long, value_name = "NAME", value_parser = pool_name)]
    pub pool: Option<String>,
}

impl PoolArgs {
    /// The name that the user gave, if any.
    pub fn name(&self) -> Option<&str> {
        self.pool.as_deref()
    }
}

fn pool_name(name: &str) -> Result<String, &'static str> {
    match name {
        "" => Err("the name of a pool cannot be empty"),
        _ if name.len() > 255 => Err("the name of a pool cannot be longer than 255 bytes"),
        _ if name.contains('/') => Err("the name of a pool cannot contain a slash"),
        _ if name.contains(char::is_control) => {
            Err("the name of a pool cannot contain a control character")
        }
        _ => Ok(name.to_owned()),
    }
}
