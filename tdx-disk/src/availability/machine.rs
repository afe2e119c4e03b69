//! The facts of the machine that are read once for checks of any number of disks.

use common::Result;
use common::image::Images;
use common::libvirt::Libvirt;
use common::system::sysroot::Host;

use crate::availability::disk_use::DiskUse;
use crate::availability::guests;
use crate::availability::judge;
use crate::availability::judge::{Judgement, Observer, Question};
use crate::availability::mounts::{Mounts, Scope};
use crate::block::devices::BlockDevices;
use crate::block::disk::Disk;
use crate::block::named_device;

/// The block devices, mounts and domains of the machine, read once for any number of disks.
#[derive(Debug)]
pub struct Machine {
    blocks: BlockDevices,
    mounts: Mounts,
    disk_use: Option<DiskUse>,
}

impl Machine {
    /// Reads the machine. Without libvirt, the disks of domains are unknown.
    ///
    /// Errors: those of libvirt.
    pub fn read(host: &Host, libvirt: Option<&Libvirt>) -> Result<Self> {
        let blocks = BlockDevices::read(host)?;
        let mounts = Mounts::read(host, Scope::Every)?;
        let disk_use = match libvirt {
            None => None,
            Some(libvirt) => {
                let guests = guests::all(libvirt)?;
                let (connect, images) = (Some(libvirt.connect()), Images::new(host));
                Some(DiskUse::new(host, &blocks, &guests, connect, images)?)
            }
        };
        Ok(Self { blocks, mounts, disk_use })
    }

    /// The disk with this name, and its complete check.
    ///
    /// Errors: those of [`named_device::find`] and [`judge::judge`].
    pub fn judge(
        &self,
        host: &Host,
        name: &str,
        question: Question<'_>,
    ) -> Result<(Disk, Judgement)> {
        let block = named_device::find(host, &self.blocks, name)?;
        let disk = Disk::read(host, &self.blocks, block);
        let (blocks, mounts, disk_use) = (&self.blocks, &self.mounts, self.disk_use.as_ref());
        let observer = Observer { host, blocks, mounts, disk_use };
        let judgement = judge::judge(&observer, &disk, question)?;
        Ok((disk, judgement))
    }
}
