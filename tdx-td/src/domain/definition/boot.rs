//! The boot settings of a definition: a kernel of the host, or firmware and its variables.

use std::path::PathBuf;

use crate::domain::definition::parsed::Definition;

impl Definition {
    /// Whether the domain boots a kernel file of the host and not from its disk.
    pub fn boots_kernel(&self) -> bool {
        self.root().find("os/kernel").is_some()
    }

    /// Returns the path of the domain's firmware.
    pub fn loader(&self) -> Option<PathBuf> {
        self.root().text_at("os/loader").filter(|path| path.starts_with('/')).map(PathBuf::from)
    }

    /// Whether the domain boots by UEFI, which stores variables.
    pub fn has_uefi(&self) -> bool {
        let root = self.root();
        root.attr_at("os", "firmware").as_deref() == Some("efi")
            || root.attr_at("os/loader", "type").as_deref() == Some("pflash")
    }

    /// Returns the path of the firmware's variable store.
    pub fn nvram(&self) -> Option<PathBuf> {
        self.root().text_at("os/nvram").filter(|path| path.starts_with('/')).map(PathBuf::from)
    }
}
