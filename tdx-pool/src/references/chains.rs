//! Finds the files that an image needs, from its header and from libvirt's description of it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use common::Result;
use common::cli::interrupt;
use common::image::{Below, FileKey, Images, UnknownReason};
use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use virt::connect::Connect;

use crate::volume::Volume;

/// The files that images need. They are read from the headers of the images. For images that cannot be read, and for
/// images of a remote host, libvirt is asked.
#[derive(Debug)]
pub struct Chains {
    images: Images,
    /// The connection that is used for images that cannot be read.
    connect: Option<Connect>,
    asked: HashSet<PathBuf>,
    /// Whether a signal ends the search.
    is_interruptible: bool,
}

impl Chains {
    /// The image chains that can be seen from this machine.
    pub fn visible(libvirt: &Libvirt) -> Self {
        let (images, connect) = if libvirt.is_local() {
            (Images::new(&Host::new("/")), Some(libvirt.connect().clone()))
        } else {
            (Images::unread(), None)
        };
        Self { images, connect, asked: HashSet::new(), is_interruptible: true }
    }

    /// Continues the search when a signal is received, for work that cannot be finished without the answer.
    pub fn uninterruptible(self) -> Self {
        Self { is_interruptible: false, ..self }
    }

    fn check_interrupt(&self) -> Result<()> {
        if self.is_interruptible { interrupt::check() } else { Ok(()) }
    }

    /// Records libvirt's description of a volume, unless libvirt does not know the format of the volume.
    pub(crate) fn describe(&mut self, volume: &Volume) {
        if volume.format.is_some() || volume.backing.is_some() {
            self.images.describe(&volume.path, volume.backing.as_deref());
        }
    }

    /// Records the backing image that libvirt reports for an image.
    pub(crate) fn learn(&mut self, path: &Path, backing: &Path) {
        self.images.describe(path, Some(backing));
    }

    /// The image chain of `path`: the canonical paths of its backing files, the nearest first. [`Chains::below`] also
    /// returns data files and extents.
    ///
    /// Errors: `interrupted`.
    pub fn chain(&mut self, path: &Path) -> Result<Vec<PathBuf>> {
        self.check_interrupt()?;
        Ok(self.images.backing_chain(path))
    }

    /// Every file that the image at `path` needs: backing files, data files, extents, and the files that these need.
    ///
    /// Errors: `interrupted`.
    pub fn below(&mut self, path: &Path) -> Result<Below> {
        self.check_interrupt()?;
        let below = self.images.below(path);
        let unreadable = below.unknown.iter();
        let unreadable = unreadable
            .filter(|unknown| matches!(unknown.reason, UnknownReason::Unreadable(_)))
            .map(|unknown| unknown.path.clone());
        let new: Vec<PathBuf> = unreadable.filter(|path| !self.asked.contains(path)).collect();
        if new.is_empty() {
            return Ok(below);
        }
        for path in new {
            if let Some(volume) = self.volume(&path) {
                self.describe(&volume);
            }
            self.asked.insert(path);
        }
        // The images that libvirt reported may need further files.
        self.below(path)
    }

    /// The keys of the file at `path`.
    pub(crate) fn keys(&mut self, path: &Path) -> Vec<FileKey> {
        self.images.keys(path)
    }

    /// libvirt's volume at a path, if an active pool contains the path.
    fn volume(&self, path: &Path) -> Option<Volume> {
        let handle = self.connect.as_ref()?.lookup_storage_vol_by_path(path.to_str()?).ok()?;
        Volume::read(handle).ok().flatten()
    }
}
