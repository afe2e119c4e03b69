//! A domain's own disk without a backing file, which is empty at first.
//!
//! Source: <https://libvirt.org/formatstorage.html>.

use std::path::{Path, PathBuf};

use common::cli::interrupt;
use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use common::xml::Element;
use common::{Error, Result, undo};
use virt::sys;

use crate::image::Format;
use crate::pool::Pool;
use crate::pool::qemu_user::{QemuUser, permissions};
use crate::volume::names::ToolFile;
use crate::volume::new_volume::{NewVolume, ReservedName};
use crate::volume::secret::{NewSecret, Passphrase};

/// The format, size and other properties of a new disk.
#[derive(Debug, Clone)]
pub struct DiskOptions {
    /// The format of the image.
    pub format: Format,
    /// The size of the disk that the guest sees, in bytes.
    pub capacity_bytes: u64,
    /// How much of the disk is allocated when it is created.
    pub allocated: Preallocated,
    /// For qcow2: the size of a cluster in bytes; none for QEMU's default.
    pub cluster_bytes: Option<u64>,
    /// For qcow2: whether updates of reference counts are delayed (lazy refcounts).
    pub lazy_refcounts: bool,
    /// Whether the disk is encrypted, which only qcow2 supports.
    pub encrypted: bool,
}

/// How much of a disk is allocated when it is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preallocated {
    /// Nothing is allocated.
    Off,
    /// The tables of a qcow2 image are allocated.
    Metadata,
    /// The whole disk is allocated, but not written.
    Full,
}

/// The plan of a disk to create.
#[derive(Debug)]
pub struct DiskPlan {
    name: String,
    /// The path of the new disk.
    pub path: PathBuf,
    /// The properties of the disk.
    pub options: DiskOptions,
    /// The UUID of the secret with the passphrase, if the disk is encrypted.
    pub secret: Option<String>,
}

impl DiskPlan {
    /// Plans a disk in `folder`. The passphrase of an encrypted disk will be in the secret with this UUID.
    ///
    /// Errors: `io` when the kernel returns no random bytes for the name.
    pub fn new(folder: &Path, shape: DiskOptions, secret: &str) -> Result<Self> {
        let name = ToolFile::Disk.new_name()?;
        let name = match shape.format {
            Format::Qcow2 => name,
            Format::Raw => name.replace(".qcow2", ".raw"),
        };
        let secret = shape.encrypted.then(|| secret.to_owned());
        Ok(Self { path: folder.join(&name), name, options: shape, secret })
    }

    /// Creates the disk, and its secret if the disk is encrypted. The disk counts as in flight until the returned value
    /// is dropped.
    ///
    /// Errors: those of libvirt.
    pub fn create(
        &self,
        host: &Host,
        libvirt: &Libvirt,
        pool: &Pool,
        owner: Option<QemuUser>,
        passphrase: Option<&Passphrase>,
    ) -> Result<NewVolume> {
        let reserved = ReservedName::lock(host, "disk", &self.name, &self.path)?;
        let secret = match (&self.secret, passphrase) {
            (Some(uuid), Some(pass)) => Some(NewSecret::create(libvirt, uuid, &self.path, pass)?),
            _ => None,
        };
        undo::on_failure(|undo| {
            if let Some(secret) = secret.clone() {
                undo.push_with(|error| secret.undo_after(error));
            }
            let xml = self.xml(owner)?;
            let mut tries = if secret.is_some() { TRIES } else { 1 };
            let handle = loop {
                tries -= 1;
                match reserved.create_volume(libvirt, pool, &xml, owner, self.flags()) {
                    Err(error) if tries > 0 && is_mismeasured(&error) => interrupt::check()?,
                    created => break created?,
                }
            };
            Ok(reserved.into_volume(handle, secret))
        })
    }

    /// The flags for libvirt, `virStorageVolCreateFlags`.
    fn flags(&self) -> u32 {
        match (self.options.format, self.options.allocated) {
            (Format::Raw, _) | (_, Preallocated::Off) => 0,
            (Format::Qcow2, Preallocated::Metadata | Preallocated::Full) => {
                sys::VIR_STORAGE_VOL_CREATE_PREALLOC_METADATA
            }
        }
    }

    fn xml(&self, owner: Option<QemuUser>) -> Result<String> {
        let DiskOptions { format, capacity_bytes, allocated, .. } = self.options;
        let bytes = |name: &str, bytes: u64| Element::new(name).attr("unit", "bytes").text(bytes);
        let allocation = if allocated == Preallocated::Full { capacity_bytes } else { 0 };
        let mut target = Element::new("target")
            .child(Element::new("format").attr("type", format.as_str()))
            .child(permissions("0600", owner));
        if format == Format::Qcow2 {
            let lazy = Element::new("features").child(Element::new("lazy_refcounts"));
            target = target
                .child(Element::new("compat").text("1.1"))
                .child_opt(self.options.cluster_bytes.map(|size| bytes("clusterSize", size)))
                .child_opt(self.options.lazy_refcounts.then_some(lazy));
        }
        Element::new("volume")
            .child(Element::new("name").text(&self.name))
            .child(bytes("capacity", capacity_bytes))
            .child(bytes("allocation", allocation))
            .child(target.child_opt(self.secret.as_deref().map(encryption)))
            .to_xml()
    }
}

/// How often the creation of an encrypted disk is attempted.
const TRIES: usize = 12;

/// Whether qemu-img failed because it could not measure how fast this processor derives keys. On kernels that count the
/// time of a thread in ticks, the first measurement is often zero.
fn is_mismeasured(error: &Error) -> bool {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    cause.is_some_and(|cause| cause.contains("Unable to get accurate CPU usage"))
}

/// The `<encryption>` element for LUKS, with the passphrase in the secret with this UUID. Volumes and disks of domains
/// have the same element.
///
/// Source: <https://libvirt.org/formatstorageencryption.html>.
pub fn encryption(secret: &str) -> Element {
    Element::new("encryption")
        .attr("format", "luks")
        .child(Element::new("secret").attr("type", "passphrase").attr("uuid", secret))
}
