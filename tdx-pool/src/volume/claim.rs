//! The claims of an item about its volume: the UUID of the pool, and the host.

use common::Result;
use common::document::identity::Comparison;
use serde::Deserialize;

use crate::pool::Pool;

/// The claims of an item about a volume, besides the names of the volume and of its pool. They tell the volume from
/// another one with the same names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct VolumeClaim {
    /// The UUID of the volume's pool.
    pub pool_uuid: Option<String>,
    /// The name of the host that the volume is on.
    pub host: Option<String>,
}

impl VolumeClaim {
    /// Compares the claim with a pool, if given, on the host with this name.
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
