//! The firmware loaders that libvirt offers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use common::{Result, xml};

use crate::firmware::choice::{FirmwareChoice, Rules};
use crate::firmware::descriptor::Descriptor;
use crate::firmware::directory::Descriptors;
use crate::firmware::installed::choose;
use crate::firmware::query::FirmwareQuery;

/// The loaders that libvirt offers, read once for each architecture and machine type.
#[derive(Debug)]
pub struct Loaders {
    libvirt: Libvirt,
    asked: BTreeMap<(String, Option<String>), Vec<PathBuf>>,
}

impl Loaders {
    /// Creates an empty cache; libvirt is not asked yet.
    pub fn new(libvirt: Libvirt) -> Self {
        Self { libvirt, asked: BTreeMap::new() }
    }

    /// Predicts the choice of this libvirt. `all` are the descriptors of the machine and of the user.
    pub fn choose(
        &self,
        host: &Host,
        all: &Descriptors,
        wanted: &FirmwareQuery,
    ) -> Result<FirmwareChoice> {
        let rules = Rules::ask(&self.libvirt, wanted);
        // Only a libvirtd that runs as the user reads the user's directory.
        if self.libvirt.uri().contains(":///session") {
            return Ok(FirmwareChoice::new(all, wanted, &rules));
        }
        choose(host, wanted, &rules)
    }

    /// Whether libvirt offers the build as a loader for a machine of the query.
    pub fn is_offered(&mut self, descriptor: &Descriptor, wanted: &FirmwareQuery) -> bool {
        descriptor
            .targets
            .iter()
            .filter(|target| wanted.architecture.as_ref().is_none_or(|a| *a == target.architecture))
            .flat_map(|target| target.machines.iter().map(move |machine| (target, machine)))
            .any(|(target, pattern)| {
                let machine = wanted.machine.clone().or_else(|| machine_of(pattern));
                let loaders = self.loaders_for(&target.architecture, machine);
                loaders.contains(&descriptor.executable.path)
            })
    }

    /// Returns the loaders for a machine type; none if libvirt has no emulator for it.
    ///
    /// Source: <https://libvirt.org/formatdomaincaps.html#bios-bootloader>.
    pub fn loaders_for(&mut self, architecture: &str, machine: Option<String>) -> &[PathBuf] {
        let connect = self.libvirt.connect();
        self.asked.entry((architecture.to_owned(), machine)).or_insert_with_key(|key| {
            let machine = key.1.as_deref();
            let text = connect.domain_capabilities(None, Some(&key.0), machine, None, 0);
            let capabilities = text.ok().and_then(|text| xml::Document::parse(text).ok());
            let values = capabilities.as_ref().map(|document| {
                let values = document.root().find_all("os/loader/value");
                values.map(|value| value.text().into()).collect()
            });
            values.unwrap_or_default()
        })
    }
}

/// Returns a machine type that matches a pattern, to ask libvirt about; `None` for the default machine type.
fn machine_of(pattern: &str) -> Option<String> {
    let machine = match pattern {
        "pc-q35-*" => "q35",
        "pc-i440fx-*" => "pc",
        "virt-*" => "virt",
        other if other.contains(['*', '?']) => return None,
        other => other,
    };
    Some(machine.to_owned())
}
