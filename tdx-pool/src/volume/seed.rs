//! A cloud-init seed: a small volume whose content these tools write.

use std::path::{Path, PathBuf};

use common::Result;
use common::cli::interrupt;
use common::libvirt::{Context, Libvirt};
use common::system::sysroot::Host;
use common::xml::Element;
use virt::storage_vol::StorageVol;
use virt::stream::Stream;

use crate::pool::Pool;
use crate::pool::qemu_user::{QemuUser, permissions};
use crate::volume::names::ToolFile;
use crate::volume::new_volume::{NewVolume, ReservedName};

/// The plan of a seed to create.
pub struct SeedPlan {
    name: String,
    /// The path of the new seed.
    pub path: PathBuf,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for SeedPlan {
    /// Leaves out the content, which may contain the hash of a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SeedPlan").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SeedPlan {
    /// Plans a seed in `folder`.
    ///
    /// Errors: `io` when the kernel returns no random bytes for the name.
    pub fn new(folder: &Path, bytes: Vec<u8>) -> Result<Self> {
        let name = ToolFile::Seed.new_name()?;
        Ok(Self { path: folder.join(&name), name, bytes })
    }

    /// Creates the volume and writes its content. The volume counts as in flight until the returned value is dropped.
    ///
    /// From its creation on, only QEMU's user can read the volume.
    pub fn create(
        &self,
        host: &Host,
        libvirt: &Libvirt,
        pool: &Pool,
        owner: Option<QemuUser>,
    ) -> Result<NewVolume> {
        let reserved = ReservedName::lock(host, "seed", &self.name, &self.path)?;
        let handle = reserved.create_volume(libvirt, pool, &self.xml(owner)?, owner, 0)?;
        let volume = reserved.into_volume(handle, None);
        match self.send(libvirt, volume.handle()) {
            Ok(()) => Ok(volume),
            Err(error) => Err(volume.undo_after(libvirt, error)),
        }
    }

    fn send(&self, libvirt: &Libvirt, volume: &StorageVol) -> Result<()> {
        let doing = format_args!("upload seed '{}'", self.name);
        let stream = Stream::new(libvirt.connect(), 0)
            .context("open a libvirt stream for the data of the volume")?;
        volume.upload(&stream, 0, self.bytes.len() as u64, 0).context(doing)?;
        let mut rest = self.bytes.as_slice();
        while !rest.is_empty() {
            let sent = interrupt::check()
                .and_then(|()| stream.send(&rest[..rest.len().min(1 << 18)]).context(doing));
            match sent {
                Ok(sent) => rest = &rest[usize::try_from(sent).unwrap_or(0).min(rest.len())..],
                Err(error) => {
                    let _ = stream.abort();
                    return Err(error);
                }
            }
        }
        stream.finish().context(doing)
    }

    fn xml(&self, owner: Option<QemuUser>) -> Result<String> {
        let permissions = permissions("0600", owner);
        let format = Element::new("format").attr("type", "raw");
        Element::new("volume")
            .child(Element::new("name").text(&self.name))
            .child(Element::new("capacity").attr("unit", "bytes").text(self.bytes.len()))
            .child(Element::new("target").child(format).child(permissions))
            .to_xml()
    }
}
