//! Choosing among the firmware builds that are installed.

use common::Result;
use common::cli::log;
use common::system::sysroot::Host;

use crate::firmware::choice::{Choice, Rules};
use crate::firmware::descriptor::Descriptor;
use crate::firmware::directory::{Descriptors, Scope};
use crate::firmware::selection::Wanted;

/// What the system's libvirt does, by its rules, for a guest that asks for this with `firmware='efi'`.
///
/// Errors: `permission` or `io` when a directory of descriptors cannot be listed.
pub fn choose(host: &Host, wanted: &Wanted, rules: &Rules) -> Result<Choice> {
    let descriptors = Descriptors::read(host, Scope::System)?;
    for damaged in &descriptors.damaged {
        log::step(format_args!("{damaged}"));
    }
    Ok(Choice::new(&descriptors, wanted, rules))
}

/// Whether the files that a descriptor names are there.
pub fn is_usable(host: &Host, descriptor: &Descriptor) -> bool {
    let template = descriptor.nvram_template.as_ref();
    let mut files = [Some(&descriptor.executable), template].into_iter().flatten();
    files.all(|file| host.path(&file.path).is_file())
}
