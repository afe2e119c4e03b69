//! Choosing among the installed firmware builds.

use common::Result;
use common::cli::log;
use common::system::sysroot::Host;

use crate::firmware::choice::{FirmwareChoice, Rules};
use crate::firmware::descriptor::Descriptor;
use crate::firmware::directory::{Descriptors, Scope};
use crate::firmware::query::FirmwareQuery;

/// Predicts the choice of the system's libvirt for a guest with this query and `firmware='efi'`.
///
/// Errors: `permission` or `io` if a directory of descriptors cannot be listed.
pub fn choose(host: &Host, wanted: &FirmwareQuery, rules: &Rules) -> Result<FirmwareChoice> {
    let descriptors = Descriptors::read(host, Scope::System)?;
    for damaged in &descriptors.damaged {
        log::step(format_args!("{damaged}"));
    }
    Ok(FirmwareChoice::new(&descriptors, wanted, rules))
}

/// Whether the files that a descriptor names exist.
pub fn has_files(host: &Host, descriptor: &Descriptor) -> bool {
    let template = descriptor.nvram_template.as_ref();
    let mut files = [Some(&descriptor.executable), template].into_iter().flatten();
    files.all(|file| host.path(&file.path).is_file())
}
