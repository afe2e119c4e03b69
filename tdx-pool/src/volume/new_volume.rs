//! Creates a volume under a name that these tools choose, and deletes the volume again on failure.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

use common::cli::log;
use common::libvirt::{Libvirt, is_gone};
use common::system::sysroot::Host;
use common::{Error, Result};
use virt::storage_vol::StorageVol;

use crate::pool::Pool;
use crate::pool::qemu_user::QemuUser;
use crate::references::dependents;
use crate::references::inflight::InFlight;
use crate::volume::secret::NewSecret;

/// The name of a volume that is about to be created. The name is locked until this value is dropped.
#[derive(Debug)]
pub(crate) struct ReservedName<'a> {
    /// The kind of volume, for messages: an overlay, a disk or a seed.
    kind: &'static str,
    name: &'a str,
    path: &'a Path,
    in_flight: InFlight,
}

impl<'a> ReservedName<'a> {
    /// Locks the name of a volume.
    ///
    /// Errors: those of [`InFlight::begin`].
    pub(crate) fn lock(
        host: &Host,
        kind: &'static str,
        name: &'a str,
        path: &'a Path,
    ) -> Result<Self> {
        Ok(Self { kind, name, path, in_flight: InFlight::begin(host, name)? })
    }

    /// Creates the volume for `owner`. The flags are libvirt's, of `virStorageVolCreateXML`.
    ///
    /// Errors: those of libvirt.
    pub(crate) fn create_volume(
        &self,
        libvirt: &Libvirt,
        pool: &Pool,
        xml: &str,
        owner: Option<QemuUser>,
        flags: u32,
    ) -> Result<StorageVol> {
        log::step(format_args!("create {} {}", self.kind, self.path.display()));
        let doing = format_args!("create {} '{}'", self.kind, self.name);
        let volume = pool.create_volume(self.name, xml, None, flags, doing)?;
        if let (Some(owner), true) = (owner, libvirt.is_local()) {
            self.give_to(owner);
        }
        Ok(volume)
    }

    /// Sets the owner of the file that libvirt created, where libvirt did not.
    ///
    /// While libvirt creates a file, a client that reads the volume's XML replaces the wanted owner by the present one.
    /// Source: libvirt, `storageVolCreateXML()`: `buildvoldef` shares `target.perms` with the volume that clients see.
    /// Only root can change the owner. For anyone else libvirt does so when it starts a guest with the volume.
    fn give_to(&self, owner: QemuUser) {
        let is_another = |file: Metadata| (file.uid(), file.gid()) != (owner.uid, owner.gid);
        if self.path.symlink_metadata().is_ok_and(is_another) {
            let _ = lchown(self.path, Some(owner.uid), Some(owner.gid));
        }
    }

    /// The volume that was created, with the lock.
    pub(crate) fn into_volume(self, handle: StorageVol, secret: Option<NewSecret>) -> NewVolume {
        NewVolume { handle, path: self.path.to_owned(), secret, _in_flight: self.in_flight }
    }
}

/// A new volume that nothing refers to yet. The volume counts as in flight until this value is dropped.
#[derive(Debug)]
pub struct NewVolume {
    handle: StorageVol,
    path: PathBuf,
    secret: Option<NewSecret>,
    _in_flight: InFlight,
}

impl NewVolume {
    pub(crate) fn handle(&self) -> &StorageVol {
        &self.handle
    }

    /// The path of the volume.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Deletes the volume because of `error`, unless a domain or an image needs the volume now. A volume that is kept
    /// is reported in the error.
    pub fn undo_after(self, libvirt: &Libvirt, error: Error) -> Error {
        let is_free = dependents::users(libvirt, &self.path).is_ok_and(|users| users.is_empty());
        let is_deleted = is_free
            && match self.handle.delete(0) {
                Err(error) => is_gone(&error), // deleted by another command
                Ok(()) => true,
            };
        match (is_deleted, self.secret) {
            (true, None) => error,
            (true, Some(secret)) => secret.undo_after(error),
            // The secret of a volume that is kept must be kept as well, or the volume could not be read.
            (false, _) => error.left_behind([self.path.display().to_string()]),
        }
    }
}
