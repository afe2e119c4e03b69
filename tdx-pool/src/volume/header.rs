//! Reads the header of a volume, also of a volume that only libvirtd can read.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::cli::log;
use common::libvirt::{Context, Libvirt};
use common::xml::Document;
use common::{Error, ErrorKind, IoContext, Result};
use rustix::fs::{MemfdFlags, memfd_create};
use virt::storage_vol::StorageVol;
use virt::stream::Stream;

use crate::image;
use crate::volume::Volume;

/// How much is downloaded first: enough for the header that QEMU usually writes. Unit: bytes.
const USUAL_LENGTH: usize = 4096;

/// Opens a volume to read its header: the file itself if this process can read it, otherwise a sparse copy in memory
/// with the same start.
///
/// Errors: `not_found`, `io`; those of libvirt.
pub(crate) fn open(libvirt: &Libvirt, volume: &Volume) -> Result<File> {
    if libvirt.is_local() {
        match image::open(&volume.path) {
            Err(error) if error.kind() == ErrorKind::Permission => {}
            opened => return opened,
        }
    }
    download(libvirt, &volume.handle, &volume.path)
}

/// Downloads the header of a volume into a file in memory that is as long as the volume. `path` is only for messages.
///
/// Errors: those of libvirt; `io`.
pub(crate) fn download(libvirt: &Libvirt, volume: &StorageVol, path: &Path) -> Result<File> {
    let doing = format_args!("read the header of {}", path.display());
    log::step(doing);
    let text = volume.xml_desc(0).context(doing)?;
    let physical = Document::parse(text)?.root().text_at("physical");
    let size = physical.and_then(|size| size.parse().ok()).unwrap_or(0);
    let mut start = fetch(libvirt, volume, USUAL_LENGTH, path)?;
    let length = image::header_length(&start);
    if length > start.len() {
        start = fetch(libvirt, volume, length, path)?;
    }
    let memory =
        memfd_create("volume-header", MemfdFlags::CLOEXEC).at("buffer the header of", path)?;
    let memory = File::from(memory);
    memory.set_len(size).at("buffer the header of", path)?;
    memory.write_all_at(&start, 0).at("buffer the header of", path)?;
    Ok(memory)
}

/// The first bytes of a volume; fewer if the volume is shorter.
fn fetch(libvirt: &Libvirt, volume: &StorageVol, length: usize, path: &Path) -> Result<Vec<u8>> {
    let doing = format_args!("read the header of {}", path.display());
    let stream = Stream::new(libvirt.connect(), 0)
        .context("open a libvirt stream for the data of the volume")?;
    volume.download(&stream, 0, length as u64, 0).context(doing)?;
    let mut bytes = vec![0; length];
    let mut filled = 0;
    let received = loop {
        match stream.recv(&mut bytes[filled..]).context(doing) {
            Ok(0) => break Ok(()),
            Ok(count) => filled += usize::try_from(count).unwrap_or(0),
            Err(error) => break Err(error),
        }
        if filled == length {
            break Ok(());
        }
    };
    bytes.truncate(filled);
    match received {
        // Some streams do not end before their end was received.
        Ok(()) => {
            let rest = stream.recv(&mut [0; 1]);
            match rest {
                Ok(0) => stream.finish().context(doing)?,
                _ => stream.abort().context(doing)?,
            }
            Ok(bytes)
        }
        Err(error) => {
            let _ = stream.abort();
            Err(Error::new(error.kind(), format!("cannot {doing}")).because(error))
        }
    }
}
