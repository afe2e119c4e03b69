//! The choice of the libvirt that a command connects to.

/// The libvirt to connect to.
#[derive(Debug, Clone, Default)]
pub struct Target {
    /// The connection URI; none for libvirt's default.
    pub uri: Option<String>,
    /// The name of the host in hosts.yaml, if `--host` chose the connection.
    pub host: Option<String>,
}
