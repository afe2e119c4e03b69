//! Which libvirt a command is about.

/// Which libvirt to connect to.
#[derive(Debug, Clone, Default)]
pub struct Target {
    /// Its URI; libvirt's default without it.
    pub uri: Option<String>,
    /// Its name in hosts.yaml, where it was chosen by that.
    pub host: Option<String>,
}
