//! What tells a volume from another one with the same name: the pool's UUID and the host.

use common::Result;
use common::document::identity::Comparison;
use serde::Deserialize;

use crate::pool::Pool;

/// What an item says of a volume beside its name and the name of its pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct VolumeClaim {
    /// UUID of the volume's pool.
    pub pool_uuid: Option<String>,
    /// The host that the volume is on.
    pub host: Option<String>,
}

impl VolumeClaim {
    /// Compares the claim with the pool, if there is one, on the host of this name.
    ///
    /// Errors: `conflict` with code `IDENTITY_CHANGED`.
    pub fn expect(&self, name: &str, pool: Option<&Pool>, host_name: Option<&str>) -> Result<()> {
        let pool_uuid = pool.and_then(|pool| pool.uuid.as_deref());
        Comparison::new(format_args!("volume '{name}'"))
            .host(self.host.as_deref(), host_name)
            .hex("pool_uuid", self.pool_uuid.as_deref(), pool_uuid)
            .finish()
    }
}
