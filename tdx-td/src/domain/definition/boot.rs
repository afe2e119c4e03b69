//! What a definition boots: a kernel of the host, or firmware and its variables.

use std::path::PathBuf;

use crate::domain::definition::parsed::Definition;

impl Definition {
    /// Whether it boots a kernel of the host's and not from its disk.
    pub fn boots_kernel(&self) -> bool {
        self.root().find("os/kernel").is_some()
    }

    /// The file of its firmware.
    pub fn loader(&self) -> Option<PathBuf> {
        self.root().text_at("os/loader").filter(|path| path.starts_with('/')).map(PathBuf::from)
    }

    /// Whether it boots by UEFI, which keeps variables.
    pub fn has_uefi(&self) -> bool {
        let root = self.root();
        root.attr_at("os", "firmware").as_deref() == Some("efi")
            || root.attr_at("os/loader", "type").as_deref() == Some("pflash")
    }

    /// The file of its firmware's variables.
    pub fn nvram(&self) -> Option<PathBuf> {
        self.root().text_at("os/nvram").filter(|path| path.starts_with('/')).map(PathBuf::from)
    }
}
