//! Checks whether an image may replace the volume that has its name.

use common::image::keys;
use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use common::{Error, Result};

use crate::import::request::ImportRequest;
use crate::pool::Pool;
use crate::references::dependents::{Dependents, may_need};
use crate::references::open_files::HeldFiles;

impl ImportRequest {
    /// Fails unless the volume that has the name may be replaced. Called again right before the volume is replaced,
    /// because an overlay of the volume may have been created during the copy.
    ///
    /// Errors: `conflict` when something needs the volume or has it open; those of libvirt.
    pub(crate) fn check_replace(&self, libvirt: &Libvirt, pool: Option<&Pool>) -> Result<()> {
        let (name, source) = (&self.name, self.source.path.display());
        let differs = format!("volume '{name}' exists and differs from {source}");
        if !self.options.replace {
            return Err(Error::conflict(differs)
                .hint("choose another name with --name, or replace it with --replace"));
        }
        let Some(pool) = pool.filter(|pool| pool.is_active()) else {
            return Ok(());
        };
        let (needs, target) = (Dependents::take(libvirt, pool)?, self.target());
        let users = needs.users_of(&target);
        let another = "import the image under another name with --name";
        if !users.is_empty() {
            let users = users.join(", ");
            return Err(
                Error::conflict(format!("{differs}, and is needed by {users}")).hint(another)
            );
        }
        if HeldFiles::visible(&Host::new("/"))?.contains(&keys(&target).collect::<Vec<_>>()) {
            let message = format!("{differs}, and a process has it open or locked");
            return Err(Error::conflict(message).hint(another));
        }
        match needs.unknown(&target) {
            Some(unknown) => Err(may_need(format!("{differs}, and may be needed"), unknown)),
            None => Ok(()),
        }
    }
}
