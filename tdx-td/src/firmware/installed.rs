//! Choosing among the firmware builds that are installed.

use common::Result;
use common::cli::log;
use common::system::sysroot::Host;

use crate::firmware::choice::{FirmwareChoice, Rules};
use crate::firmware::descriptor::Descriptor;
use crate::firmware::directory::{Descriptors, Scope};
use crate::firmware::query::FirmwareQuery;

/// What the system's libvirt does, by its rules, for a guest that asks for this with `firmware='efi'`.
///
/// Errors: `permission` or `io` when a directory of descriptors cannot be listed.
pub fn choose(host: &Host, wanted: &FirmwareQuery, rules: &Rules) -> Result<FirmwareChoice> {
    let descriptors = Descriptors::read(host, Scope::System)?;
    for damaged in &descriptors.damaged {
        log::step(format_args!("{damaged}"));
    }
    Ok(FirmwareChoice::new(&descriptors, wanted, rules))
}

/// Whether the files that a descriptor names are there.
pub fn has_files(host: &Host, descriptor: &Descriptor) -> bool {
    let template = descriptor.nvram_template.as_ref();
    let mut files = [Some(&descriptor.executable), template].into_iter().flatten();
    files.all(|file| host.path(&file.path).is_file())
}
