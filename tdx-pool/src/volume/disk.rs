//! A domain's own disk that stands on nothing, empty at first.
//!
//! Source: <https://libvirt.org/formatstorage.html>.

use std::path::{Path, PathBuf};

use common::cli::{interrupt, log};
use common::libvirt::Libvirt;
use common::system::sysroot::Host;
use common::xml::Element;
use common::{Error, Result};
use virt::sys;

use crate::image::Format;
use crate::pool::Pool;
use crate::pool::qemu_user::{QemuUser, permissions};
use crate::references::inflight::InFlight;
use crate::volume::names::ToolFile;
use crate::volume::overlay::NewVolume;
use crate::volume::secret::{NewSecret, Passphrase};

/// What a disk is to be like.
#[derive(Debug, Clone)]
pub struct DiskOptions {
    /// Its format.
    pub format: Format,
    /// Size the guest sees, bytes.
    pub capacity_bytes: u64,
    /// What is allocated beforehand.
    pub allocated: Preallocated,
    /// qcow2: size of a cluster, bytes; QEMU's choice without it.
    pub cluster_bytes: Option<u64>,
    /// qcow2: whether reference counts are written late.
    pub lazy_refcounts: bool,
    /// Whether it is encrypted; only qcow2 can be.
    pub encrypted: bool,
}

/// What of a disk is allocated beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preallocated {
    /// Nothing.
    Off,
    /// qcow2: the tables.
    Metadata,
    /// Full, unwritten.
    Full,
}

/// A disk that is to be made.
#[derive(Debug)]
pub struct DiskPlan {
    name: String,
    /// Where it will be.
    pub path: PathBuf,
    /// What it is to be like.
    pub shape: DiskOptions,
    /// UUID of the secret with its passphrase, when it is encrypted.
    pub secret: Option<String>,
}

impl DiskPlan {
    /// Plans a disk in `folder`. An encrypted one's passphrase will be the secret of this UUID.
    ///
    /// Errors: `io` when the kernel gives no random bytes for its name.
    pub fn new(folder: &Path, shape: DiskOptions, secret: &str) -> Result<Self> {
        let name = ToolFile::Disk.new_name()?;
        let name = match shape.format {
            Format::Qcow2 => name,
            Format::Raw => name.replace(".qcow2", ".raw"),
        };
        let secret = shape.encrypted.then(|| secret.to_owned());
        Ok(Self { path: folder.join(&name), name, shape, secret })
    }

    /// Makes the disk, with its secret if it is encrypted. It counts as in flight until the returned
    /// value is dropped.
    ///
    /// Errors: what libvirt says.
    pub fn create(
        &self,
        host: &Host,
        libvirt: &Libvirt,
        pool: &Pool,
        owner: Option<QemuUser>,
        passphrase: Option<&Passphrase>,
    ) -> Result<NewVolume> {
        let in_flight = InFlight::begin(host, &self.name)?;
        let secret = match (&self.secret, passphrase) {
            (Some(uuid), Some(pass)) => Some(NewSecret::create(libvirt, uuid, &self.path, pass)?),
            _ => None,
        };
        log::step(format_args!("create disk {}", self.path.display()));
        let doing = format_args!("create disk '{}'", self.name);
        let flags = match self.shape.allocated {
            Preallocated::Off => 0,
            Preallocated::Metadata | Preallocated::Full => {
                sys::VIR_STORAGE_VOL_CREATE_PREALLOC_METADATA
            }
        };
        let flags = if self.shape.format == Format::Raw { 0 } else { flags };
        let made = self.xml(owner).and_then(|xml| {
            let mut tries = if secret.is_some() { TRIES } else { 1 };
            loop {
                tries -= 1;
                match pool.create_volume(&self.name, &xml, None, flags, doing) {
                    Err(error) if tries > 0 && is_mismeasured(&error) => interrupt::check()?,
                    made => return made,
                }
            }
        });
        match made {
            Ok(handle) => {
                Ok(NewVolume::new(handle, self.path.clone(), in_flight).with_secret(secret))
            }
            Err(error) => Err(match secret {
                Some(secret) => secret.undo_after(error),
                None => error,
            }),
        }
    }

    fn xml(&self, owner: Option<QemuUser>) -> Result<String> {
        let DiskOptions { format, capacity_bytes, allocated, .. } = self.shape;
        let bytes = |name: &str, bytes: u64| Element::new(name).attr("unit", "bytes").text(bytes);
        let allocation = if allocated == Preallocated::Full { capacity_bytes } else { 0 };
        let mut target = Element::new("target")
            .child(Element::new("format").attr("type", format.as_str()))
            .child(permissions("0600", owner));
        if format == Format::Qcow2 {
            let lazy = Element::new("features").child(Element::new("lazy_refcounts"));
            target = target
                .child(Element::new("compat").text("1.1"))
                .child_opt(self.shape.cluster_bytes.map(|size| bytes("clusterSize", size)))
                .child_opt(self.shape.lazy_refcounts.then_some(lazy));
        }
        Element::new("volume")
            .child(Element::new("name").text(&self.name))
            .child(bytes("capacity", capacity_bytes))
            .child(bytes("allocation", allocation))
            .child(target.child_opt(self.secret.as_deref().map(encryption)))
            .to_xml()
    }
}

/// How often an encrypted disk is tried.
const TRIES: usize = 12;

/// Whether qemu-img gave up because it could not tell how fast this processor makes keys: where a
/// thread's time is counted in ticks, the first measurement is often nothing.
fn is_mismeasured(error: &Error) -> bool {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    cause.is_some_and(|cause| cause.contains("Unable to get accurate CPU usage"))
}

/// LUKS, with the passphrase in the secret of this UUID: in a volume, and in a domain's disk.
///
/// Source: <https://libvirt.org/formatstorageencryption.html>.
pub fn encryption(secret: &str) -> Element {
    Element::new("encryption")
        .attr("format", "luks")
        .child(Element::new("secret").attr("type", "passphrase").attr("uuid", secret))
}
