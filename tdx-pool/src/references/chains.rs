//! The files below an image, from its header, and from what libvirt says of it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use common::Result;
use common::cli::interrupt;
use common::image::{Below, FileKey, Images, UnknownReason};
use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use virt::connect::Connect;

use crate::volume::Volume;

/// The files below images: read from their headers; from libvirt for images that cannot be read, and
/// for those of a remote host.
#[derive(Debug)]
pub struct Chains {
    images: Images,
    /// Where libvirt is asked about images that cannot be read.
    connect: Option<Connect>,
    asked: HashSet<PathBuf>,
    /// Whether a signal ends the reading.
    is_interruptible: bool,
}

impl Chains {
    /// Chains as far as they can be seen from this machine.
    pub fn visible(libvirt: &Libvirt) -> Self {
        let (images, connect) = if libvirt.is_local() {
            (Images::new(&Host::new("/")), Some(libvirt.connect().clone()))
        } else {
            (Images::unread(), None)
        };
        Self { images, connect, asked: HashSet::new(), is_interruptible: true }
    }

    /// Reads on when a signal comes in: for work that would be left half done without the answer.
    pub fn uninterruptible(self) -> Self {
        Self { is_interruptible: false, ..self }
    }

    fn check_interrupt(&self) -> Result<()> {
        if self.is_interruptible { interrupt::check() } else { Ok(()) }
    }

    /// Records what libvirt says of a volume, unless libvirt does not know its format either.
    pub(crate) fn describe(&mut self, volume: &Volume) {
        if volume.format.is_some() || volume.backing.is_some() {
            self.images.describe(&volume.path, volume.backing.as_deref());
        }
    }

    /// Records which image libvirt sees below another one.
    pub(crate) fn learn(&mut self, path: &Path, backing: &Path) {
        self.images.describe(path, Some(backing));
    }

    /// The backing files under `path`, the nearest first, as canonical paths. Data files and extents are
    /// not among them: [`Chains::below`] has those.
    ///
    /// Errors: `interrupted`.
    pub fn chain(&mut self, path: &Path) -> Result<Vec<PathBuf>> {
        self.check_interrupt()?;
        Ok(self.images.backing_chain(path))
    }

    /// Every file below `path`: backing files, data files, extents, and what these need.
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
        // What libvirt said may lead to others.
        self.below(path)
    }

    /// The keys of the file at `path`.
    pub(crate) fn keys(&mut self, path: &Path) -> Vec<FileKey> {
        self.images.keys(path)
    }

    /// libvirt's volume at a path, if it lies in a pool that is started.
    fn volume(&self, path: &Path) -> Option<Volume> {
        let handle = self.connect.as_ref()?.lookup_storage_vol_by_path(path.to_str()?).ok()?;
        Volume::read(handle).ok().flatten()
    }
}
